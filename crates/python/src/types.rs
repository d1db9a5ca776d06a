//! Which type of Python object lies in a block. Never a guess: a wrong name is worse than none.

mod noted;

use std::collections::HashSet;

use leaktight::{Block, Family};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyType};

use crate::alone::is_free_threaded;
use noted::Noted;

/// All types that are alive, and with them the objects.
pub(crate) enum KnownTypes {
    /// The addresses of the types. Blocks are looked at when they are asked for, since nobody frees an object meanwhile.
    Addresses(HashSet<usize>),
    /// Without a GIL: what the blocks were when nobody else ran.
    Noted(Noted),
}

/// An object inside a block.
struct Object {
    /// Where the object starts.
    address: usize,
    /// Whether the collector looks after its type.
    is_collected: bool,
    type_address: usize,
}

/// Flags of `PyTypeObject.tp_flags` (Include/object.h, and Include/cpython/object.h for the two that
/// put words before the collector's head, from 3.11 and 3.12 on).
const HAVE_GC: usize = 1 << 14;
const MANAGED_DICT: usize = 1 << 4;
const MANAGED_WEAKREF: usize = 1 << 3;

const GC_HEAD: usize = 16;
const PRE_HEADER: usize = 16;
const OBJECT_HEAD: usize = 16;

impl KnownTypes {
    pub(crate) fn find(py: Python<'_>) -> PyResult<KnownTypes> {
        let types = all(py)?;
        Ok(match is_free_threaded(py) {
            true => KnownTypes::Noted(Noted::of(py, &types)?),
            false => KnownTypes::Addresses(types.iter().map(|class| class.as_ptr() as usize).collect()),
        })
    }

    /// Where the links of the collector's list lie, for an object of a type that it looks after, and that has a list.
    pub(crate) fn links(&self, py: Python<'_>, block: &Block) -> Option<usize> {
        let object = self.object(py, block)?;
        object.is_collected.then(|| object.address - GC_HEAD)
    }

    /// Whether the collector looks after the object in a block.
    pub(crate) fn is_collected(&self, py: Python<'_>, block: &Block) -> bool {
        match self {
            KnownTypes::Noted(noted) => noted.get(block).is_some_and(|object| object.is_collected),
            KnownTypes::Addresses(_) => self.object(py, block).is_some_and(|object| object.is_collected),
        }
    }

    /// Bytes between the start of the block and the object, whose reference count comes first.
    pub(crate) fn count_at(&self, py: Python<'_>, block: &Block) -> Option<usize> {
        Some(self.object(py, block)?.address - block.address)
    }

    /// The name of an object's type: bare for builtins, else with its module.
    pub(crate) fn name(&self, py: Python<'_>, block: &Block) -> Option<String> {
        if let KnownTypes::Noted(noted) = self {
            return noted.name(block);
        }
        let object = self.object(py, block)?;
        // SAFETY: the address of a live type, see `object`.
        let class = unsafe { Bound::from_borrowed_ptr(py, object.type_address as *mut ffi::PyObject) };
        name(&class.cast_into::<PyType>().ok()?)
    }

    /// The object itself.
    pub(crate) fn take<'py>(&self, py: Python<'py>, block: &Block) -> Option<Bound<'py, PyAny>> {
        if let KnownTypes::Noted(noted) = self {
            return noted.take(py, block);
        }
        let object = self.object(py, block)?;
        // SAFETY: a live object, see `object`.
        Some(unsafe { Bound::from_borrowed_ptr(py, object.address as *mut ffi::PyObject) })
    }

    /// The object in a live block of the object allocator: the word where its type must be holds a
    /// known type, its flags demand just that place, and its reference count is sound.
    fn object(&self, py: Python<'_>, block: &Block) -> Option<Object> {
        let KnownTypes::Addresses(addresses) = self else {
            return None;
        };
        if block.family != Family::PyObject {
            return None;
        }
        [0, GC_HEAD, GC_HEAD + PRE_HEADER, PRE_HEADER]
            .into_iter()
            .find_map(|offset| {
                if block.size < offset + OBJECT_HEAD || !block.address.is_multiple_of(16) {
                    return None;
                }
                let address = block.address + offset;
                let (count, type_address) = read_head(address);
                if !(1..=0xffff_ffff).contains(&count) || !addresses.contains(&type_address) {
                    return None;
                }
                // SAFETY: a live type, and the GIL is held.
                let flags = unsafe { ffi::PyType_GetFlags(type_address as *mut ffi::PyTypeObject) } as usize;
                (offset == head_size(py, flags)).then_some(Object {
                    address,
                    is_collected: flags & HAVE_GC != 0,
                    type_address,
                })
            })
    }
}

/// Every type, found from `object` by way of `__subclasses__`.
fn all(py: Python<'_>) -> PyResult<Vec<Bound<'_, PyAny>>> {
    let subclasses = py.get_type::<PyType>().getattr("__subclasses__")?;
    let mut types = vec![py.get_type::<PyAny>().into_any()];
    let mut addresses = HashSet::from([types[0].as_ptr() as usize]);
    let mut done = 0;
    while let Some(base) = types.get(done) {
        done += 1;
        for class in subclasses.call1((base,))?.cast_into::<PyList>()? {
            if addresses.insert(class.as_ptr() as usize) {
                types.push(class);
            }
        }
    }
    Ok(types)
}

fn name(class: &Bound<'_, PyType>) -> Option<String> {
    let name = class.qualname().ok()?.to_string();
    match class.module().ok()?.to_string().as_str() {
        "builtins" => Some(name),
        module => Some(format!("{module}.{name}")),
    }
}

/// Whether memory of dead objects of this type may be handed on to new ones without the allocator being asked. CPython
/// 3.9 to 3.15 has free lists of these, not all in each version (Objects/*object.c, Python/context.c, and
/// Include/internal/pycore_freelist.h from 3.12 on). Cython has one for each type of closure.
pub(crate) fn has_free_list(py: Python<'_>, type_name: &str) -> bool {
    const BUILTIN: [&str; 8] = [
        "list",
        "tuple",
        "dict",
        "float",
        "slice",
        "frame",
        "async_generator_asend",
        "async_generator_wrapped_value",
    ];
    const FROM_3_14: [&str; 8] = [
        "int",
        "complex",
        "range",
        "range_iterator",
        "list_iterator",
        "tuple_iterator",
        "builtin_function_or_method",
        "method",
    ];
    BUILTIN.contains(&type_name)
        || py.version_info() >= (3, 14) && FROM_3_14.contains(&type_name)
        || type_name.ends_with("contextvars.Context")
        || type_name.contains("__pyx_scope_struct")
}

/// Whether a live block is a dead frame, which CPython 3.9 and 3.10 keep in the code object for the next call of the function
/// (`co_zombieframe`). `frame` is the type of frames.
pub(crate) fn is_spare_frame(py: Python<'_>, block: &Block, frame: &Py<PyAny>) -> bool {
    py.version_info() < (3, 11)
        && block.family == Family::PyObject
        && block.size >= GC_HEAD + OBJECT_HEAD
        && block.address.is_multiple_of(16)
        && read_head(block.address + GC_HEAD) == (0, frame.as_ptr() as usize)
}

/// Bytes between the start of the block and the object.
fn head_size(py: Python<'_>, flags: usize) -> usize {
    let version = py.version_info();
    let managed = match (version.major, version.minor) {
        (3, ..=10) => 0,
        (3, 11) => MANAGED_DICT,
        _ => MANAGED_DICT | MANAGED_WEAKREF,
    };
    let gc = if flags & HAVE_GC != 0 { GC_HEAD } else { 0 };
    gc + if flags & managed != 0 { PRE_HEADER } else { 0 }
}

/// Reference count and type pointer.
fn read_head(address: usize) -> (i64, usize) {
    // SAFETY: 16 bytes inside a live block, aligned; the GIL is held, so no object is freed meanwhile.
    unsafe { ((address as *const i64).read(), (address as *const usize).add(1).read()) }
}

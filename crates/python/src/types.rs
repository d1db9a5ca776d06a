//! Which type of Python object lies in a block. Never a guess: a wrong name is worse than none.

use std::collections::HashSet;

use leaktight::{Block, Family};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyType};

/// The addresses of all types that are alive.
#[derive(Default)]
pub(crate) struct KnownTypes {
    addresses: HashSet<usize>,
}

/// An object inside a block.
pub(crate) struct Object {
    /// Where the object starts.
    pub address: usize,
    /// Where the links of the collector's list lie, for types that it looks after.
    pub links: Option<usize>,
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
    /// Every type, found from `object` by way of `__subclasses__`.
    pub(crate) fn find(py: Python<'_>) -> PyResult<KnownTypes> {
        let subclasses = py.get_type::<PyType>().getattr("__subclasses__")?;
        let mut open = vec![py.get_type::<PyAny>().into_any()];
        let mut addresses = HashSet::new();
        addresses.insert(open[0].as_ptr() as usize);
        while let Some(base) = open.pop() {
            for class in subclasses.call1((base,))?.cast_into::<PyList>()? {
                if addresses.insert(class.as_ptr() as usize) {
                    open.push(class);
                }
            }
        }
        Ok(KnownTypes { addresses })
    }

    /// The object in a live block of the object allocator: the word where its type must be holds a
    /// known type, its flags demand just that place, and its reference count is sound.
    pub(crate) fn object(&self, py: Python<'_>, block: &Block) -> Option<Object> {
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
                if !(1..=0xffff_ffff).contains(&count) || !self.addresses.contains(&type_address) {
                    return None;
                }
                // SAFETY: a live type, and the GIL is held.
                let flags = unsafe { ffi::PyType_GetFlags(type_address as *mut ffi::PyTypeObject) } as usize;
                (offset == head_size(py, flags)).then(|| Object {
                    address,
                    links: (flags & HAVE_GC != 0).then(|| address - GC_HEAD),
                    type_address,
                })
            })
    }

    /// The name of an object's type: bare for builtins, else with its module.
    pub(crate) fn name(&self, py: Python<'_>, object: &Object) -> Option<String> {
        // SAFETY: the address of a live type, see `object`.
        let class = unsafe { Bound::from_borrowed_ptr(py, object.type_address as *mut ffi::PyObject) };
        let class = class.cast_into::<PyType>().ok()?;
        let name = class.qualname().ok()?.to_string();
        match class.module().ok()?.to_string().as_str() {
            "builtins" => Some(name),
            module => Some(format!("{module}.{name}")),
        }
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

//! The objects of an interpreter without a GIL. While we look at a block another thread may free it, so all blocks are looked
//! at once, while no other thread runs.

use std::collections::HashMap;

use leaktight::{Block, Family, MappedVec, is_alive, live_blocks};
use pyo3::exceptions::PyMemoryError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyType};

use super::{HAVE_GC, MANAGED_DICT, MANAGED_WEAKREF, PRE_HEADER};
use crate::alone::alone;

/// What the live blocks of the object allocator were at one moment.
pub(crate) struct Noted {
    /// By rising address. In memory of our own, as addresses elsewhere would make blocks look reachable.
    objects: MappedVec<(Block, Found)>,
    /// Their types by name, and whether a name could be had.
    names: Vec<Option<String>>,
}

#[derive(Clone, Copy)]
pub(super) struct Found {
    /// Bytes from the start of the block to the object.
    offset: usize,
    /// Its type, by place in `names`.
    class: usize,
    pub is_collected: bool,
}

/// The head of an object (Include/object.h, `struct _object` with `Py_GIL_DISABLED`): the thread that owns it, flags and a
/// lock, what that thread counts, what the others do, the type.
const OWN_COUNT: usize = 12;
const SHARED_COUNT: usize = 16;
const TYPE: usize = 24;
const HEAD: usize = 32;
/// The two lowest bits of the shared count say how it is to be taken (Include/refcount.h, `_Py_REF_SHARED_SHIFT`).
const FLAG_BITS: u32 = 2;

impl Noted {
    /// Looks at all blocks that are alive; the types are all that there are.
    pub(super) fn of(py: Python<'_>, types: &[Bound<'_, PyAny>]) -> PyResult<Noted> {
        let mut objects = MappedVec::new();
        if !has_this_layout(py) {
            return Ok(Noted {
                objects,
                names: Vec::new(),
            });
        }
        // Nothing of this frees or moves a type: they are held.
        let by_address: HashMap<usize, (usize, usize)> = types.iter().enumerate().map(kind).collect();
        let mut failed = false;
        let all_noted = alone(py, || {
            for block in live_blocks().iter() {
                if let Some(found) = find(block, &by_address) {
                    failed |= objects.push((*block, found)).is_err();
                }
            }
        });
        if failed || all_noted.is_none() {
            return Err(PyMemoryError::new_err("no memory for a list of all objects"));
        }
        objects.sort_unstable_by_key(|(block, _)| block.address);
        let mut names = vec![None; types.len()];
        for (_, found) in objects.iter() {
            if names[found.class].is_none() {
                names[found.class] = types[found.class].cast::<PyType>().ok().and_then(super::name);
            }
        }
        Ok(Noted { objects, names })
    }

    pub(super) fn get(&self, block: &Block) -> Option<&Found> {
        let at = self
            .objects
            .binary_search_by_key(&block.address, |(block, _)| block.address);
        let (known, found) = &self.objects[at.ok()?];
        (known == block).then_some(found)
    }

    pub(super) fn name(&self, block: &Block) -> Option<String> {
        self.names[self.get(block)?.class].clone()
    }

    /// A new reference to the object, if it is still there.
    pub(super) fn take<'py>(&self, py: Python<'py>, block: &Block) -> Option<Bound<'py, PyAny>> {
        let object = block.address + self.get(block)?.offset;
        let is_taken = alone(py, || {
            // SAFETY: an object of a live block, which nobody can free now.
            let is_there = is_alive(block) && unsafe { count(object) > 0 };
            if is_there {
                // SAFETY: as above.
                unsafe { ffi::Py_INCREF(object as *mut ffi::PyObject) };
            }
            is_there
        });
        // SAFETY: a reference that was taken a moment ago.
        is_taken?.then(|| unsafe { Bound::from_owned_ptr(py, object as *mut ffi::PyObject) })
    }
}

/// The address of a type, and with it its place and its flags.
fn kind((at, class): (usize, &Bound<'_, PyAny>)) -> (usize, (usize, usize)) {
    // SAFETY: a type, see `all`.
    let flags = unsafe { ffi::PyType_GetFlags(class.as_ptr().cast()) } as usize;
    (class.as_ptr() as usize, (at, flags))
}

/// The object in a live block, as [`KnownTypes::object`](super::KnownTypes) finds it. Nobody else may run Python.
fn find(block: &Block, types: &HashMap<usize, (usize, usize)>) -> Option<Found> {
    if block.family != Family::PyObject || !block.address.is_multiple_of(16) {
        return None;
    }
    [0, PRE_HEADER].into_iter().find_map(|offset| {
        if block.size < offset + HEAD {
            return None;
        }
        let object = block.address + offset;
        // SAFETY: aligned words inside a block that is alive.
        let (count, class) = unsafe { (count(object), ((object + TYPE) as *const usize).read()) };
        let (class, flags) = *types.get(&class)?;
        let has_words = flags & (MANAGED_DICT | MANAGED_WEAKREF) != 0;
        ((1..=i64::from(u32::MAX)).contains(&count) && has_words == (offset > 0)).then_some(Found {
            offset,
            class,
            is_collected: flags & HAVE_GC != 0,
        })
    })
}

/// # Safety
///
/// Aligned memory for a head, which nobody writes to meanwhile.
unsafe fn count(object: usize) -> i64 {
    // SAFETY: by the caller's promise.
    let (own, shared) = unsafe {
        (
            ((object + OWN_COUNT) as *const u32).read(),
            ((object + SHARED_COUNT) as *const i64).read(),
        )
    };
    i64::from(own) + (shared >> FLAG_BITS)
}

/// Whether a head is laid out as is known here.
fn has_this_layout(py: Python<'_>) -> bool {
    let version = py.version_info();
    let size = py
        .get_type::<PyAny>()
        .getattr("__basicsize__")
        .and_then(|size| size.extract());
    let list = PyList::empty(py);
    // SAFETY: the head of a list of ours.
    let (count, class) = unsafe {
        let list = list.as_ptr() as usize;
        (count(list), ((list + TYPE) as *const usize).read())
    };
    (version.major, version.minor) >= (3, 14)
        && matches!(size, Ok(HEAD))
        && class == list.get_type().as_ptr() as usize
        && count == 1
}

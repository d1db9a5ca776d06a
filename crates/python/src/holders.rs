//! What in the interpreter holds a block that is not lost.

use std::sync::OnceLock;

use leaktight::Block;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};

use crate::objects::Given;
use crate::types::KnownTypes;

/// What holds `block`, worded to follow "held by". For an object: who refers to it; for anything else
/// the object that the word at `address` lies in.
pub(crate) fn holder(
    py: Python<'_>,
    types: Option<&KnownTypes>,
    block: &Block,
    address: usize,
    given: &Given<'_>,
) -> Option<String> {
    let object = types.and_then(|types| types.object(py, block));
    let objects = PyList::empty(py);
    let mut is_interned = false;
    if let Some(object) = object {
        // SAFETY: a live object, see `KnownTypes::object`.
        let object = unsafe { Bound::from_borrowed_ptr(py, object.address as *mut ffi::PyObject) };
        is_interned = object.is_exact_instance_of::<PyString>() && is_in_dict_of_interned(&object);
        objects.append(object).ok()?;
    }
    // SAFETY: a borrowed reference, or null where the thread has kept nothing yet.
    let thread_data = unsafe { Bound::from_borrowed_ptr_or_opt(py, ffi::PyThreadState_GetDict()) };
    let Given {
        function,
        arguments,
        names,
        statement,
    } = given;
    let helper = py.import("leaktight._holders").ok()?;
    let owners = PyList::empty(py);
    if objects.is_empty() {
        let known = helper.call_method1("known", (arguments, names)).ok()?;
        let known = known.cast_into::<PyList>().ok()?;
        if let Some(owner) = known.iter().find(|object| points_to(object, block.address, address)) {
            owners.append(owner).ok()?;
        }
    }
    let question = (
        objects,
        owners,
        is_interned,
        thread_data,
        function,
        arguments,
        names,
        statement,
    );
    helper.getattr("holder").ok()?.call1(question).ok()?.extract().ok()?
}

/// Whether the word at `address` lies in the object itself, or another one that points to `block`.
fn points_to(object: &Bound<'_, PyAny>, block: usize, address: usize) -> bool {
    let start = object.as_ptr() as usize;
    let size = object
        .get_type()
        .getattr("__basicsize__")
        .and_then(|size| size.extract::<usize>());
    let size = size.unwrap_or(0);
    if address.wrapping_sub(start) < size {
        return true;
    }
    // SAFETY: a live object has at least as many bytes as its type says, and is aligned to words.
    let words = unsafe { std::slice::from_raw_parts(start as *const usize, size / size_of::<usize>()) };
    words.contains(&block)
}

/// Where the state of a `str` lies: behind head, length and hash (`PyASCIIObject`, Include/cpython/unicodeobject.h), with
/// the lowest bits for being interned.
const STATE: usize = 32;
const INTERNED: u32 = 3;

/// Whether a `str` is in the interpreter's dict of interned strings, which no container knows.
fn is_in_dict_of_interned(text: &Bound<'_, PyAny>) -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    let works = WORKS.get_or_init(|| {
        let py = text.py();
        let [fresh, interned] =
            [PyString::new, PyString::intern].map(|make| make(py, "leaktight: interned?").into_any());
        bits(&fresh) == 0 && bits(&interned) != 0
    });
    *works && bits(text) != 0
}

fn bits(text: &Bound<'_, PyAny>) -> u32 {
    // SAFETY: a live `str` has this word in each CPython from 3.9 to 3.13; what it means is tried out before it is used.
    unsafe { ((text.as_ptr() as usize + STATE) as *const u32).read() & INTERNED }
}

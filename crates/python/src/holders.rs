//! What in the interpreter holds a block that is not lost.

use std::sync::atomic::{AtomicU32, Ordering};

use leaktight::{Block, Step, Way, counted};
use leaktight_memory::Memory;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyList, PyString, PyType};

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
    let Asked { objects, owners } = Asked::of(py, types, block, address, given)?;
    let is_interned = objects.iter().any(|object| is_interned(&object));
    let question = (
        objects,
        owners,
        is_interned,
        thread_data(py),
        &given.function,
        &given.arguments,
        &given.names,
        &given.statement,
    );
    let helper = py.import("leaktight._holders").ok()?;
    helper.getattr("holder").ok()?.call1(question).ok()?.extract().ok()
}

/// The way from a root to the object in `block`, or to the one that the word at `address` lies in and then the block.
pub(crate) fn path(
    py: Python<'_>,
    types: Option<&KnownTypes>,
    block: &Block,
    address: usize,
    given: &Given<'_>,
) -> Option<Way> {
    let Asked { objects, owners } = Asked::of(py, types, block, address, given)?;
    let is_object = !objects.is_empty();
    let is_interned = objects.iter().any(|object| is_interned(&object));
    let question = (
        if is_object { objects } else { owners },
        is_interned,
        thread_data(py),
        &given.function,
        &given.arguments,
        &given.names,
        &given.statement,
    );
    let helper = py.import("leaktight._paths").ok()?;
    let answer = helper.getattr("path").ok()?.call1(question).ok()?;
    let (steps, start): (Vec<(String, String)>, Option<usize>) = answer.extract().ok()?;
    let mut steps: Vec<Step> = steps.into_iter().map(|(name, what)| Step { name, what }).collect();
    if steps.is_empty() {
        return None;
    }
    if !is_object {
        steps.push(Step {
            name: String::new(),
            what: format!("a block of {}", counted(block.size as f64, "byte")),
        });
    }
    Some(Way { steps, start })
}

/// What is asked about: the object in a block, or else the objects that own the block.
struct Asked<'py> {
    objects: Bound<'py, PyList>,
    owners: Bound<'py, PyList>,
}

impl<'py> Asked<'py> {
    fn of(
        py: Python<'py>,
        types: Option<&KnownTypes>,
        block: &Block,
        address: usize,
        given: &Given<'py>,
    ) -> Option<Asked<'py>> {
        let (objects, owners) = (PyList::empty(py), PyList::empty(py));
        if let Some(object) = types.and_then(|types| types.take(py, block)) {
            objects.append(object).ok()?;
        } else {
            let helper = py.import("leaktight._holders").ok()?;
            let known = helper.call_method1("known", (&given.arguments, &given.names)).ok()?;
            let known = known.cast_into::<PyList>().ok()?;
            if let Some(owner) = known.iter().find(|object| points_to(object, block.address, address)) {
                owners.append(owner).ok()?;
            }
        }
        Some(Asked { objects, owners })
    }
}

fn thread_data(py: Python<'_>) -> Option<Bound<'_, PyAny>> {
    // SAFETY: a borrowed reference, or null where the thread has kept nothing yet.
    unsafe { Bound::from_borrowed_ptr_or_opt(py, ffi::PyThreadState_GetDict()) }
}

fn is_interned(object: &Bound<'_, PyAny>) -> bool {
    object.is_exact_instance_of::<PyString>() && is_in_dict_of_interned(object)
}

/// Whether the word at `address` lies in the object itself, or another one that points to `block`.
fn points_to(object: &Bound<'_, PyAny>, block: usize, address: usize) -> bool {
    let start = object.as_ptr() as usize;
    address.wrapping_sub(start) < basic_size(&object.get_type()) || words(object).any(|word| word == block)
}

/// The words of an object, without items that it may have as many of as it likes. Read through the kernel: a text, or a small
/// number, may have fewer bytes than its type says, and without a GIL others may write to it.
pub(crate) fn words(object: &Bound<'_, PyAny>) -> impl Iterator<Item = usize> {
    const MOST: usize = 4096;
    let mut bytes = vec![0u8; basic_size(&object.get_type()).min(MOST)];
    if let Ok(memory) = Memory::open() {
        memory.read(object.as_ptr() as usize, &mut bytes);
    }
    let (words, _) = bytes.as_chunks::<{ size_of::<usize>() }>();
    let words: Vec<usize> = words.iter().map(|word| usize::from_ne_bytes(*word)).collect();
    words.into_iter()
}

/// Bytes of an instance without items; 0 if the type does not tell. Those of `object` are the head of all objects.
pub(crate) fn basic_size(class: &Bound<'_, PyType>) -> usize {
    let size = class.getattr("__basicsize__");
    size.and_then(|size| size.extract()).unwrap_or(0)
}

/// What lies between the head of a `str` and its state: length and hash (`PyASCIIObject`, Include/cpython/unicodeobject.h).
const LENGTH_AND_HASH: usize = 16;
/// The lowest bits of the state: being interned.
const INTERNED: u32 = 3;

/// Whether a `str` is in the interpreter's dict of interned strings, which no container knows.
fn is_in_dict_of_interned(text: &Bound<'_, PyAny>) -> bool {
    static WORKS: PyOnceLock<bool> = PyOnceLock::new();
    let py = text.py();
    let works = WORKS.get_or_init(py, || {
        let [fresh, interned] =
            [PyString::new, PyString::intern].map(|make| make(py, "leaktight: interned?").into_any());
        bits(&fresh) == 0 && bits(&interned) != 0
    });
    *works && bits(text) != 0
}

fn bits(text: &Bound<'_, PyAny>) -> u32 {
    let state = text.as_ptr() as usize + basic_size(&text.py().get_type::<PyAny>()) + LENGTH_AND_HASH;
    // SAFETY: a live `str` has this word in each CPython from 3.9 to 3.15; what it means is tried out before it is used. Without
    // a GIL others may write to it.
    unsafe { (*(state as *const AtomicU32)).load(Ordering::Relaxed) & INTERNED }
}

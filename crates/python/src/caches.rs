//! The cache that a block belongs to, where it says how large it may become.

use leaktight::{Block, Capacity};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyModule, PyTuple, PyType};

use crate::types::KnownTypes;

/// The `functools.lru_cache` that keeps the object in `block`, as a key, a value, or inside of one, or the table of whose
/// entries the block is.
pub(crate) fn capacity(py: Python<'_>, types: Option<&KnownTypes>, block: &Block) -> PyResult<Option<Capacity>> {
    let gc = py.import("gc")?;
    let wrapper = py.import("functools")?.getattr("_lru_cache_wrapper")?;
    let is_cache = |object: &Bound<'_, PyAny>| object.get_type().is(&wrapper);
    let objects = gc.call_method0("get_objects")?.cast_into::<PyList>()?;
    let caches: Vec<Bound<'_, PyAny>> = objects.iter().filter(is_cache).collect();
    for cache in &caches {
        // The dict of its entries, which the collector need not know.
        let parts = gc.call_method1("get_referents", (cache,))?.cast_into::<PyList>()?;
        let mut dicts = parts.iter().filter(|part| part.is_exact_instance_of::<PyDict>());
        if dicts.any(|dict| !is_namespace(&dict) && has_table(&dict, block)) {
            return read(cache);
        }
    }
    let Some(object) = types.and_then(|types| types.object(py, block)) else {
        return Ok(None);
    };
    // SAFETY: a live object, see `KnownTypes::object`.
    let object = unsafe { Bound::from_borrowed_ptr(py, object.address as *mut ffi::PyObject) };
    if object.get_type().name()? == "_lru_list_elem" {
        // An entry, which refers to nobody that the collector sees. It is the fullest that it can be one of many of.
        let known: Vec<Capacity> = caches.iter().filter_map(|cache| read(cache).ok()?).collect();
        return Ok(known.into_iter().max_by_key(|cache| cache.entries));
    }
    match above(&gc, object, is_cache)? {
        Some(cache) => read(&cache),
        None => Ok(None),
    }
}

/// Whether a dict itself has a pointer into the block.
fn has_table(dict: &Bound<'_, PyAny>, block: &Block) -> bool {
    // Include/cpython/dictobject.h: the head of an object, two words, and the pointers to keys and values.
    const WORDS: usize = 6;
    let start = dict.as_ptr().cast::<usize>();
    // SAFETY: a live `PyDictObject` has so many words at least, and the GIL is held.
    let words = unsafe { std::slice::from_raw_parts(start, WORDS) };
    words.iter().any(|word| word.wrapping_sub(block.address) < block.size)
}

/// The first cache on the way up through whatever refers to an object.
fn above<'py>(
    gc: &Bound<'py, PyModule>,
    object: Bound<'py, PyAny>,
    is_cache: impl Fn(&Bound<'py, PyAny>) -> bool,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    /// An attribute of an object in a list in a cache is four steps away from it.
    const STEPS: usize = 5;
    /// What is held by more than so many is no part of one cache.
    const MOST: usize = 100;
    let mut level = vec![object];
    for _ in 0..STEPS {
        let referrers = gc.call_method1("get_referrers", PyTuple::new(gc.py(), &level)?)?;
        let referrers = referrers.cast_into::<PyList>()?;
        level = referrers.iter().filter(|referrer| is_inner(referrer, &level)).collect();
        if let Some(cache) = level.iter().find(|object| is_cache(object)) {
            return Ok(Some(cache.clone()));
        }
        if level.is_empty() || level.len() > MOST {
            break;
        }
    }
    Ok(None)
}

fn read(cache: &Bound<'_, PyAny>) -> PyResult<Option<Capacity>> {
    let info = cache.call_method0("cache_info")?;
    let most: Option<u64> = info.getattr("maxsize")?.extract()?;
    let Some(most) = most else { return Ok(None) };
    let name: String = cache.getattr("__qualname__")?.extract()?;
    Ok(Some(Capacity {
        name: format!("the `lru_cache` of `{name}`"),
        entries: info.getattr("currsize")?.extract()?,
        most,
    }))
}

/// Whether an object may be part of what a cache keeps, rather than the program around it or the question itself.
fn is_inner(referrer: &Bound<'_, PyAny>, asked: &[Bound<'_, PyAny>]) -> bool {
    let is_question = || {
        let tuple = referrer.cast_exact::<PyTuple>();
        tuple.is_ok_and(|tuple| tuple.len() == asked.len() && tuple.iter().zip(asked).all(|(item, of)| item.is(of)))
    };
    let is_frame = || referrer.get_type().name().is_ok_and(|name| name == "frame");
    let is_around = referrer.is_instance_of::<PyType>() || referrer.is_instance_of::<PyModule>() || is_frame();
    !(is_around || is_namespace(referrer) || is_question())
}

fn is_namespace(object: &Bound<'_, PyAny>) -> bool {
    let dict = object.cast_exact::<PyDict>();
    dict.is_ok_and(|dict| dict.contains("__name__").unwrap_or(true))
}

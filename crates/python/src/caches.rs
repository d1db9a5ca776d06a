//! The cache that a block belongs to, where it says how large it may become.

use std::cmp::Reverse;

use leaktight::{Block, Capacity};
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyList, PyModule, PyTuple, PyType};

use crate::holders::words;
use crate::types::KnownTypes;

/// The `functools.lru_cache` that keeps the object in `block`, as a key, a value, or inside of one, or the table of whose
/// entries the block is.
pub(crate) fn capacity(py: Python<'_>, types: Option<&KnownTypes>, block: &Block) -> PyResult<Option<Capacity>> {
    /// The fullest may be what grows, and one of these at most does not.
    const MOST_CACHES: usize = 3;
    let gc = py.import("gc")?;
    let wrapper = py.import("functools")?.getattr("_lru_cache_wrapper")?;
    let object = types.and_then(|types| types.take(py, block));
    let objects = gc.call_method0("get_objects")?.cast_into::<PyList>()?;
    let caches = objects.iter().filter(|object| object.get_type().is(&wrapper));
    let mut known: Vec<_> = caches.filter_map(|cache| Some((read(&cache).ok()??, cache))).collect();
    known.sort_by_key(|(capacity, _)| Reverse(capacity.entries));
    for (capacity, cache) in known.into_iter().take(MOST_CACHES) {
        if keeps(&gc, &cache, block, object.as_ref())? {
            return Ok(Some(capacity));
        }
    }
    Ok(None)
}

/// What a cache says of itself; `None` where it has no limit.
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

/// Whether a block is part of a cache. Who refers to an object does not tell: the collector does not know of dicts
/// and tuples of plain values.
fn keeps(
    gc: &Bound<'_, PyModule>,
    cache: &Bound<'_, PyAny>,
    block: &Block,
    object: Option<&Bound<'_, PyAny>>,
) -> PyResult<bool> {
    /// An attribute of an object in a list in a cache is so many steps away from it.
    const STEPS: usize = 4;
    /// Keys and values come first, the oldest entry before all others (`lru_cache_tp_traverse` in
    /// Modules/_functoolsmodule.c). Blocks that are asked for are young.
    const YOUNGEST: usize = 2000;
    /// What refers to more is no part of a cache.
    const MOST: usize = 1_000_000;
    let parts = gc.call_method1("get_referents", (cache,))?.cast_into::<PyList>()?;
    let youngest = parts.iter().skip(parts.len().saturating_sub(YOUNGEST));
    let mut level: Vec<Bound<'_, PyAny>> = youngest.filter(is_inner).collect();
    let Some(object) = object else {
        return Ok(level.iter().any(|part| has_table(part, block)));
    };
    if object.get_type().name()? == "_lru_list_elem" {
        return Ok(true); // An entry of the fullest: nobody sees what it refers to.
    }
    for _ in 0..STEPS {
        if level.is_empty() || level.len() > MOST {
            break;
        }
        if level.iter().any(|part| part.is(object)) {
            return Ok(true);
        }
        let deeper = gc.call_method1("get_referents", PyTuple::new(gc.py(), &level)?)?;
        level = deeper.cast_into::<PyList>()?.iter().filter(is_inner).collect();
    }
    Ok(false)
}

/// Whether an object is a dict that has a pointer into the block.
fn has_table(object: &Bound<'_, PyAny>, block: &Block) -> bool {
    object.is_exact_instance_of::<PyDict>() && words(object).any(|word| word.wrapping_sub(block.address) < block.size)
}

/// Whether an object may be part of what a cache keeps, rather than the program around it.
fn is_inner(object: &Bound<'_, PyAny>) -> bool {
    let is_function = || object.get_type().name().is_ok_and(|name| name == "function");
    let is_namespace = || {
        let dict = object.cast_exact::<PyDict>();
        dict.is_ok_and(|dict| dict.contains("__name__").unwrap_or(true))
    };
    let is_around = object.is_instance_of::<PyType>()
        || object.is_instance_of::<PyModule>()
        || object.is_instance_of::<PyCFunction>();
    !(is_around || is_function() || is_namespace())
}

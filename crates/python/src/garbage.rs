//! What the garbage collector freed, and what it could not.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyModule};

/// Follows the garbage collector's own figures over the calls.
pub(crate) struct Garbage {
    gc: Py<PyModule>,
    /// Objects that had been freed before the first call.
    collected_before: u64,
}

impl Garbage {
    pub(crate) fn new(py: Python<'_>) -> PyResult<Garbage> {
        let gc = py.import("gc")?;
        Ok(Garbage {
            collected_before: collected(&gc)?,
            gc: gc.unbind(),
        })
    }

    pub(crate) fn clone_ref(&self, py: Python<'_>) -> Garbage {
        Garbage {
            gc: self.gc.clone_ref(py),
            collected_before: self.collected_before,
        }
    }

    /// How many objects it has given up on (`gc.garbage`).
    pub(crate) fn uncollectable(&self, py: Python<'_>) -> usize {
        self.list(py).map_or(0, |list| list.len())
    }

    /// How the given one is held by its cycle, and its type.
    pub(crate) fn name(&self, py: Python<'_>, at: usize) -> Option<(String, Option<String>)> {
        let object = self.list(py).ok()?.get_item(at).ok()?;
        let type_name = object.get_type().qualname().ok()?.to_string();
        let cycle = describe(py, &PyList::new(py, [object]).ok()?).ok()?;
        Some((cycle, Some(type_name)))
    }

    /// Says what kind of objects are left in cycles, if `calls` calls left any. `call` makes one more.
    pub(crate) fn remark(&self, py: Python<'_>, calls: u64, call: impl FnOnce() -> bool) -> PyResult<Option<String>> {
        let freed = collected(self.gc.bind(py))?.saturating_sub(self.collected_before);
        let threads = py.import("sys")?.call_method0("_current_frames")?.len()?;
        // A few come from elsewhere. With other threads, nobody knows whose they are.
        if calls == 0 || freed < calls.div_ceil(2) || threads > 1 {
            return Ok(None);
        }
        let gc = self.gc.bind(py);
        gc.call_method0("collect")?;
        let list = self.list(py)?;
        let before = list.len();
        gc.call_method1("set_debug", (gc.getattr("DEBUG_SAVEALL")?,))?;
        let called = call();
        gc.call_method0("collect")?;
        gc.call_method1("set_debug", (0,))?;
        let saved = list.get_slice(before, list.len());
        list.del_slice(before, list.len())?;
        if !called || saved.is_empty() {
            return Ok(None);
        }
        let (objects, cycle) = (saved.len(), describe(py, &saved)?);
        saved.del_slice(0, objects)?;
        gc.call_method0("collect")?;
        let (noun, it) = if objects == 1 {
            ("object", "it")
        } else {
            ("objects", "them")
        };
        Ok(Some(format!(
            "a call leaves {objects} {noun} in reference cycles, and only the garbage collector frees {it}: {cycle}"
        )))
    }

    fn list<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        Ok(self.gc.bind(py).getattr("garbage")?.cast_into::<PyList>()?)
    }
}

/// How many objects the collector has freed so far, of all generations.
fn collected(gc: &Bound<'_, PyModule>) -> PyResult<u64> {
    let generations = gc.call_method0("get_stats")?.cast_into::<PyList>()?;
    let mut sum = 0;
    for generation in generations {
        let generation = generation.cast_into::<PyDict>()?;
        sum += generation
            .get_item("collected")?
            .map_or(Ok(0), |count| count.extract::<u64>())?;
    }
    Ok(sum)
}

fn describe(py: Python<'_>, objects: &Bound<'_, PyList>) -> PyResult<String> {
    py.import("leaktight._cycles")?
        .call_method1("describe", (objects,))?
        .extract()
}

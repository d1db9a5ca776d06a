//! Bringing the interpreter to rest, and leaving it as it was found.

use leaktight::MappedVec;
use pyo3::exceptions::PyMemoryError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyModule};

/// The interpreter's garbage collector while a check runs. Everything that is alive at the start is
/// frozen, so that the many collections of a check are nearly free.
pub(crate) struct AtRest {
    collect: Py<PyAny>,
    gc: Py<PyModule>,
    frozen: bool,
    debug_flags: Py<PyAny>,
}

impl AtRest {
    pub(crate) fn new(py: Python<'_>) -> PyResult<AtRest> {
        let gc = py.import("gc")?;
        let collect = gc.getattr("collect")?.unbind();
        let debug_flags = gc.call_method0("get_debug")?.unbind();
        // DEBUG_SAVEALL would keep every cycle for ever, and DEBUG_STATS print at every collection.
        gc.call_method1("set_debug", (0,))?;
        let mut rest = AtRest {
            collect,
            gc: gc.clone().unbind(),
            frozen: false,
            debug_flags,
        };
        // `unfreeze` would thaw what the user froze, too: then better a slow check.
        if gc.call_method0("get_freeze_count")?.extract::<usize>()? == 0 {
            gc.call_method0("freeze")?;
            rest.frozen = true;
        }
        // After freezing, so that it costs nothing: garbage from before the check is not its affair,
        // and the free lists are emptied all the same.
        rest.settle(py);
        Ok(rest)
    }

    /// Collects garbage, which also empties the free lists, and clears the type cache, which keeps
    /// names alive by chance of their address.
    pub(crate) fn settle(&mut self, py: Python<'_>) {
        // SAFETY: the GIL is held.
        unsafe { ffi::PyType_ClearCache() };
        // Not PyGC_Collect, which does nothing where the user has switched the collector off.
        // SAFETY: a callable and no arguments; the GIL is held.
        let result = unsafe { ffi::PyObject_CallObject(self.collect.as_ptr(), std::ptr::null_mut()) };
        if result.is_null() {
            // Only a callback of `gc.callbacks` can fail, and CPython reports that itself.
            drop(PyErr::take(py));
        } else {
            // SAFETY: an owned reference that nobody else has.
            unsafe { ffi::Py_DECREF(result) };
        }
    }

    /// All objects that the collector tracks: with the frozen ones, or only those since.
    pub(crate) fn tracked(&mut self, py: Python<'_>, all: bool) -> PyResult<MappedVec<usize>> {
        let gc = self.gc.bind(py);
        let thaw = all && self.frozen;
        if thaw {
            gc.call_method0("unfreeze")?;
        }
        let list = gc
            .call_method0("get_objects")
            .and_then(|list| Ok(list.cast_into::<PyList>()?));
        if thaw {
            gc.call_method0("freeze")?;
        }
        let list = list?;
        let mut objects = MappedVec::new();
        for at in 0..list.len() {
            // SAFETY: a borrowed item within the list, which the list then releases; it may be left without one. No
            // address stays behind in its memory, where a search for references would find it.
            unsafe {
                let object = ffi::PyList_GetItem(list.as_ptr(), at as ffi::Py_ssize_t);
                objects
                    .push(object as usize)
                    .map_err(|why| PyMemoryError::new_err(why.to_string()))?;
                ffi::PyList_SetItem(list.as_ptr(), at as ffi::Py_ssize_t, std::ptr::null_mut());
            }
        }
        Ok(objects)
    }

    /// Undoes the freezing: the collector does not show frozen objects to those who ask for holders.
    pub(crate) fn thaw(&mut self, py: Python<'_>) {
        if std::mem::take(&mut self.frozen)
            && let Err(error) = self.gc.bind(py).call_method0("unfreeze")
        {
            error.write_unraisable(py, None);
        }
    }
}

impl Drop for AtRest {
    fn drop(&mut self) {
        Python::attach(|py| {
            self.thaw(py);
            if let Err(error) = self.gc.bind(py).call_method1("set_debug", (&self.debug_flags,)) {
                error.write_unraisable(py, None);
            }
        });
    }
}

/// "CPython 3.11.7".
pub(crate) fn name_and_version(py: Python<'_>) -> String {
    let version = py.version_info();
    format!(
        "CPython {}.{}.{}{}",
        version.major,
        version.minor,
        version.patch,
        version.suffix.unwrap_or("")
    )
}

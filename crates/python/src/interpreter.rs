//! Bringing the interpreter to rest, and leaving it as it was found.

use std::time::Duration;

use leaktight::{Frozen, MappedVec};
use pyo3::exceptions::PyMemoryError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyModule};

use crate::alone::is_free_threaded;

/// The interpreter's garbage collector while a check runs. Everything that is alive at the start is
/// frozen, so that the many collections of a check are nearly free.
pub(crate) struct AtRest {
    collect: Py<PyAny>,
    /// What it has returned last. It is not freed before the next collection, as it would be on a free list then (from 3.14 on),
    /// and a number that a call leaks would be made of it, unseen.
    result: Option<Py<PyAny>>,
    frozen: Option<FrozenHeap>,
    gc: Py<PyModule>,
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
            result: None,
            frozen: FrozenHeap::new(py)?,
            gc: gc.unbind(),
            debug_flags,
        };
        // After freezing, so that it costs nothing: garbage from before the check is not its affair,
        // and the free lists are emptied all the same.
        rest.settle(py);
        Ok(rest)
    }

    /// Collects garbage, which also empties the free lists, and clears the type cache, which keeps
    /// names alive by chance of their address.
    pub(crate) fn settle(&mut self, py: Python<'_>) {
        // SAFETY: attached to the interpreter.
        unsafe { ffi::PyType_ClearCache() };
        match is_free_threaded(py) {
            true => self.collect_beside_others(py),
            false => {
                self.result = None;
                self.result = self.collect(py);
            }
        }
    }

    /// While another thread collects, this one is told at once that there was nothing. What it has left behind may be too
    /// young for the other one, or not be freed yet; so there is something that only a collection of its own finds.
    fn collect_beside_others(&mut self, py: Python<'_>) {
        const PAUSE: Duration = Duration::from_micros(200);
        const MOST: u32 = 5000;
        for _ in 0..MOST {
            let is_left = leave_garbage(py).is_ok();
            self.result = None;
            // The number that `collect` returns comes from a free list, or goes there; so it is not asked where this will do.
            // SAFETY: attached to the interpreter.
            let mut found = unsafe { ffi::PyGC_Collect() };
            if found == 0 && !self.is_enabled(py) {
                self.result = self.collect(py);
                let result = self.result.as_ref().and_then(|result| result.extract(py).ok());
                found = result.unwrap_or(0);
            }
            if found > 0 || !is_left {
                break;
            }
            py.detach(|| std::thread::sleep(PAUSE));
        }
    }

    /// Whether the user has left the collector on.
    fn is_enabled(&self, py: Python<'_>) -> bool {
        let answer = self.gc.bind(py).call_method0("isenabled");
        answer.is_ok_and(|answer| answer.is_truthy().unwrap_or(true))
    }

    /// A full collection. How many objects it has found unreachable.
    fn collect(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        // Not PyGC_Collect, which does nothing where the user has switched the collector off.
        // SAFETY: a callable and no arguments; attached to the interpreter.
        let result = unsafe { ffi::PyObject_CallObject(self.collect.as_ptr(), std::ptr::null_mut()) };
        // SAFETY: an owned reference that nobody else has, or null.
        let result = unsafe { Bound::from_owned_ptr_or_opt(py, result) };
        if result.is_none() {
            // Only a callback of `gc.callbacks` can fail, and CPython reports that itself.
            drop(PyErr::take(py));
        }
        result.map(Bound::unbind)
    }

    /// The collector's list of what is frozen; `None` where that is not known.
    pub(crate) fn frozen(&self) -> Option<Frozen> {
        self.frozen.as_ref()?.list
    }

    /// The objects that the collector tracks and that are not frozen.
    pub(crate) fn tracked(&mut self, py: Python<'_>) -> PyResult<MappedVec<usize>> {
        let list = self.gc.bind(py).call_method0("get_objects")?.cast_into::<PyList>()?;
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
    pub(crate) fn thaw(&mut self) {
        self.frozen = None;
    }
}

impl Drop for AtRest {
    fn drop(&mut self) {
        Python::attach(|py| {
            self.thaw();
            if let Err(error) = self.gc.bind(py).call_method1("set_debug", (&self.debug_flags,)) {
                error.write_unraisable(py, None);
            }
        });
    }
}

/// All objects that were alive when this was made, hidden from the garbage collector until it is dropped. What was
/// hidden before stays so: CPython 3.12 puts its immortal objects there, and a program may have put anything.
#[pyclass]
pub(crate) struct FrozenHeap {
    list: Option<Frozen>,
    /// The object that marks our part of the list.
    _marker: Py<PyList>,
}

impl FrozenHeap {
    /// `None` where what was hidden before could not be told from the rest.
    fn new(py: Python<'_>) -> PyResult<Option<FrozenHeap>> {
        let gc = py.import("gc")?;
        let (count, freeze) = (gc.getattr("get_freeze_count")?, gc.getattr("freeze")?);
        let before: usize = count.call0()?.extract()?;
        // SAFETY: the GIL is held.
        let is_known = unsafe { Frozen::is_known() };
        if !is_known && before > 0 {
            return Ok(None);
        }
        freeze.call0()?;
        if !is_known {
            let _marker = PyList::empty(py).unbind();
            return Ok(Some(FrozenHeap { list: None, _marker }));
        }
        let marker = PyList::empty(py);
        freeze.call0()?;
        let last = PyList::empty(py);
        freeze.call0()?;
        let (first, second) = (marker.as_ptr() as usize, last.as_ptr() as usize);
        // SAFETY: two lists of our own, which the collector tracks; the GIL is held, and the layout is known.
        let list = unsafe { Frozen::find(first, second, before) };
        Ok(Some(FrozenHeap {
            list,
            _marker: marker.unbind(),
        }))
    }
}

impl Drop for FrozenHeap {
    fn drop(&mut self) {
        Python::attach(|py| {
            let unfreeze = || {
                let thawed = py.import("gc").and_then(|gc| gc.call_method0("unfreeze"));
                if let Err(error) = thawed {
                    error.write_unraisable(py, None);
                }
            };
            match self.list {
                // SAFETY: the marker is alive, and `unfreeze` runs no code of the program's.
                Some(list) => unsafe { list.thaw_ours(unfreeze) },
                None => unfreeze(),
            }
        });
    }
}

/// Hides all objects from the garbage collector until the result dies.
#[pyfunction]
pub(crate) fn freeze(py: Python<'_>) -> PyResult<Option<FrozenHeap>> {
    FrozenHeap::new(py)
}

/// An object that only the collector frees.
fn leave_garbage(py: Python<'_>) -> PyResult<()> {
    let garbage = PyList::empty(py);
    garbage.append(&garbage)
}

/// "CPython 3.11.7", or "CPython 3.14.7 (free-threaded)".
pub(crate) fn name_and_version(py: Python<'_>) -> String {
    let version = py.version_info();
    let build = if is_free_threaded(py) { " (free-threaded)" } else { "" };
    format!(
        "CPython {}.{}.{}{}{build}",
        version.major,
        version.minor,
        version.patch,
        version.suffix.unwrap_or("")
    )
}

//! A Python callable as a subject of the engine.

use std::time::Duration;

use leaktight::{Block, Capacity, Description, Family, Frame, Frozen, MappedVec, Planted, PythonFrame, Subject, Way};
use pyo3::exceptions::{PyAssertionError, PyException, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCode, PyDict, PyList, PyTuple};

use crate::alone::is_free_threaded;
use crate::garbage::Garbage;
use crate::holders::basic_size;
use crate::interpreter::AtRest;
use crate::judge::CallTimeout;
use crate::objects::{self, Given, Probes};
use crate::types::{self, KnownTypes};
use crate::watchdog::Watchdog;
use crate::{caches, frames, holders, interpreter, statement};

/// What is called.
pub(crate) enum Callee {
    /// A callable and its arguments.
    Function(Py<PyAny>, Py<PyTuple>),
    /// Code that is executed in a namespace, and its text.
    Code(Py<PyCode>, Py<PyDict>, String),
}

impl Callee {
    pub(crate) fn clone_ref(&self, py: Python<'_>) -> Callee {
        match self {
            Callee::Function(function, arguments) => Callee::Function(function.clone_ref(py), arguments.clone_ref(py)),
            Callee::Code(code, namespace, text) => {
                Callee::Code(code.clone_ref(py), namespace.clone_ref(py), text.clone())
            }
        }
    }
}

/// Calls Python on a thread that is attached to the interpreter. With a GIL that means that it holds it, and nobody else runs
/// Python between two of its own steps; without one others do.
pub(crate) struct PythonSubject<'py> {
    py: Python<'py>,
    name: String,
    callee: Callee,
    /// Each call must raise this.
    raises: Option<Py<PyAny>>,
    /// `types.CoroutineType`.
    coroutine: Py<PyAny>,
    /// `types.FrameType`.
    frame: Py<PyAny>,
    /// Frees the caches of the program under test.
    trim: Option<Py<PyAny>>,
    /// A list of the only objects whose references are to be counted.
    chosen: Option<Py<PyList>>,
    /// What `trim` raised; settling cannot fail, so the next call does.
    trouble: Option<PyErr>,
    at_rest: AtRest,
    garbage: Garbage,
    probes: Probes,
    /// Calls that were made.
    calls: u64,
    /// Found at the first question.
    types: Option<KnownTypes>,
    frames_work: bool,
    /// The folder of our own Python files.
    package: Option<String>,
    watchdog: Watchdog,
    /// The callee says itself what counts, by [`inside`](crate::judge::inside).
    watches_itself: bool,
    show_progress: Option<fn(u32, Duration)>,
}

impl<'py> PythonSubject<'py> {
    pub(crate) fn new(
        py: Python<'py>,
        name: String,
        callee: Callee,
        raises: Option<Py<PyAny>>,
        watchdog: Watchdog,
        show_progress: Option<fn(u32, Duration)>,
    ) -> PyResult<Self> {
        Ok(PythonSubject {
            py,
            name,
            callee,
            raises,
            frames_work: frames::install(py),
            package: package_folder(py).ok(),
            coroutine: py.import("types")?.getattr("CoroutineType")?.unbind(),
            frame: py.import("types")?.getattr("FrameType")?.unbind(),
            trim: None,
            chosen: None,
            trouble: None,
            at_rest: AtRest::new(py)?,
            garbage: Garbage::new(py)?,
            probes: Probes::new(py)?,
            calls: 0,
            types: None,
            watchdog,
            watches_itself: false,
            show_progress,
        })
    }

    /// Only what the callee runs by [`inside`](crate::judge::inside) counts.
    pub(crate) fn watching_itself(mut self, watches_itself: bool) -> Self {
        self.watches_itself = watches_itself;
        self
    }

    pub(crate) fn trim_with(mut self, trim: Option<Py<PyAny>>) -> Self {
        self.trim = trim;
        self
    }

    pub(crate) fn counting_only(mut self, chosen: Option<Py<PyList>>) -> Self {
        self.chosen = chosen;
        self
    }

    /// What went wrong and nobody has heard of yet.
    pub(crate) fn trouble(&mut self) -> Option<PyErr> {
        self.trouble.take()
    }

    pub(crate) fn py(&self) -> Python<'py> {
        self.py
    }

    /// All types, for a block that can hold an object at all. Without types there are no names, and no harm.
    fn types(&mut self, block: &Block) -> Option<&KnownTypes> {
        if block.family != Family::PyObject {
            return None;
        }
        if self.types.is_none() {
            self.types = KnownTypes::find(self.py).ok();
        }
        self.types.as_ref()
    }

    /// The result of one raw call, null with an error set.
    fn call_raw(&self) -> *mut ffi::PyObject {
        // SAFETY: live objects of the right types; the GIL is held.
        unsafe {
            match &self.callee {
                Callee::Function(function, arguments) => {
                    ffi::PyObject_Call(function.as_ptr(), arguments.as_ptr(), std::ptr::null_mut())
                }
                Callee::Code(code, namespace, _) => {
                    ffi::PyEval_EvalCode(code.as_ptr(), namespace.as_ptr(), namespace.as_ptr())
                }
            }
        }
    }
}

fn package_folder(py: Python<'_>) -> PyResult<String> {
    let file: String = py.import("leaktight")?.getattr("__file__")?.extract()?;
    Ok(file.trim_end_matches("__init__.py").to_owned())
}

impl Subject for PythonSubject<'_> {
    type Error = PyErr;

    fn call(&mut self) -> Result<(), PyErr> {
        if let Some(why) = self.trouble() {
            return Err(why);
        }
        self.calls += 1;
        self.watchdog.call_begins(self.py);
        let result = self.call_raw();
        if self.watchdog.call_ends(self.py) {
            // SAFETY: the owned result of the call, or null with an error set, which is replaced.
            unsafe { ffi::Py_XDECREF(result) };
            drop(PyErr::take(self.py));
            return Err(CallTimeout::new_err(()));
        }
        match (&self.raises, result.is_null()) {
            (None, false) => {
                // SAFETY: the owned result of the call.
                let is_coroutine = unsafe { ffi::Py_TYPE(result) } == self.coroutine.as_ptr().cast();
                // SAFETY: as above.
                unsafe { ffi::Py_DECREF(result) };
                if is_coroutine {
                    return Err(PyTypeError::new_err(
                        "the call returned a coroutine that nobody awaits; pass the coroutine function itself, and its arguments",
                    ));
                }
            }
            // SAFETY: an error is set, and the class is alive.
            (Some(class), true) if unsafe { ffi::PyErr_ExceptionMatches(class.as_ptr()) } != 0 => {
                // SAFETY: the GIL is held.
                unsafe { ffi::PyErr_Clear() };
            }
            (_, true) => return Err(PyErr::fetch(self.py)),
            (Some(class), false) => {
                // SAFETY: the owned result of the call.
                unsafe { ffi::Py_DECREF(result) };
                let message = format!("the call did not raise {}", class.bind(self.py).getattr("__name__")?);
                return Err(PyAssertionError::new_err(message));
            }
        }
        // Ctrl-C, where the call runs no Python code that would notice.
        self.py.check_signals()
    }

    fn is_interruption(&self, error: &PyErr) -> bool {
        !error.is_instance_of::<PyException>(self.py)
    }

    fn watches_itself(&self) -> bool {
        self.watches_itself
    }

    fn settle(&mut self) {
        if let Some(trim) = &self.trim {
            // What it frees counts, but not what it keeps itself.
            let result = leaktight::unwatched(|| trim.call0(self.py));
            // The first one tells most.
            self.trouble = self.trouble.take().or(result.err());
        }
        self.at_rest.settle(self.py);
    }

    fn trims(&self) -> bool {
        self.trim.is_some()
    }

    fn away<R: Send>(&mut self, work: impl FnOnce() -> R + Send) -> R {
        self.py.detach(work)
    }

    fn progress(&mut self, calls: u32, elapsed: Duration) {
        if let Some(show) = self.show_progress {
            show(calls, elapsed);
        }
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn runtime(&self) -> String {
        interpreter::name_and_version(self.py)
    }

    fn is_python(&self) -> bool {
        true
    }

    fn plant(&mut self) -> Vec<Planted> {
        const PYMEM_SIZE: usize = 48;
        const TEXT: usize = 100;
        // `PyBytesObject` up to its text, and the final NUL (Include/cpython/bytesobject.h).
        let head = basic_size(&self.py.get_type::<PyBytes>());
        // SAFETY: plain allocations with the GIL held; each is given back once, with the GIL held.
        unsafe {
            let block = ffi::PyMem_Malloc(PYMEM_SIZE);
            let bytes = ffi::PyBytes_FromStringAndSize(std::ptr::null(), TEXT as ffi::Py_ssize_t);
            vec![
                Planted {
                    name: "a block from PyMem_Malloc",
                    address: block as usize,
                    size: PYMEM_SIZE,
                    free: Box::new(move || ffi::PyMem_Free(block)),
                },
                Planted {
                    name: "a Python object",
                    address: bytes as usize,
                    size: head + TEXT,
                    free: Box::new(move || ffi::Py_XDECREF(bytes)),
                },
            ]
        }
    }

    fn is_of_code(&self, block: &Block, code: usize) -> bool {
        frames::is_opcode_cache(self.py, block, code) || types::is_spare_frame(self.py, block, &self.frame)
    }

    fn before_naming(&mut self) {
        self.types = None;
    }

    fn list_links(&mut self, block: &Block) -> Option<usize> {
        let py = self.py;
        if is_free_threaded(py) {
            return None;
        }
        self.types(block)?.links(py, block)
    }

    fn is_collected(&mut self, block: &Block) -> bool {
        let py = self.py;
        self.types(block).is_some_and(|types| types.is_collected(py, block))
    }

    fn type_name(&mut self, block: &Block) -> Option<String> {
        let py = self.py;
        self.types(block)?.name(py, block)
    }

    fn reference_count(&mut self, block: &Block) -> Option<(usize, usize)> {
        let py = self.py;
        // Two words without a GIL, which are not watched; else the low half of one from 3.12 on (PEP 683).
        let bytes = if py.version_info() >= (3, 12) { 4 } else { 8 };
        Some((self.types(block)?.count_at(py, block)?, bytes))
    }

    fn is_plain(&mut self, block: &Block) -> bool {
        let plain = ["bytes", "str", "int", "float", "complex"];
        self.type_name(block).is_some_and(|name| plain.contains(&name.as_str()))
    }

    fn may_be_handed_on(&self, type_name: &str) -> bool {
        types::has_free_list(self.py, type_name)
    }

    fn holder(&mut self, block: &Block, address: usize) -> Option<String> {
        self.at_rest.thaw();
        let py = self.py;
        let given = Given::of(&self.callee, py);
        holders::holder(py, self.types(block), block, address, &given)
    }

    fn path(&mut self, block: &Block, address: usize) -> Option<Way> {
        self.at_rest.thaw();
        let py = self.py;
        let given = Given::of(&self.callee, py);
        holders::path(py, self.types(block), block, address, &given)
    }

    fn capacity(&mut self, block: &Block) -> Option<Capacity> {
        self.at_rest.thaw();
        let py = self.py;
        caches::capacity(py, self.types(block), block).ok().flatten()
    }

    fn frame(&mut self, frame: &PythonFrame) -> Option<Frame> {
        frames::name(self.py, frame)
    }

    fn blind_spots(&self) -> Vec<String> {
        let mut spots = Vec::new();
        if !self.frames_work {
            spots.push("Python frames (this interpreter's frames have an unknown layout)".to_owned());
        }
        spots
    }

    fn uncollectable(&mut self) -> usize {
        self.garbage.uncollectable(self.py)
    }

    fn uncollectable_name(&mut self, at: usize) -> Option<(String, Option<String>)> {
        self.garbage.name(self.py, at)
    }

    fn thread(&mut self, number: i32) -> Option<(String, String)> {
        frames::thread(self.py, number)
    }

    fn remarks(&mut self) -> Vec<String> {
        if self.watches_itself {
            // What runs around the calls leaves cycles of its own.
            return Vec::new();
        }
        let (py, calls) = (self.py, self.calls);
        let garbage = self.garbage.clone_ref(py);
        let remark = garbage.remark(py, calls, || self.call().is_ok());
        remark.ok().flatten().into_iter().collect()
    }

    fn frozen_objects(&mut self) -> Option<Frozen> {
        self.at_rest.frozen()
    }

    fn tracked_objects(&mut self) -> MappedVec<usize> {
        // Without the list only what was there before is looked at.
        self.at_rest.tracked(self.py).unwrap_or_default()
    }

    fn is_interrupted(&mut self) -> bool {
        // SAFETY: the GIL is held. The first takes the note of a Ctrl-C away, and the second puts it back.
        unsafe {
            let interrupted = ffi::PyOS_InterruptOccurred() != 0;
            if interrupted {
                ffi::PyErr_SetInterrupt();
            }
            interrupted
        }
    }

    fn named_objects(&mut self) -> Vec<usize> {
        let mut named = self.probes.objects().to_vec();
        match &self.callee {
            Callee::Function(function, arguments) => {
                let (function, arguments) = (function.bind(self.py), arguments.bind(self.py));
                let partial = self.py.import("functools").and_then(|module| module.getattr("partial"));
                if let Ok(partial) = partial {
                    objects::parts_of_call(arguments.as_any(), &partial, &mut named);
                    objects::parts_of_call(function, &partial, &mut named);
                }
            }
            Callee::Code(code, namespace, text) => {
                named.extend([code.as_ptr() as usize, namespace.as_ptr() as usize]);
                named.extend(statement::used(self.py, text, namespace.bind(self.py)).unwrap_or_default());
            }
        }
        named
    }

    fn chosen_objects(&mut self) -> Option<Vec<usize>> {
        // What they are named by keeps them alive until the first call; the list must not do so after it.
        let chosen = self.chosen.take()?.into_bound(self.py);
        let addresses = chosen.iter().map(|object| object.as_ptr() as usize).collect();
        chosen.del_slice(0, chosen.len()).ok()?;
        Some(addresses)
    }

    fn plant_references(&mut self, count: u32) -> Option<[usize; 2]> {
        self.probes.take(self.py, count).ok()
    }

    fn return_references(&mut self) {
        self.probes.give_back(self.py);
    }

    fn describe(&mut self, object: usize) -> Description {
        let py = self.py;
        self.at_rest.thaw();
        // SAFETY: the engine asks for objects that it holds.
        let object = unsafe { Bound::from_borrowed_ptr(py, object as *mut ffi::PyObject) };
        let words = objects::describe(&object, &Given::of(&self.callee, py));
        words.unwrap_or_else(|_| Description {
            name: "an object".to_owned(),
            ..Description::default()
        })
    }

    fn is_tracker(&self, file: &str) -> bool {
        self.package.as_deref().is_some_and(|package| file.starts_with(package))
    }

    fn is_runtime(&self, module: &str) -> bool {
        let name = module.rsplit('/').next().unwrap_or(module);
        name.starts_with("libpython") || name.starts_with("python")
    }
}

//! What an interpreter without a GIL has to be asked for: that nobody else runs Python for a moment.

use std::ffi::{CStr, c_void};
use std::sync::OnceLock;

use pyo3::ffi;
use pyo3::prelude::*;

/// Whether this interpreter was built without a GIL. It may have been switched on again: objects are laid out alike.
pub(crate) fn is_free_threaded(_py: Python<'_>) -> bool {
    static IS: OnceLock<bool> = OnceLock::new();
    *IS.get_or_init(|| Python::version_str().contains("free-threading"))
}

/// Runs `work` while no other thread runs Python, so that no object comes, goes or changes. `None` where that cannot be.
///
/// `work` must not run Python code, nor wait for another thread, nor let go of the interpreter. It may take references.
pub(crate) fn alone<R>(py: Python<'_>, work: impl FnOnce() -> R) -> Option<R> {
    if !is_free_threaded(py) {
        return Some(work());
    }
    struct Going(Switch, *mut ffi::PyInterpreterState);
    impl Drop for Going {
        fn drop(&mut self) {
            // SAFETY: the interpreter that was stopped, and this thread is still attached to it.
            unsafe { (self.0)(self.1) }
        }
    }
    let (stop, start) = switches()?;
    // SAFETY: attached, so there is an interpreter, and it is not stopped by this thread: `work` does not come here.
    let _going = unsafe {
        let interpreter = ffi::PyInterpreterState_Get();
        stop(interpreter);
        Going(start, interpreter)
    };
    Some(work())
}

/// A new reference to a code object that others may be about to free, and that `leaktight` has followed or holds.
pub(crate) fn take<'py>(py: Python<'py>, object: usize) -> Option<Bound<'py, PyAny>> {
    if !is_free_threaded(py) {
        // SAFETY: held, or followed and not freed; the GIL is held.
        return unsafe { Bound::from_borrowed_ptr_or_opt(py, object as *mut ffi::PyObject) };
    }
    let function = find(c"PyUnstable_TryIncRef")?;
    // SAFETY: `int PyUnstable_TryIncRef(PyObject *)`, from CPython 3.14 on (Doc/c-api/object).
    let take =
        unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut c_void) -> std::ffi::c_int>(function) };
    // SAFETY: its memory is not given back meanwhile; it counts no reference to what is being freed already.
    let is_taken = leaktight::unless_freed(object, || unsafe { take(object as *mut c_void) != 0 });
    // SAFETY: a reference that was taken a moment ago.
    is_taken?.then(|| unsafe { Bound::from_owned_ptr(py, object as *mut ffi::PyObject) })
}

type Switch = unsafe extern "C" fn(*mut ffi::PyInterpreterState);

/// The functions by which the collector stops all other threads where they could let go of the GIL, if there were one, and
/// lets them go on (Include/internal/pycore_pystate.h).
fn switches() -> Option<(Switch, Switch)> {
    static FOUND: OnceLock<Option<(Switch, Switch)>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let (stop, start) = (find(c"_PyEval_StopTheWorld")?, find(c"_PyEval_StartTheWorld")?);
        // SAFETY: they have this signature in CPython 3.13 to 3.15, and are exported.
        unsafe {
            Some((
                std::mem::transmute::<*mut c_void, Switch>(stop),
                std::mem::transmute::<*mut c_void, Switch>(start),
            ))
        }
    })
}

fn find(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: looks a name up.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!address.is_null()).then_some(address)
}

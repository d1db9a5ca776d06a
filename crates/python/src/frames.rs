//! Python frames by name.

use std::ffi::{c_int, c_void};
use std::sync::OnceLock;

use leaktight::{Frame, Interpreter, PythonFrame};
use pyo3::ffi;
use pyo3::prelude::*;

/// Makes captured stacks hold Python frames, once per process, after comparing the interpreter's
/// private layout with `sys._getframe`. Returns whether that worked.
pub(crate) fn install(py: Python<'_>) -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    *WORKS.get_or_init(|| try_install(py).unwrap_or(false))
}

fn try_install(py: Python<'_>) -> PyResult<bool> {
    let version = py.version_info();
    let Some(interpreter) = Interpreter::find((version.major, version.minor)) else {
        return Ok(false);
    };
    let mut expected = Vec::new();
    let mut frame = py.import("sys")?.call_method0("_getframe")?;
    while !frame.is_none() && expected.len() < 1000 {
        expected.push(PythonFrame {
            code: frame.getattr("f_code")?.as_ptr() as usize,
            offset: frame.getattr("f_lasti")?.extract()?,
        });
        frame = frame.getattr("f_back")?;
    }
    if interpreter.check(&expected).is_err() {
        return Ok(false);
    }
    interpreter.install();
    Ok(true)
}

/// Function, file and line of a captured frame.
pub(crate) fn name(py: Python<'_>, frame: &PythonFrame) -> Option<Frame> {
    // SAFETY: the stack store holds a reference to each code object that it names.
    let code = unsafe { Bound::from_borrowed_ptr(py, frame.code as *mut ffi::PyObject) };
    let text = |name: &str| code.getattr(name).ok()?.extract::<String>().ok();
    Some(Frame {
        function: text("co_qualname").or_else(|| text("co_name")),
        file: text("co_filename"),
        line: line(frame).and_then(|line| u32::try_from(line).ok()),
        python: true,
        ..Frame::default()
    })
}

/// The name of a thread of `threading`, by the kernel's number for it, and its type.
pub(crate) fn thread(py: Python<'_>, number: i32) -> Option<(String, String)> {
    let threading = py
        .import("sys")
        .ok()?
        .getattr("modules")
        .ok()?
        .get_item("threading")
        .ok()?;
    let threads = threading.call_method0("enumerate").ok()?;
    let is_it = |thread: &Bound<'_, PyAny>| {
        let native = thread.getattr("native_id").and_then(|id| id.extract::<i32>());
        native.is_ok_and(|native| native == number)
    };
    let thread = threads.try_iter().ok()?.flatten().find(is_it)?;
    let class = thread.get_type();
    let type_name = format!("{}.{}", class.module().ok()?, class.qualname().ok()?);
    let name = thread.getattr("name").ok()?.extract::<String>().ok()?;
    Some((format!("Python thread `{name}`, running"), type_name))
}

/// `PyCode_Addr2Line` is outside the stable ABI, but has been there with this signature in every
/// CPython 3 (Include/cpython/code.h).
fn line(frame: &PythonFrame) -> Option<c_int> {
    // SAFETY: looks a name up.
    let function = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"PyCode_Addr2Line".as_ptr()) };
    if function.is_null() {
        return None;
    }
    // SAFETY: the signature is the documented one, the code object is alive, and the GIL is held.
    unsafe {
        let function: unsafe extern "C" fn(*mut c_void, c_int) -> c_int = std::mem::transmute(function);
        Some(function(frame.code as *mut c_void, frame.offset))
    }
}

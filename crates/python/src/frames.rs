//! Python frames by name.

use std::ffi::{c_int, c_void};

use leaktight::{Block, Family, Frame, Interpreter, PythonFrame};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::alone::{is_free_threaded, take};

/// Makes captured stacks hold Python frames, once per process, after comparing the interpreter's
/// private layout with `sys._getframe`. Returns whether that worked.
pub(crate) fn install(py: Python<'_>) -> bool {
    static WORKS: PyOnceLock<bool> = PyOnceLock::new();
    *WORKS.get_or_init(py, || try_install(py).unwrap_or(false))
}

fn try_install(py: Python<'_>) -> PyResult<bool> {
    let version = py.version_info();
    let Some(interpreter) = Interpreter::find((version.major, version.minor), is_free_threaded(py)) else {
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
    // The stack store holds those that it does not follow.
    let code = take(py, frame.code)?;
    let text = |name: &str| code.getattr(name).ok()?.extract::<String>().ok();
    Some(Frame {
        function: text("co_qualname").or_else(|| text("co_name")),
        file: text("co_filename"),
        line: line(frame).and_then(|line| u32::try_from(line).ok()),
        python: true,
        ..Frame::default()
    })
}

/// Whether a live block is what CPython 3.9 and 3.10 keep in the code object of a function once it has been called 1,024
/// times: what its instructions have looked up, and a table of those (`co_opcache`, `co_opcache_map`).
pub(crate) fn is_opcode_cache(py: Python<'_>, block: &Block, code: usize) -> bool {
    /// Their place in a code object, in words (Include/cpython/code.h).
    const TABLES: [usize; 2] = [19, 20];
    if py.version_info() >= (3, 11) || block.family != Family::PyMem || code == 0 {
        return false;
    }
    // SAFETY: a code object that nobody has freed, or that the stack store holds has these words, and the GIL is held.
    let table = |at: &usize| unsafe { (code as *const usize).add(*at).read() };
    TABLES.iter().any(|at| table(at) == block.address)
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

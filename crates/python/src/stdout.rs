//! Standard output, kept for the report: while foreign code runs, what it prints goes to standard error.

use pyo3::prelude::*;

const OUT: libc::c_int = 1;
const ERR: libc::c_int = 2;

/// Standard output is standard error for as long as this lives, for native code and child processes too.
pub(crate) struct Diverted<'py> {
    py: Python<'py>,
    /// The real standard output, or -1 where it was closed.
    saved: libc::c_int,
}

impl<'py> Diverted<'py> {
    pub(crate) fn start(py: Python<'py>) -> Diverted<'py> {
        flush(py);
        // SAFETY: changes descriptors of this process only. The copy is above those of the standard streams, and no
        // child inherits it.
        let saved = unsafe {
            let saved = libc::fcntl(OUT, libc::F_DUPFD_CLOEXEC, ERR + 1);
            if saved >= 0 && libc::dup2(ERR, OUT) < 0 {
                // Nobody reads standard error either.
                let nowhere = libc::open(c"/dev/null".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
                libc::dup2(nowhere, OUT);
                libc::close(nowhere);
            }
            saved
        };
        Diverted { py, saved }
    }
}

impl Drop for Diverted<'_> {
    fn drop(&mut self) {
        flush(self.py);
        if self.saved >= 0 {
            // SAFETY: our own copy, which nobody else knows.
            unsafe {
                libc::dup2(self.saved, OUT);
                libc::close(self.saved);
            }
        }
    }
}

/// Brings out what has been printed so far, by Python and by C. Where it goes is not what we judge, so a stream that
/// cannot be flushed is left alone.
pub(crate) fn flush(py: Python<'_>) {
    for name in ["stdout", "__stdout__"] {
        let stream = py.import("sys").and_then(|sys| sys.getattr(name));
        let _ = stream.and_then(|stream| stream.call_method0("flush"));
    }
    // SAFETY: flushes all streams of C's that are open for writing (fflush(3)).
    unsafe { libc::fflush(std::ptr::null_mut()) };
}

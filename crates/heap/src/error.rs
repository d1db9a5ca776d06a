//! Why a heap cannot be read.

use std::fmt;

/// Why the heap's figures cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// This allocator keeps no statistics, or has no way to trim.
    Unsupported {
        /// What was asked for: "heap_info" or "heap_trim".
        what: &'static str,
        /// Which allocator, and what to do instead.
        why: String,
    },
    /// A call into the allocator or the system failed.
    Failed {
        /// The call: "mallctl(stats.allocated)".
        call: String,
        /// Its error code: errno on Unix, GetLastError on Windows.
        code: i32,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Unsupported { what, why } => write!(f, "{what} is not possible here: {why}"),
            Error::Failed { call, code } => {
                write!(f, "{call} failed: {}", std::io::Error::from_raw_os_error(*code))
            }
        }
    }
}

impl std::error::Error for Error {}

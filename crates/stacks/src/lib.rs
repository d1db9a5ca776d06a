//! Where an allocation happened.
//!
//! [`capture`] runs inside the allocation hooks: it unwinds the native stack up to the
//! interpreter's evaluation loop, reads the Python frames behind it, and interns both
//! ([`store`](mod@store)); it allocates from no heap. Everything slow comes later:
//! [`Symbols`] turns addresses into functions, files and lines. Names of Python frames
//! are left to whoever knows the interpreter; here they are code objects and offsets.

mod bounds;
mod capture;
mod python;
mod signed;
mod spare;
mod store;
mod symbols;
mod unwind;

pub use capture::{capture, capture_at, prepare};
pub use python::{FrameMismatch, Interpreter, PythonFrame};
pub use store::{CapturedStack, clear, full, references_to, stack};
pub use symbols::{Location, Symbols, object_at};
pub use unwind::{Interrupted, Module, forget_modules, function_at, set_modules};

/// Why stacks cannot be captured or resolved.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// No memory for the tables.
    OutOfMemory,
    /// The symboliser failed.
    Symbols(String),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::OutOfMemory => f.write_str("no memory left for call stacks"),
            Error::Symbols(why) => write!(f, "addresses could not be turned into symbols: {why}"),
        }
    }
}

impl std::error::Error for Error {}

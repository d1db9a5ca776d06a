//! `leaktight._core`: the engine for CPython.
//!
//! Thin: it calls Python callables, brings the interpreter to rest, names objects and frames, and
//! hands reports over as JSON, which `python/leaktight` turns into typed objects. The command line
//! lives here too.

mod alone;
mod caches;
mod cli;
mod exit;
mod frames;
mod garbage;
mod heap;
mod holders;
mod info;
mod interpreter;
mod judge;
mod objects;
mod statement;
mod stdout;
mod subject;
mod types;
mod watchdog;

use pyo3::prelude::*;

// Declared for interpreters without a GIL, which would switch it on otherwise.
#[pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    use super::cli::main;
    #[pymodule_export]
    use super::heap::{allocators, heap_info, heap_trim};
    #[pymodule_export]
    use super::interpreter::freeze;
    #[pymodule_export]
    use super::judge::{CheckError, check, inside, keep_hooks, render};
    #[pymodule_export]
    const CHECKS: [&str; leaktight::Checks::NAMES.len()] = leaktight::Checks::NAMES;
}

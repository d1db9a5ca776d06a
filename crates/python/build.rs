//! Refuses interpreters that the module would load into, and misjudge.

use pyo3_build_config::PythonImplementation;

fn main() {
    let interpreter = pyo3_build_config::get();
    // Without a GIL from 3.14 on: PyO3 refuses what is older. The compiler has no objection to others: the layouts are read
    // at run time.
    let name = match interpreter.implementation() {
        PythonImplementation::CPython => return,
        other => format!("{other:?} {}", interpreter.version()),
    };
    println!(
        "cargo::error=Leaktight does not support {name}, whose objects and allocators are others: install it for CPython 3.9 \
         or later, or for free-threaded CPython 3.14 or later; docs/PLATFORM.md says what is supported"
    );
}

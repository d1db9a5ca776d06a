//! Refuses interpreters that the module would load into, and misjudge.

use pyo3_build_config::PythonImplementation;

fn main() {
    let interpreter = pyo3_build_config::get();
    let version = interpreter.version();
    // Without the stable ABI the compiler has no objection: the layouts are read at run time.
    let name = match interpreter.implementation() {
        PythonImplementation::CPython if !interpreter.target_abi().kind().is_free_threaded() => return,
        PythonImplementation::CPython => format!("free-threaded CPython {version}"),
        other => format!("{other:?} {version}"),
    };
    println!(
        "cargo::error=Leaktight does not support {name}, whose objects and allocators are others: install it for a CPython \
         with a GIL (such as python3.14, not python3.14t); docs/PLATFORM.md says what is supported"
    );
}

//! References to objects that live on anyway, given up without a decrement.

use std::hint::black_box;

use pyo3::prelude::*;

#[pyfunction]
#[inline(never)]
pub fn leak_reference(argument: Bound<'_, PyAny>) {
    let second = argument.clone(); // LEAK: rs_leak_reference
    black_box(second.into_ptr());
}

#[pyfunction]
#[inline(never)]
pub fn leak_none(py: Python<'_>) {
    black_box(py.None().into_ptr()); // LEAK: rs_leak_none
}

/// Keeps a reference of its own for as long as the call lasts.
#[pyfunction]
#[inline(never)]
pub fn twin_reference(argument: Bound<'_, PyAny>) -> bool {
    let second = argument.clone().unbind();
    second.is(&argument)
}

//! Look-alikes that give back what they take, or keep a bounded amount.

use std::ffi::CString;
use std::hint::black_box;
use std::sync::{Arc, OnceLock};

use pyo3::prelude::*;
use pyo3::types::PyList;

#[pyfunction]
#[inline(never)]
pub fn twin_box() {
    let block = Box::new(black_box([7_u8; 64]));
    black_box(&block);
}

#[pyfunction]
#[inline(never)]
pub fn twin_cstring() {
    let text = CString::new(black_box("content-length")).unwrap_or_default();
    let raw = black_box(text.into_raw());
    // SAFETY: `raw` comes from `into_raw` two lines above and is taken back once.
    drop(unsafe { CString::from_raw(raw) });
}

#[pyfunction]
#[inline(never)]
pub fn twin_vec() {
    let squares: Vec<u64> = (0..black_box(100)).map(|n| n * n).collect();
    black_box(&squares);
}

#[pyfunction]
#[inline(never)]
pub fn twin_arc() {
    let shared = Arc::new(black_box([1_u8; 48]));
    let second = Arc::clone(&shared);
    black_box((&shared, &second));
}

/// Filled by the first call, kept to the end of the process.
static TABLE: OnceLock<Vec<u64>> = OnceLock::new();

#[pyfunction]
#[inline(never)]
pub fn twin_once() -> usize {
    TABLE.get_or_init(|| (0..512).collect()).len()
}

#[pyfunction]
#[inline(never)]
pub fn twin_thread(py: Python<'_>) {
    py.detach(|| {
        // A panic in the thread would have been reported by the panic hook.
        let _ = std::thread::spawn(twin_vec).join();
    });
}

#[pyfunction]
#[inline(never)]
pub fn twin_object(py: Python<'_>) {
    let list = PyList::empty(py);
    black_box(&list);
}

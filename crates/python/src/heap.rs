//! `heap_info`, `heap_trim` and `allocators` for Python.

use leaktight::{Allocator, HeapError, HeapInfo};
use pyo3::exceptions::{PyNotImplementedError, PyOSError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyAny, PyTuple, PyType};

/// Ask the C allocator how much it has handed out.
///
/// :returns: a named tuple ``pheap(heap_used, mmap_used)``, in bytes; on Windows also ``heap_count``. With
///     glibc these are ``uordblks`` and ``hblkhd`` of ``mallinfo2(3)``: the blocks in use in the arenas, with
///     their headers and with those in a thread's cache; and the blocks that have a mapping of their own.
///     Another allocator that serves ``malloc`` is asked for its own figures: the blocks in use, and all that
///     it has mapped.
/// :raises NotImplementedError: when the allocator that serves ``malloc`` does not tell, or is not known.
/// :raises OSError: when it answers with an error; ``errno`` is its code.
///
/// Names, order and meaning are psutil's. Any thread may call this at any time.
#[pyfunction]
pub(crate) fn heap_info(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    named(py, leaktight::heap_info().map_err(to_python)?)
}

/// Ask the C allocator to give back to the system what it holds without using it.
///
/// :raises NotImplementedError: when it has no way to do so.
/// :raises OSError: when it answers with an error; ``errno`` is its code.
///
/// With glibc this is ``malloc_trim(0)``. Any thread may call this at any time; others may wait meanwhile.
#[pyfunction]
pub(crate) fn heap_trim(py: Python<'_>) -> PyResult<()> {
    py.detach(leaktight::heap_trim).map_err(to_python)
}

type Fields = (
    String,
    Option<String>,
    String,
    bool,
    Option<u64>,
    Option<u64>,
    Option<u64>,
    Option<String>,
);

/// The fields of `leaktight.Allocator` for each allocator in the process.
#[pyfunction]
pub(crate) fn allocators(py: Python<'_>) -> Vec<Fields> {
    py.detach(leaktight::allocators).into_iter().map(fields).collect()
}

fn fields(allocator: Allocator) -> Fields {
    let note = allocator.remark();
    let statistics = allocator.statistics.unwrap_or_default();
    (
        allocator.name.to_owned(),
        allocator.version,
        allocator.object,
        allocator.serves_malloc,
        statistics.used,
        statistics.mapped,
        statistics.held_free,
        note,
    )
}

/// The named tuple. Up to CPython 3.13 it is filled as `tuple_subtype_new` does it (Objects/tupleobject.c): the
/// class's own `__new__`, which is written in Python, takes as long as the rest of `heap_info` together. From
/// 3.14 on a tuple has a place for its hash, which is nobody else's business.
fn named(py: Python<'_>, info: HeapInfo) -> PyResult<Bound<'_, PyAny>> {
    static PHEAP: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static QUICK: PyOnceLock<bool> = PyOnceLock::new();
    let pheap = PHEAP.import(py, "leaktight._heap", "pheap")?;
    let fields = [
        info.heap_used,
        info.mmap_used,
        #[cfg(windows)]
        info.heap_count,
    ];
    if !QUICK.get_or_init(py, || py.version_info() < (3, 14)) {
        return pheap.call1(PyTuple::new(py, fields)?);
    }
    // SAFETY: a subclass of tuple with so many items and no fields of its own. It is new, so that each item can be
    // set, which takes over the reference to it.
    unsafe {
        let tuple = ffi::PyType_GenericAlloc(pheap.as_ptr().cast(), fields.len().cast_signed());
        let tuple = Bound::from_owned_ptr_or_err(py, tuple)?;
        for (at, field) in fields.into_iter().enumerate() {
            ffi::PyTuple_SetItem(tuple.as_ptr(), at.cast_signed(), field.into_pyobject(py)?.into_ptr());
        }
        Ok(tuple)
    }
}

fn to_python(why: HeapError) -> PyErr {
    let text = why.to_string();
    match why {
        HeapError::Failed { code, .. } => os_error(code, text),
        _ => PyNotImplementedError::new_err(text),
    }
}

#[cfg(not(windows))]
fn os_error(code: i32, text: String) -> PyErr {
    PyOSError::new_err((code, text))
}

/// `OSError` makes an `errno` of the code.
#[cfg(windows)]
fn os_error(code: i32, text: String) -> PyErr {
    PyOSError::new_err((0, text, None::<()>, code))
}

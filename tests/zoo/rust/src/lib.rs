//! The extension module `zoo_rs`: leaks as Rust code makes them.
//!
//! The twins are in `twins`, miscounted references in `references`; `../../manifest.py` says what each function loses.
//! `#[inline(never)]` keeps each one a frame of its own, and `black_box` keeps
//! LLVM from removing an allocation whose address nobody uses.

mod references;
mod twins;

use std::cell::RefCell;
use std::ffi::CString;
use std::hint::black_box;
use std::rc::Rc;

use pyo3::prelude::*;
use pyo3::types::PyList;

#[pymodule]
mod zoo_rs {
    #[pymodule_export]
    use super::{leak_box, leak_cstring, leak_forget_vec, leak_object, leak_rc_cycle, leak_thread};

    #[pymodule_export]
    use super::references::{leak_none, leak_reference, twin_reference};

    #[pymodule_export]
    use super::twins::{
        twin_arc, twin_box, twin_cstring, twin_object, twin_once, twin_thread, twin_vec,
    };
}

#[pyfunction]
#[inline(never)]
fn leak_box() {
    let block = Box::new(black_box([7_u8; 64])); // LEAK: rs_leak_box
    black_box(Box::leak(block));
}

#[pyfunction]
#[inline(never)]
fn leak_cstring() {
    let text = CString::new(black_box("content-length")).unwrap_or_default(); // LEAK: rs_leak_cstring
    black_box(text.into_raw());
}

#[pyfunction]
#[inline(never)]
fn leak_forget_vec() {
    let samples = black_box(Vec::<u64>::with_capacity(25)); // LEAK: rs_leak_forget_vec
    std::mem::forget(samples);
}

/// A node that can point at itself.
struct Node {
    next: RefCell<Option<Rc<Node>>>,
    _payload: [u8; 48],
}

#[pyfunction]
#[inline(never)]
fn leak_rc_cycle() {
    let node = Node {
        next: RefCell::new(None),
        _payload: black_box([1; 48]),
    };
    let node = Rc::new(node); // LEAK: rs_leak_rc_cycle
    node.next.replace(Some(Rc::clone(&node)));
    black_box(&node);
}

#[inline(never)]
fn leaking_thread_body() {
    let block = Box::new(black_box([7_u8; 96])); // LEAK: rs_leak_thread
    black_box(Box::leak(block));
}

#[pyfunction]
#[inline(never)]
fn leak_thread(py: Python<'_>) {
    py.detach(|| {
        // A panic in the thread would have been reported by the panic hook.
        let _ = std::thread::spawn(leaking_thread_body).join();
    });
}

/// Gives up a reference to a Python list without a decrement.
#[pyfunction]
#[inline(never)]
fn leak_object(py: Python<'_>) {
    let list = PyList::empty(py); // LEAK: rs_leak_object
    black_box(list.into_ptr());
}

//! FreeBSD and NetBSD: libc's malloc is jemalloc, and its `mallctl` is public.

use std::ffi::{CStr, c_char, c_int, c_void};

use crate::allocator::jemalloc::Jemalloc;
use crate::{Allocator, Error, HeapInfo};

unsafe extern "C" {
    /// FreeBSD: `<malloc_np.h>`; NetBSD: `<malloc.h>`.
    fn mallctl(
        name: *const c_char,
        old: *mut c_void,
        old_length: *mut usize,
        new: *mut c_void,
        new_length: usize,
    ) -> c_int;
}

// SAFETY: libc's own, or that of a jemalloc loaded before it; the program is linked with it, so it stays.
const JEMALLOC: Jemalloc = unsafe { Jemalloc::new(mallctl) };

pub(crate) fn heap_info() -> Result<HeapInfo, Error> {
    JEMALLOC.heap_info()
}

pub(crate) fn heap_trim() -> Result<(), Error> {
    JEMALLOC.trim()
}

pub(crate) fn allocators() -> Vec<Allocator> {
    vec![Allocator {
        name: "jemalloc",
        version: JEMALLOC.version().ok(),
        object: object_of(mallctl as *const c_void),
        serves_malloc: true,
        statistics: JEMALLOC.statistics().map_err(|error| error.to_string()),
        note: None,
    }]
}

/// The file that has `address` in memory; empty where the loader does not know.
fn object_of(address: *const c_void) -> String {
    // SAFETY: all zeros is a valid `Dl_info`: null pointers.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: any address may be asked about; the answer goes into `info`.
    if unsafe { libc::dladdr(address, &raw mut info) } == 0 || info.dli_fname.is_null() {
        return String::new();
    }
    // SAFETY: the loader's own string, which stays as long as the object is loaded, and libc stays.
    unsafe { CStr::from_ptr(info.dli_fname) }.to_string_lossy().into_owned()
}

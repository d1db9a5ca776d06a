//! Linux with glibc.

use crate::{Allocator, Error, HeapInfo};

pub(crate) fn heap_info() -> Result<HeapInfo, Error> {
    // SAFETY: takes no arguments and may be called from any thread (glibc, malloc/malloc.c).
    let info = unsafe { libc::mallinfo2() };
    Ok(HeapInfo {
        heap_used: info.uordblks as u64,
        mmap_used: info.hblkhd as u64,
    })
}

pub(crate) fn heap_trim() -> Result<(), Error> {
    // SAFETY: may be called from any thread; 0 says whether anything was given back, which is no error.
    unsafe { libc::malloc_trim(0) };
    Ok(())
}

pub(crate) fn allocators() -> Vec<Allocator> {
    Vec::new()
}

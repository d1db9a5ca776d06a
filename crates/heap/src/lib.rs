//! What the allocator says of itself.
//!
//! [`heap_info`] and [`heap_trim`] have psutil's names, fields and meaning: how many bytes the C
//! allocator has handed out, and "give back what is free". [`allocators`] lists every allocator that is
//! found in the process, those that a library brought along too.
//!
//! One file per platform (`platform/`) and one per allocator (`allocator/`), each of the same shape. Nothing is counted
//! here: the live set does that.

// Not asked by every platform's file yet.
#[allow(dead_code)]
mod allocator;
mod error;
mod info;
mod platform;

pub use error::Error;
pub use info::{Allocator, HeapInfo, Statistics};

/// How many bytes the heap that serves `malloc` has handed out. See [`HeapInfo`] for the fields.
///
/// # Errors
/// Where the allocator keeps no statistics, or does not let us read them. Never a zero instead.
///
/// Safe to call from many threads at once.
pub fn heap_info() -> Result<HeapInfo, Error> {
    platform::heap_info()
}

/// Gives back to the system what the heap that serves `malloc` holds without using it.
///
/// # Errors
/// Where the allocator has no way to do so.
///
/// Safe to call from many threads at once; other threads may wait while it runs.
pub fn heap_trim() -> Result<(), Error> {
    platform::heap_trim()
}

/// Every allocator that is found in the process; the first is the one that serves `malloc`.
pub fn allocators() -> Vec<Allocator> {
    platform::allocators()
}

//! What the allocator says of itself.
//!
//! [`heap_info`] and [`heap_trim`] have psutil's names, fields and meaning: how many bytes the C
//! allocator has handed out, and "give back what is free". [`allocators`] lists every allocator that is
//! found in the process, those that a library brought along too:
//!
//! ```
//! use leaktight_heap::{allocators, heap_info, heap_trim};
//! # if cfg!(target_env = "musl") { return Ok(()); }
//!
//! let before = heap_info()?;
//! let kept = vec![1u8; 10_000];
//! assert!(heap_info()?.heap_used >= before.heap_used + 10_000);
//! heap_trim()?;
//! assert!(allocators()[0].serves_malloc);
//! # std::hint::black_box(kept);
//! # Ok::<_, leaktight_heap::Error>(())
//! ```
//!
//! One file per platform (`platform/`) and one per allocator (`allocator/`), each of the same shape. Nothing is
//! counted here: the live set does that.

#[cfg(any(target_os = "linux", target_os = "freebsd", target_os = "netbsd"))]
mod allocator;
mod error;
#[cfg(target_os = "linux")]
mod functions;
mod info;
#[cfg(target_os = "linux")]
mod loaded;
#[cfg(target_os = "linux")]
mod mappings;
mod platform;
#[cfg(target_os = "linux")]
mod present;

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
///
/// Each is asked for its own statistics; one that was never used sets itself up then. Safe to call from many
/// threads at once.
pub fn allocators() -> Vec<Allocator> {
    platform::allocators()
}

/// What the allocator that serves `malloc` says of itself, where it says anything.
#[cfg(target_os = "linux")]
pub fn statistics_of_malloc() -> Option<Statistics> {
    platform::statistics_of_malloc()
}

/// The name and the path of each allocator that a library brought along for itself. What the library takes from
/// it is not asked of `malloc`. The one of a Python interpreter is left out. No allocator is called.
#[cfg(target_os = "linux")]
pub fn private_allocators() -> Vec<(&'static str, String)> {
    present::private()
}

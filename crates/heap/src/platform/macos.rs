//! macOS: libmalloc, all zones together.
//!
//! A null zone means all of them (`<malloc/malloc.h>`). libmalloc itself goes through its list then, with its
//! lock held in the case of `malloc_zone_pressure_relief`; whoever goes through `malloc_get_all_zones` has no
//! lock at all.

use std::ptr;

use crate::{Allocator, Error, HeapInfo, Statistics};

unsafe extern "C" {
    /// `<malloc/malloc.h>`, since macOS 10.7.
    fn malloc_zone_pressure_relief(zone: *mut libc::malloc_zone_t, goal: usize) -> usize;
}

/// `mmap_used` is 0, as psutil has it: libmalloc does not tell large blocks apart, and counts them in
/// `heap_used`.
pub(crate) fn heap_info() -> Result<HeapInfo, Error> {
    Ok(HeapInfo {
        heap_used: all_zones().size_in_use as u64,
        mmap_used: 0,
    })
}

pub(crate) fn heap_trim() -> Result<(), Error> {
    // SAFETY: null means all zones, and 0 as much as possible. It returns how much, and cannot fail.
    unsafe { malloc_zone_pressure_relief(ptr::null_mut(), 0) };
    Ok(())
}

/// One entry: any other allocator that serves `malloc` here has registered itself as a zone.
pub(crate) fn allocators() -> Vec<Allocator> {
    let all = all_zones();
    vec![Allocator {
        name: "libmalloc",
        version: None,
        object: "/usr/lib/system/libsystem_malloc.dylib".into(),
        serves_malloc: true,
        statistics: Ok(Statistics {
            used: Some(all.size_in_use as u64),
            mapped: Some(all.size_allocated as u64),
            held_free: None,
        }),
        note: Some("pages that were given back still count as mapped, so what is held cannot be told".into()),
    }]
}

fn all_zones() -> libc::malloc_statistics_t {
    let mut statistics = libc::malloc_statistics_t {
        blocks_in_use: 0,
        size_in_use: 0,
        max_size_in_use: 0,
        size_allocated: 0,
    };
    // SAFETY: null means the sum over all zones, which goes into `statistics`.
    unsafe { libc::malloc_zone_statistics(ptr::null_mut(), &raw mut statistics) };
    statistics
}

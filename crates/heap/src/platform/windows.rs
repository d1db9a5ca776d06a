//! Windows: the C runtime's heap and the process's default heap are walked, and the rest of the private
//! memory is asked for, region by region.
//!
//! No other heap is ever passed to a heap function: "calling heap functions on a private heap owned by
//! another component may cause undefined behavior" (Microsoft, "Getting Process Heaps"). It may be destroyed
//! meanwhile, and may have no lock (`HEAP_NO_SERIALIZE`). Such heaps are counted and known by their address.

use std::ffi::c_void;
use std::io;

use windows_sys::Win32::Foundation::{ERROR_NO_MORE_ITEMS, HANDLE, NO_ERROR, SetLastError};
use windows_sys::Win32::System::Memory::{
    GetProcessHeap, GetProcessHeaps, HeapCompact, HeapLock, HeapUnlock, HeapWalk, MEM_COMMIT, MEM_PRIVATE,
    MEMORY_BASIC_INFORMATION, PAGE_READWRITE, PROCESS_HEAP_ENTRY, VirtualQuery,
};
use windows_sys::Win32::System::SystemServices::{
    PROCESS_HEAP_ENTRY_BUSY, PROCESS_HEAP_REGION, PROCESS_HEAP_UNCOMMITTED_RANGE,
};

use crate::{Allocator, Error, HeapInfo, Statistics};

unsafe extern "C" {
    /// `<malloc.h>`. The universal C runtime uses the process's default heap, older ones have their own.
    fn _get_heap_handle() -> isize;
}

pub(crate) fn heap_info() -> Result<HeapInfo, Error> {
    let mut heap_used = 0;
    for heap in walkable_heaps() {
        heap_used += walk(heap)?.used;
    }
    // Only now: the list itself is allocated from a heap that is counted.
    let heaps = process_heaps()?;
    Ok(HeapInfo {
        heap_used,
        mmap_used: private_bytes(regions(), |base| !heaps.contains(&base)),
        heap_count: heaps.len() as u64,
    })
}

pub(crate) fn heap_trim() -> Result<(), Error> {
    for heap in walkable_heaps() {
        // SAFETY: the heap lives as long as the process. 0 may also mean that nothing is free, which only
        // the last error tells apart.
        let largest_free = unsafe {
            SetLastError(NO_ERROR);
            HeapCompact(heap, 0)
        };
        if largest_free == 0 && last_error() != NO_ERROR {
            return Err(failed("HeapCompact"));
        }
    }
    Ok(())
}

/// One entry for each heap, the one that serves `malloc` first.
pub(crate) fn allocators() -> Vec<Allocator> {
    let entry = |name, serves_malloc, statistics| Allocator {
        name,
        version: None,
        object: "ntdll.dll".into(),
        serves_malloc,
        statistics,
        note: None,
    };
    let mut allocators = Vec::new();
    for heap in walkable_heaps() {
        let name = if heap == default_heap() {
            "default heap"
        } else {
            "C runtime heap"
        };
        let statistics = walk(heap).map(Walk::statistics).map_err(|error| error.to_string());
        allocators.push(entry(name, allocators.is_empty(), statistics));
    }
    for heap in process_heaps().unwrap_or_default() {
        if walkable_heaps().all(|walkable| walkable != heap) {
            let start = private_bytes(regions(), |base| base == heap);
            let why = format!(
                "it belongs to a component that alone may walk it; {start} bytes are committed in its first segment"
            );
            allocators.push(entry("private heap", false, Err(why)));
        }
    }
    allocators
}

/// The heap that serves `malloc`, then the default heap where that is another one.
fn walkable_heaps() -> impl Iterator<Item = HANDLE> {
    // SAFETY: takes no arguments.
    let of_malloc = unsafe { _get_heap_handle() } as HANDLE;
    let default = Some(default_heap()).filter(|&default| default != of_malloc);
    std::iter::once(of_malloc).chain(default)
}

fn default_heap() -> HANDLE {
    // SAFETY: takes no arguments.
    unsafe { GetProcessHeap() }
}

/// The process's heaps; the list may grow between two calls.
fn process_heaps() -> Result<Vec<HANDLE>, Error> {
    let mut heaps = Vec::<HANDLE>::with_capacity(32);
    loop {
        // SAFETY: the list has room for as many handles as told.
        let count = unsafe { GetProcessHeaps(heaps.capacity() as u32, heaps.as_mut_ptr()) } as usize;
        match count {
            0 => return Err(failed("GetProcessHeaps")),
            count if count <= heaps.capacity() => {
                // SAFETY: so many handles were stored.
                unsafe { heaps.set_len(count) };
                return Ok(heaps);
            }
            count => heaps.reserve(count),
        }
    }
}

/// What a heap's blocks add up to, in bytes.
#[derive(Default)]
struct Walk {
    used: u64,
    free: u64,
    overhead: u64,
}

impl Walk {
    fn add(&mut self, entry: &PROCESS_HEAP_ENTRY) {
        let flags = u32::from(entry.wFlags);
        if flags & (PROCESS_HEAP_REGION | PROCESS_HEAP_UNCOMMITTED_RANGE) != 0 {
            return;
        }
        self.overhead += u64::from(entry.cbOverhead);
        if flags & PROCESS_HEAP_ENTRY_BUSY != 0 {
            self.used += u64::from(entry.cbData);
        } else {
            self.free += u64::from(entry.cbData);
        }
    }

    fn statistics(self) -> Statistics {
        Statistics {
            used: Some(self.used),
            mapped: Some(self.used + self.free + self.overhead),
            held_free: Some(self.free),
        }
    }
}

/// Goes through the blocks of one of the [`walkable_heaps`], with its lock held; nothing is allocated here.
fn walk(heap: HANDLE) -> Result<Walk, Error> {
    // SAFETY: the heap lives as long as the process, and has a lock.
    if unsafe { HeapLock(heap) } == 0 {
        return Err(failed("HeapLock"));
    }
    let mut sum = Walk::default();
    let mut entry = PROCESS_HEAP_ENTRY::default();
    // SAFETY: the heap is locked; `entry` started empty and is handed back as the call before left it.
    while unsafe { HeapWalk(heap, &raw mut entry) } != 0 {
        sum.add(&entry);
    }
    let end = last_error();
    // SAFETY: this thread holds the lock.
    unsafe { HeapUnlock(heap) };
    match end {
        ERROR_NO_MORE_ITEMS => Ok(sum),
        code => Err(Error::Failed {
            call: "HeapWalk".into(),
            code: code.cast_signed(),
        }),
    }
}

/// Committed, private and allocated for reading and writing, in an allocation that is `wanted` by its base.
fn private_bytes(regions: impl Iterator<Item = MEMORY_BASIC_INFORMATION>, wanted: impl Fn(HANDLE) -> bool) -> u64 {
    regions
        .filter(|region| region.State == MEM_COMMIT && region.Type == MEM_PRIVATE)
        .filter(|region| region.AllocationProtect & PAGE_READWRITE != 0 && wanted(region.AllocationBase))
        .map(|region| region.RegionSize as u64)
        .sum()
}

/// The process's address space from the bottom to the top.
fn regions() -> impl Iterator<Item = MEMORY_BASIC_INFORMATION> {
    let mut address = Some(0);
    std::iter::from_fn(move || {
        let mut region = MEMORY_BASIC_INFORMATION::default();
        // SAFETY: any address may be asked about; the answer goes into `region`, whose size is told.
        let written = unsafe { VirtualQuery(address? as *const c_void, &raw mut region, size_of_val(&region)) };
        address = (region.BaseAddress as usize).checked_add(region.RegionSize);
        (written == size_of_val(&region)).then_some(region)
    })
}

fn last_error() -> u32 {
    io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or_default()
        .cast_unsigned()
}

fn failed(call: &str) -> Error {
    Error::Failed {
        code: last_error().cast_signed(),
        call: call.into(),
    }
}

#[cfg(test)]
mod tests {
    use windows_sys::Win32::System::Memory::{MEM_IMAGE, MEM_RESERVE, PAGE_READONLY};

    use super::*;

    #[test]
    fn blocks_are_summed_by_use_and_ranges_without_memory_are_left_out() {
        let mut sum = Walk::default();
        for (flags, data) in [
            (PROCESS_HEAP_REGION, 1 << 20),
            (PROCESS_HEAP_ENTRY_BUSY, 100),
            (PROCESS_HEAP_ENTRY_BUSY, 50),
            (0, 7),
            (PROCESS_HEAP_UNCOMMITTED_RANGE, 1 << 20),
        ] {
            sum.add(&PROCESS_HEAP_ENTRY {
                wFlags: flags as u16,
                cbData: data,
                cbOverhead: 16,
                ..Default::default()
            });
        }
        let expected = Statistics {
            used: Some(150),
            mapped: Some(157 + 3 * 16),
            held_free: Some(7),
        };
        assert_eq!(sum.statistics(), expected);
    }

    #[test]
    fn only_committed_private_writable_memory_counts() {
        let region = |base, kind, state, protection| MEMORY_BASIC_INFORMATION {
            AllocationBase: base as HANDLE,
            Type: kind,
            State: state,
            AllocationProtect: protection,
            RegionSize: base,
            ..Default::default()
        };
        let regions = [
            region(0x1000, MEM_PRIVATE, MEM_COMMIT, PAGE_READWRITE),
            region(0x2000, MEM_PRIVATE, MEM_COMMIT, PAGE_READWRITE),
            region(0x4000, MEM_PRIVATE, MEM_RESERVE, PAGE_READWRITE),
            region(0x8000, MEM_IMAGE, MEM_COMMIT, PAGE_READWRITE),
            region(0x10000, MEM_PRIVATE, MEM_COMMIT, PAGE_READONLY),
        ];
        assert_eq!(
            private_bytes(regions.into_iter(), |base| base as usize != 0x2000),
            0x1000
        );
    }

    #[test]
    fn the_list_of_heaps_has_the_two_that_are_walked() {
        let heaps = process_heaps().unwrap();
        assert!(walkable_heaps().all(|heap| heaps.contains(&heap)));
    }
}

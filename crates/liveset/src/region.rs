//! Memory of our own: anonymous mappings, listed so that a scan can skip them.

use std::ptr::NonNull;

use crate::kernel::system_call;
use crate::spin::SpinLock;
use crate::vector::MappedVec;

/// The kernel gave no more memory, or the list of own regions is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutOfMemory;

impl std::fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no memory left for the tables of the tracker")
    }
}

impl std::error::Error for OutOfMemory {}

/// Zeroed, page-aligned memory that no allocator knows of. Unmapped on drop.
#[derive(Debug)]
pub struct Region {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a region is plain memory without thread affinity; access follows Rust's borrow rules.
unsafe impl Send for Region {}
// SAFETY: as above; `&Region` gives out an address only.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `len` bytes, rounded up to whole pages.
    pub fn new(len: usize) -> Result<Region, OutOfMemory> {
        let len = len.next_multiple_of(page_size());
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let arguments = [0, len, prot as usize, flags as usize, usize::MAX, 0];
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no other memory.
        let start = unsafe { system_call(libc::SYS_mmap, arguments) };
        if start >= -4095isize as usize {
            return Err(OutOfMemory);
        }
        let region = Region {
            start: NonNull::new(start as *mut u8).ok_or(OutOfMemory)?,
            len,
        };
        // When the list is full the drop of `region` unmaps it again.
        OWN.lock().add(start, len)?;
        Ok(region)
    }

    /// Where the region starts.
    #[inline]
    pub fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Its length in bytes, whole pages.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no byte; never true for a region that was made.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        OWN.lock().remove(self.start.as_ptr() as usize);
        // SAFETY: the mapping was made by `new`, is owned by `self`, and nothing borrows it any more.
        unsafe { system_call(libc::SYS_munmap, [self.start.as_ptr() as usize, self.len, 0, 0, 0, 0]) };
    }
}

/// Whether `address` lies in a region of ours.
pub fn is_own_memory(address: usize) -> bool {
    OWN.lock()
        .ranges()
        .any(|(start, len)| address.wrapping_sub(start) < len)
}

/// Start and length in bytes of every region of ours, by rising address.
pub fn own_memory() -> MappedVec<(usize, usize)> {
    // Copied first, since the result lies in a region too.
    let all = OWN.lock().all;
    let mut ranges = MappedVec::new();
    for range in all.into_iter().filter(|range| range.1 != 0) {
        if ranges.push(range).is_err() {
            break;
        }
    }
    ranges.sort_unstable();
    ranges
}

/// The bytes of all regions of ours.
pub fn own_bytes() -> u64 {
    OWN.lock().ranges().map(|(_, len)| len as u64).sum()
}

/// # Safety
///
/// Only in a forked child, before it has a second thread.
pub(crate) unsafe fn unlock_after_fork() {
    // SAFETY: the caller's promise.
    unsafe { OWN.force_unlock() };
}

pub(crate) fn page_size() -> usize {
    // SAFETY: sysconf reads a constant of the system.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

const MAX_REGIONS: usize = 1024;

static OWN: SpinLock<OwnRegions> = SpinLock::new(OwnRegions {
    used: 0,
    all: [(0, 0); MAX_REGIONS],
});

struct OwnRegions {
    used: usize,
    all: [(usize, usize); MAX_REGIONS],
}

impl OwnRegions {
    fn add(&mut self, start: usize, len: usize) -> Result<(), OutOfMemory> {
        let free = self.all.get_mut(self.used).ok_or(OutOfMemory)?;
        *free = (start, len);
        self.used += 1;
        Ok(())
    }

    fn remove(&mut self, start: usize) {
        if let Some(at) = self.all[..self.used].iter().position(|range| range.0 == start) {
            self.used -= 1;
            self.all[at] = self.all[self.used];
            self.all[self.used] = (0, 0);
        }
    }

    fn ranges(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.all[..self.used].iter().copied()
    }
}

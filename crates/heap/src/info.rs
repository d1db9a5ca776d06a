//! What is told of a heap.

/// psutil's `pheap`: what the C allocator has handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeapInfo {
    /// Bytes in blocks that are in use, with the allocator's own overhead; see `docs/PLATFORM.md` for
    /// what each platform counts.
    pub heap_used: u64,
    /// Bytes in blocks that have a mapping of their own (glibc: `malloc` beyond `M_MMAP_THRESHOLD`); under
    /// jemalloc, mimalloc and tcmalloc all that is mapped.
    pub mmap_used: u64,
    /// How many heaps the process has.
    #[cfg(windows)]
    pub heap_count: u64,
}

/// One allocator that is found in the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocator {
    /// "glibc", "jemalloc", "mimalloc", "tcmalloc", …
    pub name: &'static str,
    /// As the allocator tells it, where it does.
    pub version: Option<String>,
    /// The object file it lives in.
    pub object: String,
    /// Whether the process's `malloc` is this one's.
    pub serves_malloc: bool,
    /// Its figures, or why there are none.
    pub statistics: Result<Statistics, String>,
    /// Why one of the figures is missing.
    pub note: Option<String>,
}

impl Allocator {
    /// Why figures are missing, in words.
    pub fn remark(&self) -> Option<String> {
        match &self.statistics {
            Ok(_) => self.note.clone(),
            Err(why) => Some(format!("statistics not reachable: {why}")),
        }
    }
}

/// What an allocator says of itself, in bytes. A field is missing where it does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// In blocks that are in use.
    pub used: Option<u64>,
    /// Taken from the system and not given back.
    pub mapped: Option<u64>,
    /// Free, but not given back.
    pub held_free: Option<u64>,
}

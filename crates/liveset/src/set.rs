//! The live set: 64 shards, each behind a spin lock.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::block::Block;
use crate::shard::Shard;
use crate::spin::SpinLock;

pub(crate) const SHARD_BITS: u32 = 6;
const SHARDS: usize = 1 << SHARD_BITS;

/// Every live block that was allocated since [`LiveSet::open`].
///
/// All methods may be called from any thread at once. `insert` and `remove` cost
/// one uncontended lock and one probe, and never allocate from a heap.
pub struct LiveSet {
    shards: [SpinLock<Shard>; SHARDS],
    overflowed: AtomicBool,
}

/// How much is alive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Blocks of the threads that belong to the call.
    pub own: Amount,
    /// Blocks of all other threads.
    pub foreign: Amount,
}

/// A number of blocks, and the bytes that were asked for in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Number of blocks.
    pub blocks: u64,
    /// Sum of their sizes in bytes.
    pub bytes: u64,
}

impl LiveSet {
    /// An empty set, closed: it takes no block before [`LiveSet::open`].
    pub const fn new() -> Self {
        LiveSet {
            shards: [const { SpinLock::new(Shard::new()) }; SHARDS],
            overflowed: AtomicBool::new(false),
        }
    }

    /// Empties the set and takes blocks of `session` (not 0) from now on. A thread that
    /// was held up in the hooks since an earlier session cannot put its block in any more.
    pub fn open(&self, session: u32) {
        self.overflowed.store(false, Ordering::Relaxed);
        for shard in &self.shards {
            shard.lock().reset(session);
        }
    }

    /// Empties the set, gives its memory back and takes no block until it is opened.
    pub fn close(&self) {
        self.open(0);
    }

    /// Adds a block. When no memory is left for the table the block is dropped and
    /// [`LiveSet::overflowed`] says so from then on.
    #[inline]
    pub fn insert(&self, session: u32, block: &Block) {
        let hash = hash(block.address);
        if self.shard(hash).lock().insert(hash, session, block).is_err() {
            self.overflowed.store(true, Ordering::Relaxed);
        }
    }

    /// Takes the block at `address` out; `None` when it was not allocated while tracking.
    #[inline]
    pub fn remove(&self, address: usize) -> Option<Block> {
        let hash = hash(address);
        self.shard(hash).lock().remove(hash, address)
    }

    /// The live block that starts at `address`.
    pub fn get(&self, address: usize) -> Option<Block> {
        let hash = hash(address);
        self.shard(hash).lock().get(hash, address)
    }

    /// What is alive now. Exact when no other thread allocates meanwhile.
    pub fn totals(&self) -> Totals {
        let mut sum = Totals::ZERO;
        for shard in &self.shards {
            sum.join(shard.lock().totals());
        }
        sum
    }

    /// Calls `each` for every live block, in no order. `each` must not touch this set.
    pub fn for_each(&self, mut each: impl FnMut(&Block)) {
        for shard in &self.shards {
            shard.lock().for_each(&mut each);
        }
    }

    /// Whether blocks had to be dropped since the set was opened: then nothing here is complete.
    pub fn overflowed(&self) -> bool {
        self.overflowed.load(Ordering::Relaxed)
    }

    /// Frees every lock, so that a forked child finds none held by a thread that it does not have.
    ///
    /// # Safety
    ///
    /// Only in a forked child, before it has a second thread, and nobody relies on the blocks from then on.
    pub unsafe fn unlock_after_fork(&self) {
        // SAFETY: the caller's promise.
        unsafe { crate::region::unlock_after_fork() };
        for shard in &self.shards {
            // SAFETY: as above.
            unsafe { shard.force_unlock() };
        }
    }

    #[inline]
    fn shard(&self, hash: u64) -> &SpinLock<Shard> {
        &self.shards[(hash >> (64 - SHARD_BITS)) as usize]
    }
}

impl Default for LiveSet {
    fn default() -> Self {
        Self::new()
    }
}

impl Totals {
    pub(crate) const ZERO: Totals = Totals {
        own: Amount { blocks: 0, bytes: 0 },
        foreign: Amount { blocks: 0, bytes: 0 },
    };

    #[inline]
    pub(crate) fn add(&mut self, block: &Block) {
        let part = self.part(block);
        part.blocks += 1;
        part.bytes += block.size as u64;
    }

    #[inline]
    pub(crate) fn sub(&mut self, block: &Block) {
        let part = self.part(block);
        part.blocks -= 1;
        part.bytes -= block.size as u64;
    }

    #[inline]
    fn part(&mut self, block: &Block) -> &mut Amount {
        if block.foreign {
            &mut self.foreign
        } else {
            &mut self.own
        }
    }
}

impl Totals {
    /// Adds `other` to this.
    pub fn join(&mut self, other: Totals) {
        self.own.join(other.own);
        self.foreign.join(other.foreign);
    }
}

impl Amount {
    fn join(&mut self, other: Amount) {
        self.blocks += other.blocks;
        self.bytes += other.bytes;
    }
}

/// Fibonacci hashing of the address without its alignment bits.
#[inline]
pub(crate) fn hash(address: usize) -> u64 {
    (address as u64 >> 4).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

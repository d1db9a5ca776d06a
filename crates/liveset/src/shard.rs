//! One shard: an open-addressing hash table with linear probing.

use crate::block::{Block, Family};
use crate::region::{OutOfMemory, Region};
use crate::set::Totals;

/// A table from address to block. Deletion shifts followers back, so there are no
/// tombstones and a table that lives long does not slow down.
pub(crate) struct Shard {
    region: Option<Region>,
    /// log2 of the number of slots.
    bits: u32,
    session: u32,
    totals: Totals,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Slot {
    /// 0 = free; no allocator returns it for a block.
    address: usize,
    /// Bits 0–47 size, 48–51 family, 52 foreign.
    packed: u64,
    birth: u32,
    stack: u32,
}

const SIZE_MASK: u64 = (1 << 48) - 1;
const FIRST_BITS: u32 = 7;

impl Shard {
    pub(crate) const fn new() -> Self {
        Shard {
            region: None,
            bits: 0,
            session: 0,
            totals: Totals::ZERO,
        }
    }

    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    /// Empties the table and opens it to blocks of `session` only.
    pub(crate) fn reset(&mut self, session: u32) {
        self.session = session;
        self.totals = Totals::ZERO;
        if let Some(region) = self.region.take() {
            if self.bits == FIRST_BITS {
                // SAFETY: the region is ours and holds plain slots, for which zero means free.
                unsafe { std::ptr::write_bytes(region.start(), 0, region.len()) };
                self.region = Some(region);
            } else {
                self.bits = 0;
            }
        }
    }

    /// Puts `block` in; an entry at the same address is replaced (its free was not seen).
    #[inline]
    pub(crate) fn insert(&mut self, hash: u64, session: u32, block: &Block) -> Result<(), OutOfMemory> {
        if session != self.session {
            return Ok(());
        }
        let used = (self.totals.own.blocks + self.totals.foreign.blocks) as usize;
        if self.region.is_none() || (used + 1) * 4 > (3usize << self.bits) {
            self.grow()?;
        }
        let slots = self.slots();
        let mask = slots.len() - 1;
        let mut at = home(hash, self.bits);
        while slots[at].address != 0 {
            if slots[at].address == block.address {
                let old = slots[at].block();
                slots[at] = Slot::of(block);
                self.totals.sub(&old);
                self.totals.add(block);
                return Ok(());
            }
            at = (at + 1) & mask;
        }
        slots[at] = Slot::of(block);
        self.totals.add(block);
        Ok(())
    }

    pub(crate) fn get(&mut self, hash: u64, address: usize) -> Option<Block> {
        let at = self.find(hash, address)?;
        Some(self.slots()[at].block())
    }

    /// The slot of the block at `address`.
    #[inline(always)]
    fn find(&mut self, hash: u64, address: usize) -> Option<usize> {
        self.region.as_ref()?;
        let bits = self.bits;
        let slots = self.slots();
        let mask = slots.len() - 1;
        let mut at = home(hash, bits);
        while slots[at].address != address {
            if slots[at].address == 0 {
                return None;
            }
            at = (at + 1) & mask;
        }
        Some(at)
    }

    #[inline]
    pub(crate) fn remove(&mut self, hash: u64, address: usize) -> Option<Block> {
        let mut hole = self.find(hash, address)?;
        let bits = self.bits;
        let slots = self.slots();
        let mask = slots.len() - 1;
        let found = slots[hole].block();
        // Shift back each follower whose home does not lie cyclically in (hole, at].
        let mut at = (hole + 1) & mask;
        while slots[at].address != 0 {
            let wanted = home(crate::set::hash(slots[at].address), bits);
            if (at.wrapping_sub(wanted) & mask) >= (at.wrapping_sub(hole) & mask) {
                slots[hole] = slots[at];
                hole = at;
            }
            at = (at + 1) & mask;
        }
        slots[hole].address = 0;
        self.totals.sub(&found);
        Some(found)
    }

    pub(crate) fn for_each(&mut self, each: &mut dyn FnMut(&Block)) {
        if self.region.is_some() {
            for slot in self.slots().iter().filter(|slot| slot.address != 0) {
                each(&slot.block());
            }
        }
    }

    fn grow(&mut self) -> Result<(), OutOfMemory> {
        let bits = if self.region.is_none() {
            FIRST_BITS
        } else {
            self.bits + 1
        };
        let region = Region::new(size_of::<Slot>() << bits)?;
        let mut bigger = Shard {
            region: Some(region),
            bits,
            session: self.session,
            totals: self.totals,
        };
        if self.region.is_some() {
            let mask = (1usize << bits) - 1;
            let new = bigger.slots();
            for slot in self.slots().iter().filter(|slot| slot.address != 0) {
                let mut at = home(crate::set::hash(slot.address), bits);
                while new[at].address != 0 {
                    at = (at + 1) & mask;
                }
                new[at] = *slot;
            }
        }
        *self = bigger;
        Ok(())
    }

    #[inline]
    fn slots<'a>(&mut self) -> &'a mut [Slot] {
        let start = self.region.as_ref().map_or(std::ptr::null_mut(), Region::start);
        if start.is_null() {
            return &mut [];
        }
        // SAFETY: the region holds 2^bits slots, zeroed (= free) or written by us, page-aligned. The callers
        // hold the shard by `&mut` and drop the slice before the region changes, so no two slices live at once.
        unsafe { std::slice::from_raw_parts_mut(start.cast(), 1 << self.bits) }
    }
}

/// The slot where the search for a block starts: the hash bits below those that chose the shard.
#[inline]
fn home(hash: u64, bits: u32) -> usize {
    ((hash << crate::set::SHARD_BITS) >> (64 - bits)) as usize
}

impl Slot {
    #[inline]
    fn of(block: &Block) -> Slot {
        let size = (block.size as u64).min(SIZE_MASK);
        Slot {
            address: block.address,
            packed: size | (block.family as u64) << 48 | (block.foreign as u64) << 52,
            birth: block.birth,
            stack: block.stack,
        }
    }

    #[inline]
    fn block(&self) -> Block {
        Block {
            address: self.address,
            size: (self.packed & SIZE_MASK) as usize,
            birth: self.birth,
            stack: self.stack,
            family: Family::from_bits((self.packed >> 48 & 15) as u8),
            foreign: self.packed >> 52 & 1 == 1,
        }
    }
}

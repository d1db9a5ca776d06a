//! Live `mmap` regions. Unlike heap blocks they can be unmapped in pieces.

use crate::block::Block;
use crate::region::OutOfMemory;
use crate::set::Totals;
use crate::vector::MappedVec;

/// The mappings made while tracking, without overlaps. Not thread-safe: put a lock around it.
#[derive(Default)]
pub struct Mappings {
    /// By falling address, since the kernel hands out falling addresses: a new one goes to the end.
    blocks: MappedVec<Block>,
    session: u32,
    totals: Totals,
}

impl Mappings {
    /// No mapping, closed.
    pub const fn new() -> Self {
        Mappings {
            blocks: MappedVec::new(),
            session: 0,
            totals: Totals::ZERO,
        }
    }

    /// Forgets all and takes mappings of `session` from now on (0: none).
    pub fn open(&mut self, session: u32) {
        self.session = session;
        self.totals = Totals::ZERO;
        self.blocks.clear();
    }

    /// Adds a mapping; whatever it replaces (`MAP_FIXED`) is cut away first.
    pub fn insert(&mut self, session: u32, block: &Block) -> Result<(), OutOfMemory> {
        if session != self.session || block.size == 0 {
            return Ok(());
        }
        self.remove(block.address, block.size)?;
        let at = self.blocks.partition_point(|other| other.address > block.address);
        self.blocks.insert(at, *block)?;
        self.totals.add(block);
        Ok(())
    }

    /// Unmaps `len` bytes from `start`: mappings inside go, those that stick out are trimmed,
    /// and one around it becomes two. Returns the first mapping that was touched.
    pub fn remove(&mut self, start: usize, len: usize) -> Result<Option<Block>, OutOfMemory> {
        let end = start.saturating_add(len);
        let mut at = self.blocks.partition_point(|block| block.address >= end);
        let mut first = None;
        while let Some(block) = self.blocks.get(at).copied() {
            let block_end = block.address + block.size;
            if block_end <= start {
                break;
            }
            first.get_or_insert(block);
            self.blocks.remove(at);
            self.totals.sub(&block);
            for (from, to) in [(end, block_end), (block.address, start)] {
                if from < to {
                    let piece = Block {
                        address: from,
                        size: to - from,
                        ..block
                    };
                    self.blocks.insert(at, piece)?;
                    self.totals.add(&piece);
                    at += 1;
                }
            }
        }
        Ok(first)
    }

    /// The length of the mapping that starts at `start`.
    pub fn len_of(&self, start: usize) -> Option<usize> {
        let at = self.blocks.partition_point(|block| block.address > start);
        let block = self.blocks.get(at).filter(|block| block.address == start)?;
        Some(block.size)
    }

    /// What is mapped now.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The live mappings, by falling address.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }
}

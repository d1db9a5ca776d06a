//! Which live blocks nothing points to.
//!
//! A conservative mark phase: every aligned word of writable memory is taken for a pointer if it
//! points into a live block, its end included, low tag bits and all. Roots are everything that is not
//! itself a tracked heap block, our own tables, or dead stack. Blocks that are not reached from the
//! roots are lost. Stale words make blocks look reachable, so this may convict and never acquits.

use leaktight_hooks as hooks;
use leaktight_liveset::{Block, Family, MappedVec, OutOfMemory};

use crate::maps::{Mapping, OwnMemory, writable_mappings};
use crate::roots::roots;
use crate::subject::Subject;

/// Why reachability could not be found out.
#[derive(Debug)]
pub(crate) enum Error {
    Memory(OutOfMemory),
    System(std::io::Error),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Memory(why) => why.fmt(f),
            Error::System(why) => write!(f, "own memory could not be read: {why}"),
        }
    }
}

impl From<OutOfMemory> for Error {
    fn from(why: OutOfMemory) -> Self {
        Error::Memory(why)
    }
}

impl From<std::io::Error> for Error {
    fn from(why: std::io::Error) -> Self {
        Error::System(why)
    }
}

/// Who points to each live block.
pub(crate) struct Reach {
    /// By rising address.
    nodes: MappedVec<Node>,
}

#[derive(Clone, Copy)]
struct Node {
    address: usize,
    end: usize,
    birth: u32,
    /// Where a word points to this block from outside of all tracked blocks or from a reached one;
    /// 0 = nowhere.
    held_at: usize,
    /// A block that points to this one, be it lost or not, as its index plus 1; 0 = none does.
    owner: u32,
    /// Where the block has links of a list of all objects, 0 = nowhere, and the two words that link to it.
    links: usize,
    linked_from: (usize, usize),
    /// A pointer one past the end holds it too: iterators, empty blocks. Not so in CPython's own
    /// allocator, where that is the address of the next block.
    end_counts: bool,
    /// Content is read through the mappings, as part of the roots.
    is_mapping: bool,
}

const LONGEST_CHAIN: usize = 10_000;

impl Reach {
    /// Marks all live blocks. Other threads should be at rest; what they move meanwhile may be missed.
    pub(crate) fn find<S: Subject>(subject: &mut S) -> Result<Reach, Error> {
        subject.before_naming();
        let memory = OwnMemory::open()?;
        let mappings = writable_mappings()?;
        let mut blocks = hooks::live_blocks();
        blocks.sort_unstable_by_key(|block| block.address);
        let mut nodes = MappedVec::new();
        for block in blocks.iter() {
            let links = subject.list_links(block).unwrap_or(0);
            nodes.push(Node {
                address: block.address,
                end: block.address + block.size.max(1),
                birth: block.birth,
                held_at: 0,
                owner: 0,
                links,
                linked_from: linked_from(&memory, links),
                end_counts: !matches!(block.family, Family::PyMem | Family::PyObject),
                is_mapping: block.family == Family::Mmap,
            })?;
        }
        drop(blocks);
        let mut marker = Marker {
            filter: Filter::new(&nodes)?,
            nodes,
            reached: MappedVec::new(),
        };
        marker.scan_roots(&memory, &mappings)?;
        marker.follow(&memory)?;
        Ok(Reach { nodes: marker.nodes })
    }

    /// Whether nothing points to the block, directly or through other blocks.
    pub(crate) fn is_lost(&self, block: &Block) -> bool {
        let node = self.node(block.address).filter(|node| node.birth == block.birth);
        node.is_some_and(|node| node.held_at == 0)
    }

    /// The address of a word outside of all tracked blocks that holds the block, directly or through
    /// a chain of blocks.
    pub(crate) fn root_of(&self, address: usize) -> Option<usize> {
        let mut at = self.node(address)?.held_at;
        for _ in 0..LONGEST_CHAIN {
            match find(&self.nodes, at) {
                Some(holder) if !self.nodes[holder].is_mapping => at = self.nodes[holder].held_at,
                _ => break,
            }
        }
        (at != 0).then_some(at)
    }

    fn node(&self, address: usize) -> Option<&Node> {
        let at = self.nodes.binary_search_by_key(&address, |node| node.address).ok()?;
        Some(&self.nodes[at])
    }
}

/// The two words that link to the list node at `links`: the neighbour before has it as its next, the
/// one behind as its previous. (0, 0) unless both really do.
fn linked_from(memory: &OwnMemory, links: usize) -> (usize, usize) {
    /// CPython keeps flags in the low two bits (Include/internal/pycore_gc.h).
    const FLAGS: usize = 3;
    if links == 0 {
        return (0, 0);
    }
    let word = |address: usize| {
        let mut bytes = [0; 8];
        memory.read(address, &mut bytes);
        usize::from_ne_bytes(bytes) & !FLAGS
    };
    let (next, previous) = (word(links), word(links + 8));
    if next == 0 || previous == 0 || word(next + 8) != links || word(previous) != links {
        return (0, 0);
    }
    (previous, next + 8)
}

struct Marker {
    nodes: MappedVec<Node>,
    filter: Filter,
    reached: MappedVec<u32>,
}

const CHUNK: usize = 1 << 18;

impl Marker {
    fn scan_roots(&mut self, memory: &OwnMemory, mappings: &[Mapping]) -> Result<(), Error> {
        let mut buffer = MappedVec::zeroed(CHUNK)?;
        let mut result = Ok(());
        roots(mappings, &mut |run| {
            if result.is_ok() {
                result = self.scan_run(memory, &mut buffer, run.start, run.end);
            }
        });
        result
    }

    /// Scans `[from, to)` except for the content of tracked heap blocks.
    fn scan_run(&mut self, memory: &OwnMemory, buffer: &mut [u8], from: usize, to: usize) -> Result<(), Error> {
        let mut at = from;
        while at < to {
            let len = (to - at).min(CHUNK);
            memory.with_mapped(at, &mut buffer[..len], |bytes| self.scan_chunk(bytes, at))?;
            at += len;
        }
        Ok(())
    }

    fn scan_chunk(&mut self, bytes: &[u8], at: usize) -> Result<(), Error> {
        let len = bytes.len();
        let mut next = self.nodes.partition_point(|node| node.end <= at);
        let mut word = 0;
        while word + 8 <= len {
            while next < self.nodes.len() && (self.nodes[next].is_mapping || self.nodes[next].end <= at + word) {
                next += 1;
            }
            let (inside, until) = match self.nodes.get(next) {
                Some(node) if node.address <= at + word => (true, node.end - at),
                Some(node) => (false, node.address - at),
                None => (false, len),
            };
            let until = until.next_multiple_of(8).min(len);
            if !inside {
                self.scan_words(&bytes[word..until], at + word, None, true)?;
            }
            word = until.max(word + 8);
        }
        Ok(())
    }

    /// Marks what the reached blocks point to, and notes what the lost ones point to.
    fn follow(&mut self, memory: &OwnMemory) -> Result<(), Error> {
        let mut buffer = MappedVec::zeroed(CHUNK)?;
        let mut done = 0;
        while done < self.reached.len() {
            let node = self.nodes[self.reached[done] as usize];
            self.scan_block(memory, &mut buffer, self.reached[done] as usize, node, true)?;
            done += 1;
        }
        for at in 0..self.nodes.len() {
            if self.nodes[at].held_at == 0 {
                let node = self.nodes[at];
                self.scan_block(memory, &mut buffer, at, node, false)?;
            }
        }
        Ok(())
    }

    fn scan_block(
        &mut self,
        memory: &OwnMemory,
        buffer: &mut [u8],
        index: usize,
        node: Node,
        holds: bool,
    ) -> Result<(), Error> {
        if node.is_mapping {
            return Ok(());
        }
        let mut at = node.address.next_multiple_of(8);
        while at + 8 <= node.end {
            let len = (node.end - at).min(CHUNK) & !7;
            memory.with_mapped(at, &mut buffer[..len], |bytes| {
                self.scan_words(bytes, at, Some(index), holds)
            })?;
            at += len;
        }
        Ok(())
    }

    #[inline]
    fn scan_words(&mut self, bytes: &[u8], address: usize, owner: Option<usize>, holds: bool) -> Result<(), Error> {
        for (index, word) in bytes.chunks_exact(8).enumerate() {
            let value = usize::from_ne_bytes([word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7]]);
            if self.filter.may_hit(value) {
                self.mark(value, address + index * 8, owner, holds)?;
            }
        }
        Ok(())
    }

    fn mark(&mut self, value: usize, from: usize, owner: Option<usize>, holds: bool) -> Result<(), Error> {
        let Some(at) = find(&self.nodes, value) else {
            return Ok(());
        };
        let node = &mut self.nodes[at];
        let from_itself = (node.address..node.end).contains(&from);
        let list_link =
            node.links != 0 && value & !3 == node.links && (from == node.linked_from.0 || from == node.linked_from.1);
        if from_itself || list_link {
            return Ok(());
        }
        if let Some(owner) = owner
            && node.owner == 0
        {
            node.owner = owner as u32 + 1;
        }
        if holds && node.held_at == 0 {
            node.held_at = from;
            self.reached.push(at as u32)?;
        }
        Ok(())
    }
}

/// The block that `value` points into.
fn find(nodes: &[Node], value: usize) -> Option<usize> {
    let at = nodes.partition_point(|node| node.address <= value).checked_sub(1)?;
    (value < nodes[at].end + usize::from(nodes[at].end_counts)).then_some(at)
}

/// Says quickly that a word points to no block: by the range of all blocks, then by page.
struct Filter {
    low: usize,
    span: usize,
    bits: MappedVec<u8>,
    shift: u32,
}

impl Filter {
    const PAGE_BITS: u32 = 12;

    fn new(nodes: &[Node]) -> Result<Filter, OutOfMemory> {
        let pages: usize = nodes
            .iter()
            .map(|node| ((node.end - node.address) >> Self::PAGE_BITS) + 2)
            .sum();
        let bits = (pages * 16).next_power_of_two().clamp(1 << 12, 1 << 30);
        let low = nodes.first().map_or(0, |node| node.address);
        let mut filter = Filter {
            low,
            span: nodes.iter().map(|node| node.end).max().unwrap_or(low) - low,
            bits: MappedVec::zeroed(bits / 8)?,
            shift: 64 - bits.ilog2(),
        };
        for node in nodes {
            for page in node.address >> Self::PAGE_BITS..=node.end >> Self::PAGE_BITS {
                let bit = filter.bit(page);
                filter.bits[bit / 8] |= 1 << (bit % 8);
            }
        }
        Ok(filter)
    }

    #[inline]
    fn may_hit(&self, value: usize) -> bool {
        if value.wrapping_sub(self.low) > self.span {
            return false;
        }
        let bit = self.bit(value >> Self::PAGE_BITS);
        self.bits[bit / 8] >> (bit % 8) & 1 == 1
    }

    #[inline]
    fn bit(&self, page: usize) -> usize {
        ((page as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> self.shift) as usize
    }
}

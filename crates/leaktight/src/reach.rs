//! Which live blocks nothing points to.
//!
//! A conservative mark phase: every word of memory, at whatever address, is taken for a pointer if it points into a
//! live block, its end included, low tag bits and all. Roots are all memory but tracked blocks, what is free, our own
//! tables, and dead stack. Blocks that are not reached from the roots are lost. Stale words make blocks look
//! reachable, so this may convict and never acquits.
//!
//! Memory is read once, from its beginning to its end, whatever the blocks in it are: what points where is noted, and
//! followed afterwards.

use std::ops::Range;

use leaktight_elf::loaded_objects;
use leaktight_hooks as hooks;
use leaktight_liveset::{Block, Family, MappedVec, OutOfMemory};
use leaktight_memory::{Memory, mapping_around};

use crate::scan::{Stretches, WORD, each_piece};
use crate::statics;
use crate::subject::Subject;

/// Who points to each live block.
pub(crate) struct Reach {
    /// By rising address.
    nodes: MappedVec<Node>,
    /// What lies below this on the stack of the thread that checks is ours.
    pub own_stack: usize,
}

#[derive(Clone, Copy)]
struct Node {
    address: usize,
    end: usize,
    birth: u32,
    /// Where a word points to this block from outside of all tracked blocks or from a reached one;
    /// 0 = nowhere.
    held_at: usize,
    /// What the way to it begins at.
    name: Name,
    /// A block that points to this one, be it lost or not, as its index plus 1; 0 = none does.
    owner: u32,
    /// Where the block has links of a list of all objects, 0 = nowhere, and the two words that link to it.
    links: usize,
    linked_from: (usize, usize),
    /// A pointer one past the end holds it too: iterators, empty blocks. Not so in CPython's own
    /// allocator, where that is the address of the next block.
    end_counts: bool,
    /// Memory from the kernel is searched like any other: allocators of others may keep their blocks in there.
    is_mapping: bool,
    /// The mapping among the nodes that this one lies in, as its index plus 1; 0 = in none.
    inside: u32,
}

const LONGEST_CHAIN: usize = 10_000;

impl Reach {
    /// Marks all live blocks. Other threads should be at rest; what they move meanwhile may be missed. Below `own_stack`
    /// no frame of this thread is the program's.
    ///
    /// # Errors
    ///
    /// When memory cannot be read, or there is none for the tables.
    pub(crate) fn find<S: Subject>(subject: &mut S, own_stack: usize) -> std::io::Result<Reach> {
        subject.before_naming();
        let memory = Memory::open()?;
        let mut blocks = hooks::live_blocks();
        blocks.sort_unstable_by_key(|block| block.address);
        let mut nodes: MappedVec<Node> = MappedVec::new();
        let mut mapping: u32 = 0;
        for block in blocks.iter() {
            let links = subject.list_links(block).unwrap_or(0);
            let node = Node {
                address: block.address,
                end: block.address + block.size.max(1),
                birth: block.birth,
                held_at: 0,
                name: Name::None,
                owner: 0,
                links,
                linked_from: linked_from(&memory, links),
                end_counts: !matches!(block.family, Family::PyMem | Family::PyObject),
                is_mapping: block.family.is_mapping(),
                inside: 0,
            };
            let around = mapping.checked_sub(1).map(|at| nodes[at as usize]);
            let inside = match around.is_some_and(|around| node.address < around.end) {
                true => mapping,
                false => 0,
            };
            nodes.push(Node { inside, ..node }).map_err(std::io::Error::other)?;
            if node.is_mapping {
                mapping = nodes.len() as u32;
            }
        }
        drop(blocks);
        let mut marker = Marker {
            memory,
            arenas: arenas(),
            filter: Filter::new(&nodes).map_err(std::io::Error::other)?,
            nodes,
            freed: hooks::freed_memory(),
            reached: MappedVec::new(),
            edges: MappedVec::new(),
            told: statics::of_program(subject),
            frames: 0..0,
        };
        marker.told.sort_unstable();
        marker.frames = mapping_around(own_stack).map_or(0..0, |(_, end)| own_stack..end);
        let stretches = Stretches::around(marker.nodes.iter().map(|node| (node.address, node.end)));
        each_piece(|bytes, at| marker.scan(&stretches, bytes, at))?;
        marker.follow().map_err(std::io::Error::other)?;
        let nodes = marker.nodes;
        Ok(Reach { nodes, own_stack })
    }

    /// Whether nothing points to the block, directly or through other blocks.
    pub(crate) fn is_lost(&self, block: &Block) -> bool {
        let node = self.node(block.address).filter(|node| node.birth == block.birth);
        node.is_some_and(|node| node.held_at == 0)
    }

    /// The address of a word outside of all tracked blocks that holds the block, directly or through
    /// a chain of blocks.
    pub(crate) fn root_of(&self, address: usize) -> Option<usize> {
        Some(self.chain(address)?.0)
    }

    /// That word, and the blocks through which it holds the block at `address`: from its own holder outwards.
    pub(crate) fn chain(&self, address: usize) -> Option<(usize, Vec<usize>)> {
        let (mut at, mut holders) = (self.node(address)?.held_at, Vec::new());
        while let Some(holder) = holding(&self.nodes, at)
            && holders.len() < LONGEST_CHAIN
        {
            holders.push(self.nodes[holder].address);
            at = self.nodes[holder].held_at;
        }
        (at != 0).then_some((at, holders))
    }

    fn node(&self, address: usize) -> Option<&Node> {
        let at = self.nodes.binary_search_by_key(&address, |node| node.address).ok()?;
        Some(&self.nodes[at])
    }
}

/// The two words that link to the list node at `links`: the neighbour before has it as its next, the
/// one behind as its previous. (0, 0) unless both really do.
fn linked_from(memory: &Memory, links: usize) -> (usize, usize) {
    /// CPython keeps flags in the low two bits (Include/internal/pycore_gc.h).
    const FLAGS: usize = 3;
    if links == 0 {
        return (0, 0);
    }
    let word = |address: usize| memory.try_word(address).unwrap_or(0) & !FLAGS;
    let (next, previous) = (word(links), word(links + 8));
    if next == 0 || previous == 0 || word(next + 8) != links || word(previous) != links {
        return (0, 0);
    }
    (previous, next + 8)
}

/// What a person can be told of a word that holds something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    None,
    Frame,
    Static,
}

struct Marker {
    memory: Memory,
    /// The data of libc, where malloc keeps its lists.
    arenas: Vec<(usize, usize)>,
    nodes: MappedVec<Node>,
    filter: Filter,
    /// Start and end of memory that is free unless it lies in a node, by rising address.
    freed: MappedVec<(usize, usize)>,
    reached: MappedVec<u32>,
    /// Which block points to which, and the address of the word that does.
    edges: MappedVec<(u32, u32, usize)>,
    /// Start and end of static data, whose words a person can be told of; by rising address.
    told: Vec<(usize, usize)>,
    /// The callers' frames: a person can be told of these, too, but words may be stale there.
    frames: Range<usize>,
}

impl Marker {
    fn scan(&mut self, stretches: &Stretches, bytes: &[u8], at: usize) -> std::io::Result<()> {
        /// What a process has of addresses, unless it asks for more (five-level paging). Interpreters keep tags in the rest.
        const ADDRESS: usize = (1 << 48) - 1;
        stretches.each_word(bytes, |offset, value| match self.filter.may_hit(value & ADDRESS) {
            true => self.note(value & ADDRESS, at + offset).map_err(std::io::Error::other),
            false => Ok(()),
        })
    }

    /// Notes that the word at `from` has this value.
    fn note(&mut self, value: usize, from: usize) -> Result<(), OutOfMemory> {
        let Some(at) = find(&self.nodes, value) else {
            return Ok(());
        };
        let node = &self.nodes[at];
        let from_itself = (node.address..node.end).contains(&from);
        let list_link =
            node.links != 0 && value & !3 == node.links && (from == node.linked_from.0 || from == node.linked_from.1);
        if from_itself || list_link || self.links_free_chunk(node, value, from) {
            return Ok(());
        }
        match holding(&self.nodes, from) {
            Some(owner) => self.edges.push((owner as u32, at as u32, from)),
            None if self.is_free(from) => Ok(()),
            None => {
                self.hold(at, from)?;
                // Of several words, the one that says most to a person.
                if self.name(from) > self.name(self.nodes[at].held_at) {
                    self.nodes[at].held_at = from;
                }
                Ok(())
            }
        }
    }

    fn name(&self, address: usize) -> Name {
        let next = self.told.partition_point(|(start, _)| *start <= address);
        match next.checked_sub(1).is_some_and(|at| address < self.told[at].1) {
            true => Name::Static,
            false if self.frames.contains(&address) => Name::Frame,
            false => Name::None,
        }
    }

    /// Whether the word at `from` is a link of glibc's to the free chunk behind the block. The first word of a chunk's
    /// header belongs to the block before it, so that such a link looks like a pointer to the block's last word.
    /// Free chunks of one size are in a list, linked both ways; its head is in the arena (malloc/malloc.c,
    /// `struct malloc_chunk`, `struct malloc_state`).
    fn links_free_chunk(&self, node: &Node, value: usize, from: usize) -> bool {
        /// Where the links are in a chunk: to the next and the previous one, and among large ones to those of
        /// another size.
        const LINKS: [(usize, usize); 2] = [(16, 24), (32, 40)];
        const HEADER: usize = 16;
        const LEAST: usize = 32;
        let chunk = (node.end - node.address + WORD).next_multiple_of(16).max(LEAST);
        if value != node.address - HEADER + chunk {
            return false;
        }
        if self.arenas.iter().any(|(start, end)| (*start..*end).contains(&from)) {
            return true;
        }
        let links_back = |there: usize, here: usize| self.memory.try_word(value + there) == Some(from - here);
        LINKS
            .iter()
            .any(|(next, previous)| links_back(*previous, *next) || links_back(*next, *previous))
    }

    fn is_free(&self, address: usize) -> bool {
        let next = self.freed.partition_point(|(start, _)| *start <= address);
        let before = next.checked_sub(1).map(|at| self.freed[at]);
        before.is_some_and(|(_, end)| address < end)
    }

    fn hold(&mut self, at: usize, from: usize) -> Result<(), OutOfMemory> {
        if self.nodes[at].held_at == 0 {
            self.nodes[at].held_at = from;
            self.reached.push(at as u32)?;
        }
        Ok(())
    }

    /// Marks what the reached blocks point to, and notes who points to the others.
    fn follow(&mut self) -> Result<(), OutOfMemory> {
        self.edges.sort_unstable();
        for at in 0..self.edges.len() {
            let (owner, of, _) = self.edges[at];
            let node = &mut self.nodes[of as usize];
            if node.owner == 0 {
                node.owner = owner + 1;
            }
        }
        // First from words that a person can be told of: the way to a block is to begin there, if there is such a way.
        let roots = std::mem::take(&mut self.reached);
        for name in [Name::Static, Name::Frame] {
            self.reached.clear();
            for at in roots.iter() {
                let root = self.nodes[*at as usize];
                if root.name == Name::None && self.name(root.held_at) == name {
                    self.nodes[*at as usize].name = name;
                    self.reached.push(*at)?;
                }
            }
            self.follow_reached(name)?;
        }
        self.reached = roots;
        self.follow_reached(Name::None)
    }

    fn follow_reached(&mut self, name: Name) -> Result<(), OutOfMemory> {
        let mut done = 0;
        while done < self.reached.len() {
            let owner = self.reached[done];
            done += 1;
            // What begins at a root with a name was followed before.
            if self.nodes[owner as usize].name != name {
                continue;
            }
            let mut next = self.edges.partition_point(|(of, ..)| *of < owner);
            while let Some((of, to, from)) = self.edges.get(next).copied()
                && of == owner
            {
                let node = &mut self.nodes[to as usize];
                if name > node.name {
                    (node.name, node.held_at) = (name, from);
                    self.reached.push(to)?;
                } else {
                    self.hold(to as usize, from)?;
                }
                next += 1;
            }
        }
        Ok(())
    }
}

/// Start and end of libc's data.
fn arenas() -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    loaded_objects(|object| {
        if object.defines(c"__libc_start_main").is_some() {
            found.extend(object.writable().map(|(start, len)| (start, start + len)));
        }
    });
    found
}

/// The block that the word at `from` lies in, and that is no mapping.
fn holding(nodes: &[Node], from: usize) -> Option<usize> {
    let at = nodes.partition_point(|node| node.address <= from).checked_sub(1)?;
    (!nodes[at].is_mapping && from < nodes[at].end).then_some(at)
}

/// The block that `value` points into, the innermost.
fn find(nodes: &[Node], value: usize) -> Option<usize> {
    let at = nodes.partition_point(|node| node.address <= value).checked_sub(1)?;
    let points_into = |at: &usize| value < nodes[*at].end + usize::from(nodes[*at].end_counts);
    let around = || (nodes[at].inside as usize).checked_sub(1);
    Some(at).filter(points_into).or_else(|| around().filter(points_into))
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

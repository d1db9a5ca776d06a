//! Who owns whom among the blocks that were left behind.
//!
//! An object and what it owns were leaked by one mistake, so they are one finding, and the owner is who matters. Here
//! the blocks' own words are followed, as deep as it goes: `reach` knows only one owner of each block, which in a
//! structure whose parts point to each other may be any of them.

use std::collections::HashMap;

use leaktight_liveset::Block;
use leaktight_memory::Memory;

use crate::subject::Subject;

/// So many blocks tell how a leak hangs together, and so many bytes of them.
const MOST_BLOCKS: usize = 20_000;
const MOST_BYTES: usize = 32 << 20;

const WORD: usize = 8;
const NOT_YET: u32 = u32::MAX;

/// A block with the number of its site.
#[derive(Clone, Copy)]
pub(crate) struct Survivor {
    pub block: Block,
    pub site: usize,
    /// It is the array of something that gets longer: it may point to others, but owns none, and none owns it.
    pub grows: bool,
}

/// The owners of some survivors.
#[derive(Default)]
pub(crate) struct Owners {
    /// By address.
    survivors: Vec<Survivor>,
    /// Of each survivor the part that it belongs to; a part holds blocks that can all be reached from each other.
    part: Vec<u32>,
    /// Of each part, the one from which it is reached and which is reached from no other.
    root: Vec<u32>,
    /// Parts of more than one block, or of one that points to itself.
    circular: Vec<bool>,
    /// By place among the survivors, those that point to their own start.
    own_start: Vec<usize>,
    /// How many blocks of a site the growing blocks of another point to.
    pub arrays: HashMap<(usize, usize), usize>,
}

impl Owners {
    /// Looks at the youngest survivors, those of a call all or none.
    pub(crate) fn find<S: Subject>(mut survivors: Vec<Survivor>, subject: &mut S) -> Owners {
        let Ok(memory) = Memory::open() else {
            return Owners::default();
        };
        keep_youngest(&mut survivors);
        survivors.sort_unstable_by_key(|survivor| survivor.block.address);
        let mut owners = Owners {
            survivors,
            ..Owners::default()
        };
        let edges = owners.edges(&memory, subject);
        owners.group(&edges);
        owners
    }

    /// Whether nobody else of the survivors owns the block: it is a root, or its part is.
    pub(crate) fn is_root(&self, address: usize) -> bool {
        let found = self
            .at(address)
            .filter(|at| self.survivors[*at].block.address == address);
        found.is_some_and(|at| self.root[self.part[at] as usize] == self.part[at])
    }

    /// Whether the block lies in a circle of blocks.
    pub(crate) fn is_circular(&self, address: usize) -> bool {
        let found = self
            .at(address)
            .filter(|at| self.survivors[*at].block.address == address);
        found.is_some_and(|at| self.circular[self.part[at] as usize])
    }

    /// For each site the one that owns most of its blocks, maybe itself. Of a circle of several sites it is the one
    /// for which `rank` is lowest.
    pub(crate) fn of_sites(&self, rank: &dyn Fn(usize) -> usize) -> HashMap<usize, usize> {
        let mut head_of_part: HashMap<u32, usize> = HashMap::new();
        for (survivor, part) in self.survivors.iter().zip(&self.part) {
            let head = head_of_part.entry(*part).or_insert(survivor.site);
            if (rank(survivor.site), survivor.site) < (rank(*head), *head) {
                *head = survivor.site;
            }
        }
        let mut votes: HashMap<usize, HashMap<usize, usize>> = HashMap::new();
        for (survivor, part) in self.survivors.iter().zip(&self.part) {
            let owner = head_of_part[&self.root[*part as usize]];
            *votes.entry(survivor.site).or_default().entry(owner).or_default() += 1;
        }
        let most = |votes: HashMap<usize, usize>| {
            votes
                .into_iter()
                .max_by_key(|(site, count)| (*count, usize::MAX - site))
        };
        votes
            .into_iter()
            .filter_map(|(site, of)| Some((site, most(of)?.0)))
            .collect()
    }

    /// Which survivor points to which.
    fn edges<S: Subject>(&mut self, memory: &Memory, subject: &mut S) -> Vec<Vec<u32>> {
        let mut edges = vec![Vec::new(); self.survivors.len()];
        let mut buffer = Vec::new();
        for (from, edges) in edges.iter_mut().enumerate() {
            let Survivor { block, site, grows } = self.survivors[from];
            // Fresh memory holds stale words.
            if subject.is_plain(&block) {
                continue;
            }
            // The collector's list of all objects holds nobody.
            let links = subject.list_links(&block).unwrap_or(usize::MAX);
            let start = block.address.next_multiple_of(WORD);
            let len = (block.address + block.size).saturating_sub(start).min(MOST_BYTES);
            buffer.resize(len, 0);
            memory.read(start, &mut buffer);
            for (at, word) in buffer.chunks_exact(WORD).enumerate() {
                let value = usize::from_ne_bytes(word.try_into().unwrap_or_default());
                let place = start + at * WORD;
                if place == links || place == links.wrapping_add(WORD) {
                    continue;
                }
                match self.at(value) {
                    // A pointer to some other part of itself is no reference.
                    Some(to) if to == from && value == block.address => self.own_start.push(from),
                    Some(to) if to == from => {}
                    Some(to) if grows => *self.arrays.entry((site, self.survivors[to].site)).or_default() += 1,
                    // Fresh blocks hold stale words, and there is but one such array.
                    Some(to) if self.survivors[to].grows => {}
                    Some(to) => edges.push(to as u32),
                    None => {}
                }
            }
        }
        edges
    }

    /// The survivor that the address lies in.
    fn at(&self, address: usize) -> Option<usize> {
        let after = self
            .survivors
            .partition_point(|survivor| survivor.block.address <= address);
        let at = after.checked_sub(1)?;
        let block = &self.survivors[at].block;
        (address < block.address + block.size.max(1)).then_some(at)
    }

    /// Parts and their roots. Tarjan's algorithm (SIAM J. Comput. 1, 1972) finds a part after all that it reaches.
    fn group(&mut self, edges: &[Vec<u32>]) {
        let count = edges.len();
        self.part = vec![NOT_YET; count];
        let (mut index, mut low) = (vec![NOT_YET; count], vec![0u32; count]);
        let (mut open, mut path): (Vec<u32>, Vec<(u32, usize)>) = (Vec::new(), Vec::new());
        let mut next = 0;
        for start in 0..count as u32 {
            if index[start as usize] != NOT_YET {
                continue;
            }
            path.push((start, 0));
            while let Some((at, done)) = path.pop() {
                let here = at as usize;
                if done == 0 {
                    (index[here], low[here]) = (next, next);
                    next += 1;
                    open.push(at);
                } else {
                    low[here] = low[here].min(low[edges[here][done - 1] as usize]);
                }
                let mut done = done;
                let mut deeper = None;
                while let Some(to) = edges[here].get(done).map(|to| *to as usize) {
                    done += 1;
                    if index[to] == NOT_YET {
                        deeper = Some(to as u32);
                        break;
                    }
                    if self.part[to] == NOT_YET {
                        low[here] = low[here].min(index[to]);
                    }
                }
                if let Some(to) = deeper {
                    path.extend([(at, done), (to, 0)]);
                } else if low[here] == index[here] {
                    self.close(&mut open, at);
                }
            }
        }
        for at in &self.own_start {
            self.circular[self.part[*at] as usize] = true;
        }
        self.find_roots(edges);
    }

    /// The open blocks down to `first` are a part.
    fn close(&mut self, open: &mut Vec<u32>, first: u32) {
        let part = self.circular.len() as u32;
        let mut size = 0;
        while let Some(at) = open.pop() {
            self.part[at as usize] = part;
            size += 1;
            if at == first {
                break;
            }
        }
        self.circular.push(size > 1);
    }

    /// From the parts that were found last, which nobody found later reaches, to what they reach.
    fn find_roots(&mut self, edges: &[Vec<u32>]) {
        self.root = vec![NOT_YET; self.circular.len()];
        let mut blocks: Vec<u32> = (0..edges.len() as u32).collect();
        blocks.sort_unstable_by_key(|at| std::cmp::Reverse(self.part[*at as usize]));
        for at in blocks {
            let part = self.part[at as usize];
            if self.root[part as usize] == NOT_YET {
                self.root[part as usize] = part;
            }
            for to in &edges[at as usize] {
                let reached = self.part[*to as usize] as usize;
                if self.root[reached] == NOT_YET {
                    self.root[reached] = self.root[part as usize];
                }
            }
        }
    }
}

/// Leaves the youngest births as long as they are few and small, and all that grows.
fn keep_youngest(survivors: &mut Vec<Survivor>) {
    survivors.sort_unstable_by_key(|survivor| (!survivor.grows, std::cmp::Reverse(survivor.block.birth)));
    let first = survivors.partition_point(|survivor| survivor.grows);
    let (mut complete, mut bytes) = (first, 0);
    for at in first..survivors.len() {
        if survivors[at].block.birth != survivors[complete].block.birth {
            complete = at;
        }
        bytes += survivors[at].block.size;
        if at - first >= MOST_BLOCKS || bytes > MOST_BYTES {
            // One call alone may be too many.
            survivors.truncate(if complete == first { at.max(first + 1) } else { complete });
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use leaktight_liveset::Family;

    use super::*;
    use crate::subject::Planted;

    struct Nobody;

    impl Subject for Nobody {
        type Error = std::convert::Infallible;

        fn call(&mut self) -> Result<(), Self::Error> {
            Ok(())
        }

        fn name(&self) -> String {
            String::new()
        }

        fn runtime(&self) -> String {
            String::new()
        }

        fn plant(&mut self) -> Vec<Planted> {
            Vec::new()
        }
    }

    /// Blocks of so many words at real addresses, with pointers between them as given.
    fn owners(sites: &[usize], grows: &[usize], edges: &[(usize, usize)]) -> (Vec<[usize; 8]>, Owners) {
        let mut memory: Vec<[usize; 8]> = vec![[0; 8]; sites.len()];
        let mut used = vec![0; sites.len()];
        for (from, to) in edges {
            let target = memory[*to].as_ptr() as usize;
            memory[*from][used[*from]] = target;
            used[*from] += 1;
        }
        let survivor = |(at, block): (usize, &[usize; 8])| Survivor {
            block: Block {
                address: block.as_ptr() as usize,
                size: 64,
                birth: 1,
                stack: 0,
                family: Family::Malloc,
                foreign: false,
            },
            site: sites[at],
            grows: grows.contains(&at),
        };
        let survivors = memory.iter().enumerate().map(survivor).collect();
        let owners = Owners::find(survivors, &mut Nobody);
        (memory, owners)
    }

    fn address(memory: &[[usize; 8]], at: usize) -> usize {
        memory[at].as_ptr() as usize
    }

    #[test]
    fn a_chain_belongs_to_its_start() {
        let (memory, owners) = owners(&[7, 8, 9], &[], &[(2, 1), (1, 0)]);
        assert_eq!(owners.of_sites(&|_| 0), HashMap::from([(7, 9), (8, 9), (9, 9)]));
        assert!(owners.is_root(address(&memory, 2)) && !owners.is_root(address(&memory, 0)));
        assert!(!owners.is_circular(address(&memory, 2)));
    }

    #[test]
    fn who_points_into_a_circle_owns_it() {
        // 0 and 1 point to each other and back to 2, which owns them but is in no circle with 3, its owner.
        let (memory, owners) = owners(&[1, 2, 3, 4], &[], &[(3, 2), (2, 0), (0, 1), (1, 0), (1, 2)]);
        assert_eq!(owners.of_sites(&|_| 0), HashMap::from([(1, 4), (2, 4), (3, 4), (4, 4)]));
        assert!(owners.is_circular(address(&memory, 0)) && !owners.is_circular(address(&memory, 3)));
    }

    #[test]
    fn of_a_circle_the_one_of_the_lowest_rank_is_the_head() {
        let (_memory, owners) = owners(&[1, 2, 3], &[], &[(0, 1), (1, 2), (2, 0)]);
        assert_eq!(
            owners.of_sites(&|site| usize::from(site != 2)),
            HashMap::from([(1, 2), (2, 2), (3, 2)])
        );
    }

    #[test]
    fn a_block_that_points_to_its_own_start_is_a_circle() {
        let (memory, owners) = owners(&[1, 2], &[], &[(0, 0)]);
        assert!(owners.is_circular(address(&memory, 0)) && !owners.is_circular(address(&memory, 1)));
    }

    #[test]
    fn strangers_stay_apart_and_an_array_owns_nobody() {
        let (_memory, owners) = owners(&[1, 2, 2, 3], &[0], &[(0, 1), (0, 2), (1, 0)]);
        assert_eq!(owners.of_sites(&|_| 0), HashMap::from([(1, 1), (2, 2), (3, 3)]));
        assert_eq!(owners.arrays, HashMap::from([((1, 2), 2)]));
    }

    #[test]
    fn a_long_list_is_followed_to_its_head() {
        const LEN: usize = 15_000;
        let edges: Vec<(usize, usize)> = (1..LEN).map(|at| (at, at - 1)).collect();
        let sites: Vec<usize> = (0..LEN).map(|at| usize::from(at == LEN - 1)).collect();
        let (_memory, owners) = owners(&sites, &[], &edges);
        assert_eq!(owners.of_sites(&|_| 0), HashMap::from([(0, 1), (1, 1)]));
    }
}

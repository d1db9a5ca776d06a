//! Live blocks gathered by the place that allocated them.

use std::collections::{HashMap, HashSet};

use leaktight_hooks as hooks;
use leaktight_liveset::{Block, Family, MappedVec};
use leaktight_report::{Kind, Look};
use leaktight_stacks::{self as stacks, CapturedStack};
use leaktight_verdict::{Amount, Births, Site};

use crate::reach::Reach;
use crate::subject::Subject;

/// The birth of blocks that other threads allocate while nothing is called.
pub(crate) const IDLE: u32 = u32::MAX;
/// The same, in the times when it is found out who keeps step. Each has another one, as what a thread leaves to the collector
/// may still be there after a time, and would hide as much that comes in the next one. After so many the first comes again.
const IDLE_IN_TURN: std::ops::RangeInclusive<u32> = u32::MAX - 15..=u32::MAX - 3;
/// The highest birth that is a call's.
pub(crate) const LAST_CALL: u32 = u32::MAX - 16;

/// Every place seen so far, with a number that stays.
#[derive(Default)]
pub(crate) struct Sites {
    numbers: HashMap<Place, usize>,
    places: Vec<Place>,
    /// Kind, stack number and thread kind to place.
    by_stack: HashMap<(Option<Kind>, u32, bool), usize>,
    /// Places of other threads that do not keep step with the calls, at this look.
    left_out: Vec<usize>,
    /// The birth of blocks that come in the time when it is found out who keeps step.
    pub idle: u32,
}

/// One place in the code: the native frames up to the interpreter and the Python function that was
/// running.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    /// What was made there; `None` = blocks of memory.
    pub kind: Option<Kind>,
    /// The stack was not captured.
    pub unknown: bool,
    /// By a thread that does not belong to the calls.
    pub foreign: bool,
    native: Vec<u64>,
    code: usize,
}

/// The place that all known blocks of a family and size come from, since the first of them.
#[derive(Clone, Copy)]
struct Adopter {
    place: usize,
    since: u32,
}

/// The live blocks at one moment.
#[derive(Default)]
pub(crate) struct Survey {
    pub sites: Vec<Site>,
    /// Site number and block. In memory of our own: a copy of an address elsewhere would make the
    /// block look reachable.
    blocks: MappedVec<(usize, Block)>,
    /// Live blocks of each site that were born while nothing was called.
    pub idle: Vec<u64>,
}

impl Survey {
    /// What is alive, in sum.
    pub(crate) fn look(&self, calls: u32) -> Look {
        let bytes = |of: &dyn Fn(Family) -> bool| -> u64 {
            let blocks = self.blocks.iter().filter(|(_, block)| of(block.family));
            blocks.map(|(_, block)| block.size as u64).sum()
        };
        Look {
            calls: u64::from(calls),
            blocks: self.blocks.len() as u64,
            bytes: bytes(&|_| true),
            mapped: bytes(&|family| family.is_mapping()),
        }
    }

    /// Live blocks that were born while nothing was called, by site.
    pub(crate) fn idle_by_site(&self) -> HashMap<usize, u64> {
        self.sites
            .iter()
            .map(|site| site.id)
            .zip(self.idle.iter().copied())
            .collect()
    }

    /// The live blocks of each of these sites, oldest first.
    pub(crate) fn blocks_of(&self, sites: impl Iterator<Item = usize>) -> HashMap<usize, Vec<Block>> {
        let mut found: HashMap<usize, Vec<Block>> = sites.map(|site| (site, Vec::new())).collect();
        for (site, block) in self.blocks.iter() {
            if let Some(blocks) = found.get_mut(site) {
                blocks.push(*block);
            }
        }
        found
            .values_mut()
            .for_each(|blocks| blocks.sort_unstable_by_key(|block| block.birth));
        found
    }
}

impl Sites {
    /// Another time begins in which it is found out who keeps step.
    pub(crate) fn begin_idle(&mut self) {
        let next = self.idle + 1;
        self.idle = if IDLE_IN_TURN.contains(&next) {
            next
        } else {
            *IDLE_IN_TURN.start()
        };
    }

    /// Gathers all live blocks that calls left behind, but for what the runtime keeps for each of its functions. Those
    /// that each of `scans` found lost are told.
    pub(crate) fn survey(&mut self, scans: &[&Reach], subject: &impl Subject) -> Survey {
        let mut survey = Survey::default();
        let mut index = HashMap::new();
        let mut kinds: Vec<HashSet<(Family, usize)>> = Vec::new();
        let mut of_kind: HashMap<(Family, usize), u64> = HashMap::new();
        let mut bursts: HashMap<usize, Vec<(u32, u64, bool)>> = HashMap::new();
        let blocks = hooks::live_blocks();
        let adopted = self.adopters(&blocks);
        for block in blocks.iter().copied() {
            let kind = (block.family, block.size);
            *of_kind.entry(kind).or_default() += 1;
            let mut number = self.number(None, block.stack, block.foreign);
            if let Some(adopter) = adopted.get(&(kind, block.foreign))
                && self.places[number].unknown
                && block.birth >= adopter.since
            {
                number = adopter.place;
            }
            if self.left_out.contains(&number) || self.is_of_code(number, &block, subject) {
                continue;
            }
            let at = *index.entry(number).or_insert_with(|| {
                survey.sites.push(Site {
                    id: number,
                    told: !self.places[number].unknown,
                    births: Births::default(),
                    lost: Births::default(),
                    peers: Amount::default(),
                    scarce: false,
                });
                kinds.push(HashSet::new());
                survey.idle.push(0);
                survey.sites.len() - 1
            });
            if block.birth == self.idle {
                survey.idle[at] += 1;
            } else if (1..=LAST_CALL).contains(&block.birth) {
                kinds[at].insert(kind);
                let is_lost = !scans.is_empty() && scans.iter().all(|reach| reach.is_lost(&block));
                match block.foreign {
                    true => bursts
                        .entry(at)
                        .or_default()
                        .push((block.birth, block.size as u64, is_lost)),
                    false => survey.sites[at].add(block.birth, block.size as u64, is_lost),
                }
                // Without memory for it the finding shows fewer blocks, and no figure changes.
                let _ = survey.blocks.push((number, block));
            }
        }
        for (at, mut blocks) in bursts {
            blocks.sort_unstable();
            let births = in_turn(blocks.iter().map(|(birth, ..)| *birth));
            for (birth, (_, size, is_lost)) in births.into_iter().zip(blocks) {
                survey.sites[at].add(birth, size, is_lost);
            }
        }
        for (site, kinds) in survey.sites.iter_mut().zip(kinds) {
            for kind in kinds {
                site.peers.blocks += of_kind[&kind];
                site.peers.bytes += of_kind[&kind] * kind.1 as u64;
            }
        }
        survey
    }

    /// Whether a block belongs to the code object of a function.
    fn is_of_code(&self, number: usize, block: &Block, subject: &impl Subject) -> bool {
        let code = self.places[number].code;
        let is_gone = block.family == Family::PyMem && hooks::was_freed(code);
        subject.is_of_code(block, if is_gone { 0 } else { code })
    }

    /// While another thread unloads a module no stack can be captured. A block from such a moment is
    /// taken for one of the place that all others of its family and size come from, if there is
    /// just one.
    fn adopters(&mut self, blocks: &[Block]) -> HashMap<((Family, usize), bool), Adopter> {
        let mut adopters: HashMap<((Family, usize), bool), Option<Adopter>> = HashMap::new();
        for block in blocks.iter().filter(|block| (1..=LAST_CALL).contains(&block.birth)) {
            let place = self.number(None, block.stack, block.foreign);
            if self.places[place].unknown {
                continue;
            }
            let since = block.birth;
            let adopter = adopters.entry(((block.family, block.size), block.foreign));
            let adopter = adopter.or_insert(Some(Adopter { place, since }));
            *adopter = adopter.filter(|known| known.place == place).map(|known| Adopter {
                since: known.since.min(since),
                ..known
            });
        }
        let one = |(kind, adopter): (_, Option<Adopter>)| Some((kind, adopter?));
        adopters.into_iter().filter_map(one).collect()
    }

    pub(crate) fn place(&self, number: usize) -> &Place {
        &self.places[number]
    }

    /// Leaves these sites out of surveys, and no others.
    pub(crate) fn leave_out(&mut self, numbers: &[usize]) {
        self.left_out = numbers.to_vec();
    }

    /// The number of the place that this stack leads to.
    pub(crate) fn number(&mut self, kind: Option<Kind>, stack: u32, foreign: bool) -> usize {
        let key = (kind, stack, foreign);
        if let Some(known) = self.by_stack.get(&key) {
            return *known;
        }
        let stack = stacks::stack(stack);
        let unknown = stack.is_none();
        let CapturedStack { native, python } = stack.unwrap_or_default();
        let place = Place {
            kind,
            unknown,
            foreign,
            native,
            code: python.first().map_or(0, |frame| frame.code),
        };
        let number = *self.numbers.entry(place.clone()).or_insert_with(|| {
            self.places.push(place);
            self.places.len() - 1
        });
        self.by_stack.insert(key, number);
        number
    }
}

/// Births of blocks, rising, as if each had been born in its turn: a thread behind a queue does at once what many calls
/// have left to it, so what was born together is spread over the calls since the births before. Where it had fallen behind
/// there is more of it than that, and the rest belongs to earlier calls that seem to have left less than others.
fn in_turn(births: impl Iterator<Item = u32>) -> Vec<u32> {
    let births: Vec<u32> = births.collect();
    let mut before = 0;
    let mut spread = Vec::with_capacity(births.len());
    // No call has left more than this, as far as the births tell; the first ones may have.
    let mut most = 1;
    let settled = births.last().map_or(0, |last| last / 8);
    for burst in births.chunk_by(|a, b| a == b) {
        let (last, count) = (burst[0], burst.len() as u64);
        let calls = u64::from(last - before);
        spread.extend((1..=count).map(|at| last - ((count - at) * calls / count) as u32));
        if last > settled {
            most = most.max(spread.len().div_ceil(last as usize));
        }
        before = last;
    }
    let (mut call, mut left) = (u32::MAX, 0);
    for birth in spread.iter_mut().rev() {
        if *birth < call {
            (call, left) = (*birth, most);
        } else if left == 0 {
            (call, left) = ((call - 1).max(1), most);
        }
        *birth = call;
        left -= 1;
    }
    spread
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_born_together_is_spread_over_the_calls_before() {
        let births = |births: &[u32]| in_turn(births.iter().copied());
        assert_eq!(births(&[1, 2, 3, 7]), [1, 2, 3, 7]);
        assert_eq!(births(&[4, 4, 4, 4, 6, 6]), [1, 2, 3, 4, 5, 6]);
        assert_eq!(births(&[2, 2, 2, 2]), [1, 1, 2, 2], "several a call");
        assert_eq!(births(&[10, 10, 20]), [5, 10, 20]);
        assert_eq!(births(&[4, 4, 6, 6, 6, 6]), [1, 2, 3, 4, 5, 6], "it had fallen behind");
        assert_eq!(
            births(&[4, 4, 4, 4, 6, 6, 6, 6, 6, 6, 6, 6]),
            [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6],
            "two a call"
        );
        assert!(births(&[]).is_empty());
    }
}

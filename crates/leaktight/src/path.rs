//! The whole way from a root of the program to a block: a module or static data or a stack, then object by object.
//!
//! Two know parts of it. The runtime knows which object refers to which, and `reach` which block points to which. A way
//! may lead from one to the other: a variable in C holds a list, an object holds memory from `malloc`.

use std::cell::OnceCell;

use leaktight_hooks as hooks;
use leaktight_liveset::{Block, MappedVec};
use leaktight_memory::thread_with_stack;
use leaktight_report::{Step, counted};

use crate::reach::Reach;
use crate::statics;
use crate::subject::{Subject, Way};

/// So many blocks of a chain are asked for their objects.
const MOST_QUESTIONS: usize = 4;

/// What is known of all blocks.
pub(crate) struct Paths<'a> {
    reach: Option<&'a Reach>,
    /// By rising address. In memory of our own, as addresses elsewhere would make blocks look reachable.
    blocks: OnceCell<MappedVec<Block>>,
}

impl<'a> Paths<'a> {
    pub(crate) fn new(reach: Option<&'a Reach>) -> Paths<'a> {
        let blocks = OnceCell::new();
        Paths { reach, blocks }
    }

    /// The way to the first of these blocks of which a root is known; empty if there is none.
    pub(crate) fn to_any<'b, S: Subject>(&self, blocks: impl Iterator<Item = &'b Block>, subject: &mut S) -> Vec<Step> {
        const TRIES: usize = 3;
        let mut ways = blocks.take(TRIES).map(|block| self.to(block, subject));
        ways.find(|way| !way.is_empty()).unwrap_or_default()
    }

    /// The block, its holder, and so on outwards, and the word that holds the last of them; 0: not known.
    fn chain(&self, block: &Block) -> (Vec<Block>, usize) {
        let found = self.reach.and_then(|reach| reach.chain(block.address));
        let (root, holders) = found.unwrap_or_default();
        let known = holders.iter().filter_map(|address| self.around(*address));
        (std::iter::once(*block).chain(known).collect(), root)
    }

    /// The live block that the address lies in.
    fn around(&self, address: usize) -> Option<Block> {
        let blocks = self.blocks.get_or_init(|| {
            let mut blocks = hooks::live_blocks();
            blocks.sort_unstable_by_key(|block| block.address);
            blocks
        });
        let after = blocks.partition_point(|block| block.address <= address);
        let block = blocks[after.checked_sub(1)?];
        is_inside(&block, address).then_some(block)
    }

    fn to<S: Subject>(&self, block: &Block, subject: &mut S) -> Vec<Step> {
        let (chain, root) = self.chain(block);
        // The runtime knows names; so the innermost block that it knows a root of comes first.
        let is_object = |block: &Block, subject: &mut S| subject.type_name(block).is_some();
        let outermost = chain[chain.len() - 1];
        let mut address = outermost.address;
        for at in 0..chain.len().min(MOST_QUESTIONS) {
            if !is_object(&chain[at], subject) {
                continue;
            }
            let Some(way) = subject.path(&chain[at], 0) else {
                continue;
            };
            match way.start {
                // Nobody in the runtime refers to it: the blocks may say who does.
                Some(start) if is_inside(&chain[at], start) && at + 1 == chain.len() => address = start,
                Some(start) if is_inside(&chain[at], start) => {}
                _ => {
                    let steps = self.with_root(way, subject);
                    if !steps.is_empty() {
                        return with_blocks(steps, &chain[..at], subject);
                    }
                }
            }
        }
        if let Some(steps) = self.root(root, subject) {
            return with_blocks(steps, &chain, subject);
        }
        // The outermost block hangs on memory that is not tracked: on an object that was there before, say.
        if !is_object(&outermost, subject)
            && let Some(way) = subject.path(&outermost, root)
        {
            let steps = self.with_root(way, subject);
            if !steps.is_empty() {
                return with_blocks(steps, &chain[..chain.len() - 1], subject);
            }
        }
        // A stale word may have been found first.
        match statics::find(address, subject).and_then(|word| self.root(word, subject)) {
            Some(steps) => with_blocks(steps, &chain, subject),
            None => Vec::new(),
        }
    }

    /// A way with what leads to its start; nothing if that is not known.
    fn with_root<S: Subject>(&self, way: Way, subject: &mut S) -> Vec<Step> {
        let Some(start) = way.start else {
            return way.steps;
        };
        let tracked = self.around(start).map(|block| self.chain(&block));
        if let Some((chain, word)) = tracked
            && let Some(root) = self.root(word, subject)
        {
            return [with_blocks(root, &chain[1..], subject), way.steps].concat();
        }
        let root = statics::find(start, subject).and_then(|word| self.root(word, subject));
        root.map(|root| [root, way.steps].concat()).unwrap_or_default()
    }

    /// The root that a word belongs to, as the first step.
    fn root<S: Subject>(&self, word: usize, subject: &mut S) -> Option<Vec<Step>> {
        let name = statics::holder(word, subject).or_else(|| self.stack(word, subject))?;
        Some(vec![Step {
            name,
            what: String::new(),
        }])
    }

    fn stack<S: Subject>(&self, word: usize, subject: &mut S) -> Option<String> {
        let thread = thread_with_stack(word)?;
        if thread == this_thread() && self.reach.is_none_or(|reach| word < reach.own_stack) {
            return None;
        }
        Some(match subject.thread(thread) {
            Some((name, _)) => format!("the stack of the {}", name.trim_end_matches(", running")),
            None if thread == this_thread() => "the stack of the thread that makes the calls".to_owned(),
            None => format!("the stack of thread {thread}"),
        })
    }
}

fn is_inside(block: &Block, address: usize) -> bool {
    address.wrapping_sub(block.address) < block.size
}

/// The steps, then these blocks, the outermost of which is the last.
fn with_blocks<S: Subject>(mut steps: Vec<Step>, blocks: &[Block], subject: &mut S) -> Vec<Step> {
    for block in blocks.iter().rev() {
        let what = match subject.type_name(block) {
            Some(name) => format!("a `{name}` object"),
            None => format!("a block of {}", counted(block.size as f64, "byte")),
        };
        steps.push(Step {
            name: String::new(),
            what,
        });
    }
    steps
}

fn this_thread() -> i32 {
    // SAFETY: asks for a number.
    unsafe { libc::gettid() }
}

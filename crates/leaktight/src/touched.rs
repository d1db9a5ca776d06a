//! Pages that become resident in mappings that were there before: what allocators of a library's own take from
//! their arenas, and what is written by hand.

use std::collections::VecDeque;

use leaktight_hooks as hooks;
use leaktight_liveset::own_memory;

use leaktight_memory::{Kind, Mapping, Pages, Sizes, mappings, name_of};

/// Notices when the process as a whole takes more and more memory, and then follows where.
#[derive(Default)]
pub(crate) struct Touched {
    /// Resident bytes of the whole process, and live bytes, at the last checkpoints.
    process: VecDeque<(u32, u64, u64)>,
    /// What is followed since there is a suspicion, with the bytes that were resident then.
    followed: Vec<(Mapping, u64)>,
}

impl Touched {
    /// To be called at each checkpoint, with the bytes of all live blocks. Returns what is resident of the
    /// mappings that are followed.
    pub(crate) fn checkpoint(&mut self, call: u32, live: u64) -> Option<u64> {
        if self.followed.is_empty() {
            self.process
                .extend(Sizes::now().map(|sizes| (call, sizes.resident, live)));
            while self.process.front().is_some_and(|(of, ..)| *of < call / 4) {
                self.process.pop_front();
            }
            return None;
        }
        let pages = Pages::open();
        Some(
            self.followed
                .iter()
                .map(|(mapping, _)| pages.resident(mapping.start..mapping.end))
                .sum(),
        )
    }

    /// Whether the process took more memory over the last three quarters of the calls than live blocks explain.
    pub(crate) fn is_suspicious(&self) -> bool {
        const LEAST: u64 = 512 << 10;
        let (Some(first), Some(last)) = (self.process.front(), self.process.back()) else {
            return false;
        };
        let (grown, live) = (last.1.saturating_sub(first.1), last.2.saturating_sub(first.2));
        self.followed.is_empty() && grown >= LEAST && live < grown / 2
    }

    /// Follows from now on all writable mappings in which no live block lies; not malloc's heap, the stack
    /// or our own.
    pub(crate) fn follow(&mut self) {
        let blocks = hooks::live_blocks();
        let own = own_memory();
        let here = 0u8;
        let stack = &raw const here as usize;
        let pages = Pages::open();
        let mappings = mappings().unwrap_or_default();
        let is_candidate = |mapping: &&Mapping| {
            let has = |address: usize| mapping.contains(address);
            mapping.writable
                && !matches!(mapping.kind, Kind::Heap | Kind::Device | Kind::Kernel)
                && !has(stack)
                && !own.iter().any(|(start, _)| has(*start))
                && !blocks.iter().any(|block| has(block.address))
        };
        let candidates = mappings.iter().filter(is_candidate);
        self.followed = candidates
            .map(|mapping| (*mapping, pages.resident(mapping.start..mapping.end)))
            .collect();
    }

    /// The mapping that took most, in words.
    pub(crate) fn name(&self) -> Option<String> {
        let pages = Pages::open();
        let grown =
            |(mapping, before): &&(Mapping, u64)| pages.resident(mapping.start..mapping.end).saturating_sub(*before);
        let (mapping, _) = self.followed.iter().max_by_key(grown)?;
        Some(describe(mapping))
    }
}

/// `64 MiB of anonymous memory`, or of the file.
fn describe(mapping: &Mapping) -> String {
    let size = mapping.size().div_ceil(1 << 20);
    let name = name_of(mapping.start).filter(|_| mapping.kind != Kind::Anonymous);
    format!("{size} MiB of {}", name.as_deref().unwrap_or("anonymous memory"))
}

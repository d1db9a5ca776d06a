//! Pages that become resident in mappings that were there before: what allocators of a library's own take from
//! their arenas, and what is written by hand.

use std::collections::VecDeque;
use std::fs;

use leaktight_hooks as hooks;
use leaktight_liveset::own_memory;

use crate::maps::{Mapping, writable_mappings};
use crate::resident::Pages;

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
                .extend(resident_bytes().map(|resident| (call, resident, live)));
            while self.process.front().is_some_and(|(of, ..)| *of < call / 4) {
                self.process.pop_front();
            }
            return None;
        }
        let pages = Pages::open();
        Some(
            self.followed
                .iter()
                .map(|(mapping, _)| resident(&pages, *mapping))
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
        let mappings = writable_mappings().unwrap_or_default();
        let is_candidate = |mapping: &&Mapping| {
            let has = |address: usize| (mapping.start..mapping.end).contains(&address);
            let is_heap = describe(**mapping).is_none();
            !is_heap
                && !has(stack)
                && !own.iter().any(|(start, _)| has(*start))
                && !blocks.iter().any(|block| has(block.address))
        };
        let candidates = mappings.iter().filter(is_candidate);
        self.followed = candidates
            .map(|mapping| (*mapping, resident(&pages, *mapping)))
            .collect();
    }

    /// The mapping that took most, in words.
    pub(crate) fn name(&self) -> Option<String> {
        let pages = Pages::open();
        let grown = |(mapping, before): &&(Mapping, u64)| resident(&pages, *mapping).saturating_sub(*before);
        let (mapping, _) = self.followed.iter().max_by_key(grown)?;
        describe(*mapping)
    }
}

fn resident(pages: &Pages, mapping: Mapping) -> u64 {
    let mut bytes = 0;
    pages.resident(mapping, &mut |run| bytes += (run.end - run.start) as u64);
    bytes
}

/// Of the whole process (proc(5), statm).
fn resident_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    // SAFETY: sysconf reads a constant of the system.
    Some(pages * unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64)
}

/// `anonymous memory of 64 MiB`, or the file; `None` for malloc's own heap and what is gone.
fn describe(mapping: Mapping) -> Option<String> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| {
        let start = line
            .split('-')
            .next()
            .and_then(|start| usize::from_str_radix(start, 16).ok());
        start == Some(mapping.start)
    })?;
    let size = (mapping.end - mapping.start).div_ceil(1 << 20);
    match line.split_ascii_whitespace().nth(5) {
        Some("[heap]") => None,
        Some(name) if !name.starts_with("/dev/zero") => Some(format!("{size} MiB of {name}")),
        _ => Some(format!("{size} MiB of anonymous memory")),
    }
}

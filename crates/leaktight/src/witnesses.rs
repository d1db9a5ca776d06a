//! What the kernel and the allocators say of themselves, held against the live set: what grows there and is not
//! explained by any block was taken by a way that is not seen here.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use leaktight_hooks as hooks;
use leaktight_liveset::{own_bytes, own_memory};
use leaktight_memory::{Kind, Mapping, Meter, Pages, Sizes, mappings, name_of};
use leaktight_verdict::Judge;

/// One of them, by the number that the judge knows it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Witness {
    /// Pages become resident in mappings that were there before, as far as named.
    Resident(Option<String>),
    /// The kernel counts more mapped memory.
    Mapped,
    /// The allocator that serves `malloc` counts more blocks in use.
    Malloc,
    /// A library's own allocator does: its name, and the file it lives in.
    Private(String, String),
}

const RESIDENT: usize = 0;
const MAPPED: usize = 1;
const MALLOC: usize = 2;
const PRIVATE: usize = 3;

/// What happens before this call is the warm-up's.
const FROM: u32 = 64;

/// Asks the witnesses at checkpoints.
pub(crate) struct Witnesses {
    /// The kernel's figures are about this program alone.
    kernel: Option<Meter>,
    /// Not all of malloc's callers are seen.
    malloc: bool,
    /// There are allocators of libraries' own.
    private: bool,
    /// The resident bytes of the whole process, and live bytes, at the last checkpoints.
    resident: VecDeque<(u32, u64, u64)>,
    /// Mappings whose pages are followed since there is a suspicion, with the bytes that were resident then.
    followed: Vec<(Mapping, u64)>,
    /// Allocators of libraries' own, by their number.
    names: Vec<(String, String)>,
    /// What asking allocators has cost.
    spent: Duration,
}

impl Witnesses {
    /// `kernel`: whether what the process has as a whole is the calls' affair.
    pub(crate) fn new(kernel: bool) -> Witnesses {
        Witnesses {
            kernel: Meter::open().ok().filter(|_| kernel),
            malloc: hooks::not_at_entry().is_some(),
            private: kernel && !leaktight_heap::private_allocators().is_empty(),
            resident: VecDeque::new(),
            followed: Vec::new(),
            names: Vec::new(),
            spent: Duration::ZERO,
        }
    }

    pub(crate) fn asks_kernel(&self) -> bool {
        self.kernel.is_some()
    }

    /// To be called at each checkpoint, so long after the first call.
    pub(crate) fn checkpoint(&mut self, call: u32, elapsed: Duration, judge: &mut Judge) {
        if call < FROM {
            return;
        }
        let totals = hooks::totals();
        let live = totals.own.bytes + totals.foreign.bytes;
        let started = Instant::now();
        // Walking a large heap for its figures takes long, and must not cost more than it is worth.
        const SHARE: u32 = 20;
        if self.spent <= elapsed / SHARE {
            self.ask_allocators(call, live, judge);
            self.spent += started.elapsed();
        }
        if let Some(sizes) = self.kernel.as_ref().and_then(Meter::sizes) {
            self.ask_kernel(call, live, sizes, judge);
        }
    }

    fn ask_kernel(&mut self, call: u32, live: u64, sizes: Sizes, judge: &mut Judge) {
        // Growth of less than some pages at each third of the calls says nothing.
        const LEAST: u64 = 64 << 10;
        let heap = leaktight_heap::statistics_of_malloc().and_then(|told| told.mapped);
        if let Some(heap) = heap {
            judge.watch(MAPPED, call, LEAST, 0.0);
            judge.witness(MAPPED, call, sizes.mapped.saturating_sub(own_bytes() + heap + live));
        }
        if self.followed.is_empty() {
            self.resident.push_back((call, sizes.resident, live));
            while self.resident.front().is_some_and(|(of, ..)| *of < call / 4) {
                self.resident.pop_front();
            }
            return;
        }
        let pages = Pages::open();
        let resident = |(mapping, _): &(Mapping, u64)| pages.resident(mapping.start..mapping.end);
        judge.witness(RESIDENT, call, self.followed.iter().map(resident).sum());
    }

    fn ask_allocators(&mut self, call: u32, live: u64, judge: &mut Judge) {
        const LEAST: u64 = 16 << 10;
        if self.malloc
            && let Ok(told) = leaktight_heap::heap_info()
        {
            judge.watch(MALLOC, call, LEAST, 0.0);
            judge.witness(MALLOC, call, (told.heap_used + told.mmap_used).saturating_sub(live));
        }
        if !self.private {
            return;
        }
        for allocator in leaktight_heap::allocators()
            .into_iter()
            .filter(|allocator| !allocator.serves_malloc)
        {
            let Some(used) = allocator.statistics.ok().and_then(|told| told.used) else {
                continue;
            };
            let name = (allocator.name.to_owned(), allocator.object);
            let number = self.names.iter().position(|known| *known == name).unwrap_or_else(|| {
                self.names.push(name);
                self.names.len() - 1
            });
            judge.watch(PRIVATE + number, call, LEAST, 0.0);
            judge.witness(PRIVATE + number, call, used);
        }
    }

    /// To be called before each look: follows where pages become resident, if the process took more over the last
    /// three quarters of the calls than live blocks explain.
    pub(crate) fn look(&mut self, calls: u32, judge: &mut Judge) {
        const LEAST: u64 = 512 << 10;
        let (Some(first), Some(last)) = (self.resident.front(), self.resident.back()) else {
            return;
        };
        let (grown, live) = (last.1.saturating_sub(first.1), last.2.saturating_sub(first.2));
        if self.followed.is_empty() && grown >= LEAST && live < grown / 2 {
            let rate = grown as f64 / f64::from(last.0.saturating_sub(first.0).max(1));
            self.follow();
            judge.watch(RESIDENT, calls, LEAST, rate);
        }
    }

    /// Follows from now on all writable mappings in which no live block lies; not malloc's heap, the stack
    /// or our own.
    fn follow(&mut self) {
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

    /// Who has this number.
    pub(crate) fn who(&self, number: usize) -> Witness {
        match number {
            RESIDENT => Witness::Resident(self.most_grown()),
            MAPPED => Witness::Mapped,
            MALLOC => Witness::Malloc,
            _ => {
                let (name, file) = self.names.get(number - PRIVATE).cloned().unwrap_or_default();
                Witness::Private(name, file)
            }
        }
    }

    /// The followed mapping that took most, in words.
    fn most_grown(&self) -> Option<String> {
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

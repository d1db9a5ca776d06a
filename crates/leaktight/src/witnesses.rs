//! What the kernel and the allocators say of themselves, held against the live set: what grows there and is not
//! explained by any block was taken by a way that is not seen here.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use leaktight_elf::loaded_objects;
use leaktight_hooks as hooks;
use leaktight_liveset::{own_bytes, own_memory};
use leaktight_memory::{Kind, Mapping, Meter, Pages, Sizes, mappings, name_of, resident_of_files};
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
    /// What may be resident without being the calls' memory.
    others: Option<Others>,
    /// Memory whose pages are followed since there is a suspicion.
    followed: Vec<Place>,
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
            others: None,
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
        if self.others.is_none() {
            self.others = Some(Others::new());
        }
        if self.followed.is_empty() {
            self.resident.push_back((call, sizes.resident, live));
            while self.resident.front().is_some_and(|(of, ..)| *of < call / 4) {
                self.resident.pop_front();
            }
            return;
        }
        let pages = Pages::open();
        // By rising start; of what lies in two places the first counts.
        let mut done = 0;
        let mut resident = 0;
        for place in &self.followed {
            resident += pages.resident(place.range.start.max(done)..place.range.end.max(done));
            done = done.max(place.range.end);
        }
        judge.witness(RESIDENT, call, resident);
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
        let (mut grown, live) = (last.1.saturating_sub(first.1), last.2.saturating_sub(first.2));
        let is_suspicious = |grown| grown >= LEAST && live < grown / 2;
        if !self.followed.is_empty() || !is_suspicious(grown) {
            return;
        }
        grown = grown.saturating_sub(self.others.as_ref().map_or(0, Others::grown));
        if is_suspicious(grown) {
            let rate = grown as f64 / f64::from(last.0.saturating_sub(first.0).max(1));
            self.follow();
            // What is not followed cannot answer the suspicion.
            if !self.followed.is_empty() {
                judge.watch_filling(RESIDENT, calls, LEAST, rate);
            }
        }
    }

    /// Follows from now on: data of libraries that is mostly untouched, large mappings that calls have made, and all
    /// other writable mappings in which no live block lies; not malloc's heap, the stack or our own.
    fn follow(&mut self) {
        /// What is smaller is full before it is told from a cache.
        const LARGE: usize = 1 << 20;
        let (blocks, own) = (hooks::live_blocks(), own_memory());
        let here = 0u8;
        let stack = &raw const here as usize;
        let pages = Pages::open();
        let place = |range, name| Place::new(&pages, range, name);
        let data = data_of_libraries();
        let is_whole = |range: &Range<usize>| blocks.iter().filter(|block| range.contains(&block.address)).count() == 1;
        let large = blocks
            .iter()
            .filter(|block| block.family.is_mapping() && block.size >= LARGE)
            .map(|block| block.address..block.address + block.size)
            .filter(is_whole)
            .map(|range| place(range, None));
        let is_candidate = |mapping: &&Mapping| {
            let has = |address: usize| mapping.contains(address);
            mapping.writable
                && !matches!(mapping.kind, Kind::Heap | Kind::Device | Kind::Kernel)
                && !has(stack)
                && !own.iter().any(|(start, _)| has(*start))
                && !blocks.iter().any(|block| has(block.address))
        };
        let mappings = mappings().unwrap_or_default();
        let others = mappings.iter().filter(is_candidate).filter_map(|mapping| {
            // The kernel may have joined it to the data of a library before it.
            let ends = data.iter().map(|data| &data.range);
            let ends = ends.filter(|range| range.start < mapping.end && mapping.start < range.end);
            let start = ends.map(|range| range.end).max().unwrap_or(mapping.start);
            let name = name_of(mapping.start).filter(|_| mapping.kind != Kind::Anonymous);
            (start < mapping.end).then(|| place(start..mapping.end, name))
        });
        self.followed = large.chain(others).collect();
        self.followed
            .extend(data.into_iter().filter(Place::is_mostly_untouched));
        self.followed.sort_by_key(|place| place.range.start);
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

    /// The followed place that took most, in words.
    fn most_grown(&self) -> Option<String> {
        let pages = Pages::open();
        let grown = |place: &&Place| pages.resident(place.range.clone()).saturating_sub(place.before);
        self.followed.iter().max_by_key(grown).map(Place::describe)
    }
}

/// Files that are read, ordinary data of libraries, which is touched by and by, and the tracker's own memory.
struct Others {
    data: Vec<Place>,
    /// How much of all was resident at first.
    before: u64,
}

impl Others {
    fn new() -> Others {
        let mut data = data_of_libraries();
        data.retain(|place| !place.is_mostly_untouched());
        let mut others = Others { data, before: 0 };
        others.before = others.resident();
        others
    }

    fn resident(&self) -> u64 {
        let pages = Pages::open();
        let own = own_memory()
            .iter()
            .map(|(start, len)| *start..start + len)
            .collect::<Vec<_>>();
        let data = self.data.iter().map(|place| place.range.clone());
        let all: u64 = data.chain(own).map(|range| pages.resident(range)).sum();
        all + resident_of_files().unwrap_or(0)
    }

    fn grown(&self) -> u64 {
        self.resident().saturating_sub(self.before)
    }
}

/// The writable data of the loaded objects.
fn data_of_libraries() -> Vec<Place> {
    let pages = Pages::open();
    let mut data = Vec::new();
    loaded_objects(|object| {
        let name = object.name().to_string_lossy();
        let ranges = object.writable().map(|(start, len)| start..start + len);
        data.extend(ranges.map(|range| Place::new(&pages, range, Some(name.clone().into_owned()))));
    });
    data
}

/// Memory that is followed.
struct Place {
    range: Range<usize>,
    /// The file that it belongs to.
    name: Option<String>,
    /// The bytes that were resident at first.
    before: u64,
}

impl Place {
    fn new(pages: &Pages, range: Range<usize>, name: Option<String>) -> Place {
        let before = pages.resident(range.clone());
        Place { range, name, before }
    }

    /// Whether it may grow for long: ordinary data of libraries is touched by and by, and that comes to an end.
    fn is_mostly_untouched(&self) -> bool {
        const UNTOUCHED: u64 = 8 << 20;
        self.range.len() as u64 >= self.before + UNTOUCHED
    }

    /// `a region of 64 MiB of anonymous memory`, or of the file.
    fn describe(&self) -> String {
        let size = self.range.len().div_ceil(1 << 20);
        let name = self.name.as_deref().unwrap_or("anonymous memory");
        format!("a region of {size} MiB of {name}")
    }
}

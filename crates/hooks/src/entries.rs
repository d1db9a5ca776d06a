//! Standing in front of allocation functions at their entries, so that nobody passes by: not a call by a pointer that
//! was copied long ago, nor one from a library that was loaded a moment ago or lies in a namespace of its own.
//!
//! A *place* is one object that serves these functions. Place 0 is where the loader finds each name first. Others are
//! objects that define `malloc` as well (libc behind a preloaded allocator), and libc loaded once more into another
//! namespace, which `dl_iterate_phdr` does not show: the same file, mapped at another address.
//!
//! What cannot be detoured here is left to `slots`, and [`not_at_entry`] says so.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use leaktight_detour::{Detour, Function, Refusal, prepare, put_in, take_out};
use leaktight_elf::{LoadedObject, loaded_objects};
use leaktight_liveset::MappedVec;
use leaktight_memory::{Mapping, mappings};

use crate::native::{self, PLACES};
use crate::slots::{self, ReplacedFunction, with_resources};
use crate::{mapping, operators, threads};

/// One function, and how it is stood in front of.
struct Entry {
    function: &'static ReplacedFunction,
    place: usize,
    start: usize,
    /// Or why not.
    detour: Result<Detour, Refusal>,
}

struct Entries {
    all: Vec<Entry>,
    /// Where `malloc` of each place is; 0 = there is no such place.
    places: [usize; PLACES],
    /// Functions of resources are among them.
    with_resources: bool,
    /// More allocators than places.
    too_many: bool,
    /// Why a detour could not be put in, this time.
    refused: Option<Refusal>,
}

static ENTRIES: Mutex<Entries> = Mutex::new(Entries {
    all: Vec::new(),
    places: [0; PLACES],
    with_resources: false,
    too_many: false,
    refused: None,
});

fn entries() -> MutexGuard<'static, Entries> {
    ENTRIES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts detours at all entries that are there now. Functions that were found by name are those of place 0.
pub(crate) fn patch() {
    let mut entries = entries();
    entries.find_places();
    let out: Vec<Detour> = entries.detours().filter(Detour::is_out).collect();
    entries.refused = None;
    if out.is_empty() {
        return;
    }
    // SAFETY: entries of objects that are loaded, and hooks that take and return what the functions do.
    if let Err(why) = unsafe { put_in(&out) } {
        entries.refused = Some(why);
    }
}

/// Takes all detours out.
pub(crate) fn restore() {
    let mut entries = entries();
    if entries.places[1..].iter().any(|malloc| *malloc != 0) {
        // What was unloaded meanwhile is not to be touched.
        entries.find_places();
    }
    let all: Vec<Detour> = entries.detours().collect();
    // SAFETY: as in `patch`. Where it fails the hooks stay, and pass through.
    let _ = unsafe { take_out(&all) };
}

/// Whether every call of the function that starts here passes through a hook, so that no slot needs it.
pub(crate) fn is_at_entry(start: usize) -> bool {
    let entries = entries();
    let mut same = entries.all.iter().filter(|entry| entry.start == start);
    entries.refused.is_none() && same.any(|entry| entry.detour.is_ok())
}

/// Where the function itself starts, if its address was replaced by that of a trampoline.
pub(crate) fn start_of(function: &ReplacedFunction) -> Option<usize> {
    let entries = entries();
    let entry = entries
        .all
        .iter()
        .find(|entry| std::ptr::eq(entry.function, function))?;
    Some(entry.start)
}

/// How many functions are stood in front of at their entry.
pub(crate) fn count() -> usize {
    let entries = entries();
    entries.detours().filter(|detour| !detour.is_out()).count()
}

/// What is not seen because functions could not be stood in front of at their entry; `None` when nothing is missed.
pub fn not_at_entry() -> Option<String> {
    let entries = entries();
    let essential = |entry: &&Entry| {
        entry.place == 0
            && native::FUNCTIONS[0][..native::ESSENTIAL]
                .iter()
                .any(|function| std::ptr::eq(function, entry.function))
    };
    let mut missed = entries
        .all
        .iter()
        .filter(essential)
        .filter_map(|entry| Some((entry.function, entry.detour.as_ref().err()?)));
    let by_pointer = "what is allocated or freed through a pointer to a function of malloc's that was copied before";
    match (&entries.refused, missed.next()) {
        (Some(why), _) => Some(format!("{by_pointer} ({why})")),
        (None, Some((function, why))) => Some(format!("{by_pointer} (`{}`: {why})", function.name.to_string_lossy())),
        (None, None) if entries.too_many => Some(format!(
            "more than {PLACES} allocators that serve malloc in one process"
        )),
        (None, None) => None,
    }
}

impl Entries {
    fn detours(&self) -> impl Iterator<Item = Detour> + '_ {
        self.all.iter().filter_map(|entry| entry.detour.as_ref().ok().copied())
    }

    /// Forgets places that are gone and makes detours, which are not in yet, for those that are new.
    fn find_places(&mut self) {
        let mut new: Vec<(&'static ReplacedFunction, usize, Function)> = Vec::new();
        self.too_many = false;
        if self.places[0] == 0 {
            self.places[0] = native::MALLOC[0].load(Ordering::Relaxed);
            new.extend(of_names(always()));
        }
        if with_resources() && !self.with_resources {
            self.with_resources = true;
            new.extend(of_names(resources()));
        }
        let others = other_places(self.places[0]);
        for place in 1..PLACES {
            let known = self.places[place];
            if known != 0 && !others.iter().any(|other| other.malloc == known) {
                self.all.retain(|entry| entry.place != place);
                self.places[place] = 0;
            }
        }
        for other in &others {
            if self.places.contains(&other.malloc) {
                continue;
            }
            let Some(place) = self.places.iter().position(|malloc| *malloc == 0) else {
                self.too_many = true;
                break;
            };
            self.places[place] = other.malloc;
            let functions = functions(place).into_iter().zip(&other.functions);
            new.extend(functions.filter_map(|(function, found)| Some((function, place, (*found)?))));
        }
        self.add(&new);
    }

    fn add(&mut self, new: &[(&'static ReplacedFunction, usize, Function)]) {
        // Two names of one function have one entry; the first serves.
        let mut wanted: Vec<(&'static ReplacedFunction, usize, Function)> = Vec::new();
        for (function, place, at) in new {
            let is_known = |start: usize| start == at.start;
            if !wanted.iter().any(|(_, _, other)| is_known(other.start))
                && !self.all.iter().any(|entry| is_known(entry.start))
            {
                wanted.push((*function, *place, *at));
            }
        }
        let pairs: Vec<(Function, usize)> = wanted
            .iter()
            .map(|(function, _, at)| (*at, function.hook.0 as usize))
            .collect();
        // SAFETY: functions of loaded objects, which `find_places` forgets when they are gone; each hook takes and
        // returns what the function of its name does.
        let made = unsafe { prepare(&pairs) };
        for ((function, place, at), detour) in wanted.into_iter().zip(made) {
            let real = detour.as_ref().map_or(at.start, Detour::original);
            function.real.store(real, Ordering::SeqCst);
            self.all.push(Entry {
                function,
                place,
                start: at.start,
                detour,
            });
        }
    }
}

/// The functions of a place, in an order that is that of all places.
fn functions(place: usize) -> Vec<&'static ReplacedFunction> {
    native::FUNCTIONS[place]
        .iter()
        .chain(&mapping::FUNCTIONS[place])
        .collect()
}

/// The functions of place 0, the operators of its allocator, and those of threads.
fn always() -> impl Iterator<Item = &'static ReplacedFunction> {
    functions(0)
        .into_iter()
        .chain(operators::FUNCTIONS)
        .chain(threads::FUNCTIONS)
}

/// `vfork` finds its caller's frame where the caller left it, so nothing may lie between; and `fork` calls `_Fork` while
/// it holds libc's lock of what is to be done around a fork.
fn resources() -> impl Iterator<Item = &'static ReplacedFunction> {
    slots::resources().filter(|function| ![c"vfork", c"fork", c"_Fork"].contains(&function.name))
}

fn of_names(
    functions: impl Iterator<Item = &'static ReplacedFunction>,
) -> Vec<(&'static ReplacedFunction, usize, Function)> {
    let mut found: Vec<_> = functions
        .map(|function| {
            let start = function.real.load(Ordering::Relaxed);
            // One without a length is refused, and told.
            (function, 0, Function { start, len: 0 })
        })
        .filter(|(_, _, at)| at.start != 0)
        .collect();
    loaded_objects(|object| {
        for (function, _, at) in found.iter_mut().filter(|(_, _, at)| object.executes(at.start)) {
            let here = object.function(function.name).filter(|(start, _)| *start == at.start);
            at.len = here.map_or(0, |(_, len)| len);
        }
    });
    found
}

struct Place {
    malloc: usize,
    functions: Vec<Option<Function>>,
}

/// All places but the one that has this `malloc`.
fn other_places(first: usize) -> Vec<Place> {
    let mut places = Vec::new();
    let mut libc = None;
    loaded_objects(|object| {
        let is_libc = object.defines(c"__libc_start_main").is_some();
        let here = in_object(object);
        if is_libc && let Some(here) = &here {
            libc = Some((object.base, here.functions.clone()));
        }
        let is_loader = object
            .name()
            .to_bytes()
            .rsplit(|byte| *byte == b'/')
            .next()
            .is_some_and(|name| name.starts_with(b"ld-"));
        places.extend(here.filter(|here| here.malloc != first && !is_loader));
    });
    if let Some((base, functions)) = libc {
        let all = mappings().unwrap_or_default();
        places.extend(copies(&all, base).map(|copy| in_copy(&functions, copy.wrapping_sub(base))));
    }
    places
}

fn in_object(object: &LoadedObject<'_>) -> Option<Place> {
    let (malloc, _) = object.function(c"malloc")?;
    let function = |function: &&'static ReplacedFunction| {
        let (start, len) = object.function(function.name)?;
        Some(Function { start, len })
    };
    Some(Place {
        malloc,
        functions: functions(0).iter().map(function).collect(),
    })
}

fn in_copy(functions: &[Option<Function>], distance: usize) -> Place {
    let moved = |function: &Option<Function>| {
        let Function { start, len } = (*function)?;
        Some(Function {
            start: start.wrapping_add(distance),
            len,
        })
    };
    let functions: Vec<Option<Function>> = functions.iter().map(moved).collect();
    let malloc = functions
        .first()
        .copied()
        .flatten()
        .map_or(0, |function| function.start);
    Place { malloc, functions }
}

/// Where the file that is mapped at `base` is mapped once more, with code.
fn copies(all: &MappedVec<Mapping>, base: usize) -> impl Iterator<Item = usize> + '_ {
    let file = all
        .iter()
        .find(|mapping| mapping.contains(base))
        .map_or((0, 0), |mapping| mapping.file);
    let starts = all
        .iter()
        .filter(move |mapping| mapping.file == file && file.1 != 0 && mapping.offset == 0 && mapping.start != base);
    starts.map(|mapping| mapping.start).filter(move |start| {
        let code = all.iter().filter(|mapping| mapping.file == file && mapping.executable);
        let code = code.filter(|mapping| mapping.start.checked_sub(mapping.offset as usize) == Some(*start));
        code.count() > 0
    })
}

//! Putting hooks into relocation slots, and taking them out: of functions that `entries` does not stand in front of.

use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{children, descriptors, entries, mapping, names, native, operators, threads};
use leaktight_elf::{LoadedObject, Slot, loaded_objects};

/// A libc function that we stand in front of.
pub struct ReplacedFunction {
    /// Its name.
    pub name: &'static CStr,
    pub(crate) hook: Hook,
    /// The function that serves it in this process; 0 until found.
    pub(crate) real: &'static AtomicUsize,
}

/// Where a hook function starts.
pub(crate) struct Hook(pub *const ());

// SAFETY: the address of a function, never written through.
unsafe impl Sync for Hook {}

/// How many slots hold our hooks, in how many objects, and how many functions lead to them by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PatchCount {
    /// Functions with a hook at their entry.
    pub entries: usize,
    /// Objects with at least one patched slot.
    pub objects: usize,
    /// Patched slots.
    pub slots: usize,
}

/// Whether the allocator of this process serves operators itself.
static HAS_OPERATORS: AtomicBool = AtomicBool::new(false);

/// Whether what leaves descriptors, names and processes behind is stood in front of, too.
static WITH_RESOURCES: AtomicBool = AtomicBool::new(false);

pub(crate) fn with_resources() -> bool {
    WITH_RESOURCES.load(Ordering::Relaxed)
}

/// Hooks that are in stay: only where there is none it can be turned off.
pub(crate) fn set_with_resources(with: bool) {
    WITH_RESOURCES.store(with, Ordering::Relaxed);
}

/// Every function that is replaced while tracking, if it is found.
pub fn replaced_functions() -> impl Iterator<Item = &'static ReplacedFunction> {
    always_replaced().chain(operators())
}

fn operators() -> &'static [ReplacedFunction] {
    if HAS_OPERATORS.load(Ordering::Relaxed) {
        operators::FUNCTIONS
    } else {
        &[]
    }
}

fn always_replaced() -> impl Iterator<Item = &'static ReplacedFunction> {
    let memory = native::FUNCTIONS[0].iter().chain(&mapping::FUNCTIONS[0]);
    memory
        .chain(threads::FUNCTIONS)
        .chain(resources().filter(|_| with_resources()))
}

/// Those that leave descriptors, names and processes behind.
pub(crate) fn resources() -> impl Iterator<Item = &'static ReplacedFunction> {
    [descriptors::FUNCTIONS, names::FUNCTIONS, children::FUNCTIONS]
        .into_iter()
        .flatten()
}

/// Finds the real functions: of each the definition in the first object that has one, in load
/// order, as the loader itself resolves it. (`dlsym(RTLD_DEFAULT)` would return the PLT stub
/// of a non-PIE program.) Returns the name of an essential one that nobody defines.
pub(crate) fn find_real_functions() -> Result<(), &'static CStr> {
    let mut libc_serves = true;
    loaded_objects(|object| {
        for function in always_replaced() {
            if function.real.load(Ordering::Relaxed) == 0
                && let Some(address) = object.defines(function.name)
            {
                function.real.store(address, Ordering::Relaxed);
            }
        }
        libc_serves &= !is_allocator(object);
    });
    if !libc_serves {
        find_operators();
    }
    let missing = native::FUNCTIONS[0][..native::ESSENTIAL]
        .iter()
        .find(|function| function.real.load(Ordering::Relaxed) == 0);
    missing.map_or(Ok(()), |function| Err(function.name))
}

/// Finds the operators that the allocator itself serves: of each the first definition in load order, if that
/// is the allocator's.
fn find_operators() {
    HAS_OPERATORS.store(true, Ordering::Relaxed);
    for function in operators() {
        let mut first = None;
        loaded_objects(|object| {
            if first.is_none()
                && let Some(address) = object.defines(function.name)
            {
                first = Some(if is_allocator(object) { address } else { 0 });
            }
        });
        function.real.store(first.unwrap_or(0), Ordering::Relaxed);
    }
}

/// Whether this object serves `malloc`, and is not libc.
fn is_allocator(object: &LoadedObject<'_>) -> bool {
    object.contains(native::MALLOC[0].load(Ordering::Relaxed)) && object.defines(c"__libc_start_main").is_none()
}

/// Puts the hooks at the entries of functions, or else into every slot that holds the real function. Safe to repeat:
/// what is patched stays, what is new is added.
///
/// With `skip_own` the shared object that this code lies in stays as it is: then its calls are the
/// tracker's. Otherwise it is also the watched program's, and shares its slots.
pub(crate) fn patch_all(skip_own: bool) -> PatchCount {
    let own = if skip_own { own_object() } else { None };
    entries::patch();
    let mut count = PatchCount {
        entries: entries::count(),
        ..PatchCount::default()
    };
    let known = Known::now();
    let mut patched = patched();
    patched.clear();
    if known.names.is_empty() {
        return count;
    }
    loaded_objects(|object| {
        if own == Some(object.base) {
            return;
        }
        let before = patched.len();
        for slot in object.slots(|name, undefined| known.may_be(name, undefined)) {
            patched.extend(patch(object, &slot, &known).map(|function| (slot.address, function)));
        }
        count.objects += usize::from(patched.len() > before);
    });
    count.slots = patched.len();
    count
}

/// Gives every slot that still holds a hook its real function back.
pub(crate) fn restore_all() {
    entries::restore();
    let patched = std::mem::take(&mut *patched());
    loaded_objects(|object| {
        // What was unloaded meanwhile is not to be touched.
        let here = patched.iter().filter(|(address, _)| object.has_word(*address));
        for (address, function) in here {
            if read(*address) == function.hook.0 as usize {
                write(object, *address, start_of(function));
            }
        }
    });
}

/// Patches by value: the slot must hold the real function, or be unresolved yet (then it points
/// back into its own object's PLT). Never by name alone: CPython's `_decimal` for one fills the
/// words relocated for `malloc` with `PyMem_Malloc`. Returns whose hook the slot holds now.
fn patch(object: &LoadedObject<'_>, slot: &Slot<'_>, known: &Known) -> Option<&'static ReplacedFunction> {
    let value = read(slot.address);
    let function = known.at(value).or_else(|| known.by_name(object, slot, value))?;
    let hook = function.hook.0 as usize;
    (value == hook || write(object, slot.address, hook)).then_some(function)
}

/// The slots that hold our hooks.
static PATCHED: Mutex<Vec<(usize, &'static ReplacedFunction)>> = Mutex::new(Vec::new());

fn patched() -> MutexGuard<'static, Vec<(usize, &'static ReplacedFunction)>> {
    PATCHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hooks and real functions by address, for the many slots that are looked at.
struct Known {
    /// Ascending; two names of one function (`open`, `open64`) stand side by side, and the first serves.
    functions: Vec<(usize, &'static ReplacedFunction)>,
    /// Those that a slot is needed for, by name.
    names: Vec<&'static ReplacedFunction>,
    /// The first two letters of these names, which most others do not begin with.
    beginnings: Vec<[u8; 2]>,
    /// An object's calls of a function that it defines itself count, too: the allocator's own, and those that another
    /// allocator has taken over.
    in_own: bool,
}

impl Known {
    fn now() -> Known {
        let mut names: Vec<_> = replaced_functions()
            .filter(|function| start_of(function) != 0 && !entries::is_at_entry(start_of(function)))
            .collect();
        names.sort_by_key(|function| function.name);
        let both = |function: &&'static ReplacedFunction| {
            [(function.hook.0 as usize, *function), (start_of(function), *function)]
        };
        let mut functions: Vec<_> = names.iter().flat_map(both).collect();
        functions.sort_by_key(|(address, _)| *address);
        let mut beginnings: Vec<_> = names.iter().filter_map(|function| beginning(function.name)).collect();
        beginnings.dedup();
        Known {
            functions,
            beginnings,
            in_own: !operators().is_empty() || names.iter().any(|function| is_allocation(function)),
            names,
        }
    }

    /// Whether a slot of this symbol may hold one of them. Some go by a second name (`__open`), so only the address
    /// tells.
    fn may_be(&self, name: &CStr, undefined: bool) -> bool {
        let is_ours = |start: [u8; 2]| start == *b"__" || self.beginnings.contains(&start);
        (undefined || self.in_own) && beginning(name).is_some_and(is_ours)
    }

    /// Whose address the loader will put into a slot that is not bound yet.
    fn by_name(&self, object: &LoadedObject<'_>, slot: &Slot<'_>, value: usize) -> Option<&'static ReplacedFunction> {
        // libstdc++, for one, defines the operators itself, but is bound to those of the allocator.
        let waits = slot.lazy && object.executes(value) && (slot.undefined || !operators().is_empty());
        let name = if waits { slot.symbol_name() } else { return None };
        let is_operator = |function: &ReplacedFunction| operators().iter().any(|other| std::ptr::eq(other, function));
        let at = self.names.partition_point(|function| function.name < name);
        let mut named = self.names[at..].iter().take_while(|function| function.name == name);
        named.find(|function| slot.undefined || is_operator(function)).copied()
    }

    fn at(&self, address: usize) -> Option<&'static ReplacedFunction> {
        let at = self.functions.partition_point(|(known, _)| *known < address);
        let (known, function) = self.functions.get(at)?;
        (*known == address).then_some(*function)
    }
}

/// The base of the shared object that this code lies in; `None` when that is the main program.
fn own_object() -> Option<usize> {
    let here = own_object as *const () as usize;
    let mut own = None;
    loaded_objects(|object| {
        if !object.name().is_empty() && object.contains(here) {
            own = Some(object.base);
        }
    });
    own
}

fn beginning(name: &CStr) -> Option<[u8; 2]> {
    name.to_bytes().first_chunk().copied()
}

fn is_allocation(function: &ReplacedFunction) -> bool {
    let mut all = native::FUNCTIONS[0].iter().chain(&mapping::FUNCTIONS[0]);
    all.any(|other| std::ptr::eq(other, function))
}

/// Where the function itself is; 0 if it was not found.
fn start_of(function: &ReplacedFunction) -> usize {
    entries::start_of(function).unwrap_or_else(|| function.real.load(Ordering::Relaxed))
}

fn read(slot: usize) -> usize {
    // SAFETY: a relocated word of a loaded object: mapped, aligned, and only ever accessed as a whole word.
    unsafe { (*(slot as *const AtomicUsize)).load(Ordering::Relaxed) }
}

fn write(object: &LoadedObject<'_>, slot: usize, value: usize) -> bool {
    let protected = object.read_only_after_relocation(slot);
    // SAFETY: sysconf reads a constant of the system.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let start = (slot & !(page - 1)) as *mut libc::c_void;
    // SAFETY: the page belongs to the object's RELRO segment; it is made writable for the store only.
    if protected && unsafe { libc::mprotect(start, page, libc::PROT_READ | libc::PROT_WRITE) } != 0 {
        return false;
    }
    // SAFETY: as in `read`, and the page is writable; other threads see the old or the new function, both good.
    unsafe { (*(slot as *const AtomicUsize)).store(value, Ordering::Release) };
    if protected {
        // SAFETY: gives the page the protection that the loader had left it with.
        unsafe { libc::mprotect(start, page, libc::PROT_READ) };
    }
    true
}

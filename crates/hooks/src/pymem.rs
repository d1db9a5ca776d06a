//! CPython's allocator hooks, for the MEM and OBJ domains.
//!
//! The RAW domain ends in `malloc`, where it is seen, so it needs no hook of its own; from 3.15 on it may end in mimalloc as the
//! others do (without a GIL always), and has one then.
//! `PyMem_GetAllocator` and `PyMem_SetAllocator` lie outside the stable ABI and are looked up
//! at run time; both and `PyMemAllocatorEx` are unchanged from CPython 3.5 on (Doc/c-api/memory).

use std::ffi::{c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering, fence};

use leaktight_liveset::{Family, MappedVec, SpinLock};

use crate::followed;
use crate::native::reallocate;
use crate::state::Watch;
use crate::thread::thread;

type Pointer = *mut c_void;

/// `PyMemAllocatorEx`. Ours are told by their functions.
///
/// `PyMem_SetAllocator` writes the five words one by one, and on free-threaded CPython others read them meanwhile: one may
/// call our function with the context of the allocator before, or its function with our context. So ours need no context,
/// and take over the other one's.
#[derive(Clone, Copy)]
#[repr(C)]
struct Allocator {
    context: Pointer,
    malloc: Option<unsafe extern "C" fn(Pointer, usize) -> Pointer>,
    calloc: Option<unsafe extern "C" fn(Pointer, usize, usize) -> Pointer>,
    realloc: Option<unsafe extern "C" fn(Pointer, Pointer, usize) -> Pointer>,
    free: Option<unsafe extern "C" fn(Pointer, Pointer)>,
}

// SAFETY: plain addresses; who calls the functions keeps CPython's rules for them.
unsafe impl Sync for Allocator {}
// SAFETY: as above.
unsafe impl Send for Allocator {}

type Access = unsafe extern "C" fn(c_int, *mut Allocator);

/// One domain: its number in CPython (`PyMemAllocatorDomain`), and whom we stand in front of.
struct Domain {
    number: c_int,
    family: Family,
    /// Our functions, with no context.
    ours: Allocator,
    /// One of those in `KNOWN`, which stay for ever: a thread that is in one of our functions may go by it for a while yet.
    next: AtomicPtr<Allocator>,
    /// Ours stands in the chain, though maybe behind another hook that came later.
    installed: AtomicBool,
    /// The thread (address of its record) that wants to know whether its next block is freed through ours; else 0.
    asking: AtomicUsize,
}

static DOMAINS: [Domain; 3] = [
    Domain::new(1, Family::PyMem, Allocator::ours::<0>()),
    Domain::new(2, Family::PyObject, Allocator::ours::<1>()),
    Domain::new(RAW, Family::PyMem, Allocator::ours::<2>()),
];

const RAW: c_int = 0;
/// What the RAW domain allocates is not seen elsewhere.
static RAW_IS_APART: AtomicBool = AtomicBool::new(false);

static NONE: Allocator = Allocator {
    context: std::ptr::null_mut(),
    malloc: None,
    calloc: None,
    realloc: None,
    free: None,
};

/// Whom we have stood in front of so far: a few, however often hooks come and go.
static KNOWN: SpinLock<MappedVec<&'static Allocator>> = SpinLock::new(MappedVec::new());

/// The functions of the CPython runtime in this process, if there is one.
fn access() -> Option<(Access, Access)> {
    static FOUND: OnceLock<(Access, Access)> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Some(*found);
    }
    // SAFETY: dlsym takes two NUL-terminated names; the functions found have the documented signatures.
    unsafe {
        let get = libc::dlsym(libc::RTLD_DEFAULT, c"PyMem_GetAllocator".as_ptr());
        let set = libc::dlsym(libc::RTLD_DEFAULT, c"PyMem_SetAllocator".as_ptr());
        if get.is_null() || set.is_null() {
            return None;
        }
        let access = (
            std::mem::transmute::<Pointer, Access>(get),
            std::mem::transmute::<Pointer, Access>(set),
        );
        Some(*FOUND.get_or_init(|| access))
    }
}

/// Puts our functions in front of the allocators of both domains; nothing happens without CPython. To be called again
/// after whatever may have taken them out: `tracemalloc.stop()` puts back what stood there when it was started.
///
/// # Safety
///
/// With CPython in the process, the caller is attached to it (holds the GIL, where there is one), and no other thread
/// installs or removes.
pub(crate) unsafe fn install() {
    let Some((get, set)) = access() else { return };
    let raw_is_apart = RAW_IS_APART.load(Ordering::Relaxed);
    for domain in DOMAINS.iter().filter(|domain| domain.number != RAW || raw_is_apart) {
        let mut now = NONE;
        // SAFETY: attached, as CPython wants it; `now` outlives the call.
        unsafe { get(domain.number, &mut now) };
        // A hook that came after ours and stayed calls us already; a second time would close a ring.
        // SAFETY: the allocator that stands there, and this thread is attached.
        if domain.stands_in(&now) || domain.installed.load(Ordering::Relaxed) && unsafe { domain.is_behind(&now) } {
            continue;
        }
        let Some(next) = known(now) else { continue };
        domain.installed.store(true, Ordering::Relaxed);
        domain
            .next
            .store(std::ptr::from_ref(next).cast_mut(), Ordering::Release);
        let mut ours = Allocator {
            context: now.context,
            ..domain.ours
        };
        // For those that find our functions, and read `next` then.
        fence(Ordering::SeqCst);
        // SAFETY: `ours` has the right signatures and lives forever.
        unsafe { set(domain.number, &mut ours) };
    }
}

/// Finds out whether what the RAW domain allocates is seen, and stands in front of it if not. `is_seen` says whether what it
/// runs has left a block in the live set.
///
/// # Safety
///
/// As for `install`.
pub(crate) unsafe fn install_raw(is_seen: impl FnOnce(&mut dyn FnMut()) -> bool) {
    let Some((get, _)) = access() else { return };
    let mut now = NONE;
    // SAFETY: as in `install`.
    unsafe { get(RAW, &mut now) };
    let (Some(malloc), Some(free)) = (now.malloc, now.free) else {
        return;
    };
    let mut block = std::ptr::null_mut();
    // SAFETY: the allocator that stands there; the block is freed below.
    let is_seen = is_seen(&mut || block = unsafe { malloc(now.context, 1) });
    // SAFETY: as above.
    unsafe { free(now.context, block) };
    if !is_seen && !block.is_null() {
        RAW_IS_APART.store(true, Ordering::Relaxed);
        // SAFETY: by the caller's promise.
        unsafe { install() };
    }
}

/// Takes our functions out again where they still stand in front. Where another hook came
/// after ours it goes on calling us, and we pass through.
///
/// # Safety
///
/// As for `install`.
pub(crate) unsafe fn remove() {
    let Some((get, set)) = access() else { return };
    for domain in &DOMAINS {
        let mut now = NONE;
        // SAFETY: as in `install`.
        unsafe { get(domain.number, &mut now) };
        if domain.stands_in(&now) {
            let mut next = *domain.next();
            // SAFETY: `next` is the allocator that stood there before us.
            unsafe { set(domain.number, &mut next) };
            domain.installed.store(false, Ordering::Relaxed);
        }
    }
}

/// The same allocator at an address that stays; `None` without memory for it.
fn known(allocator: Allocator) -> Option<&'static Allocator> {
    let mut known = KNOWN.lock();
    if let Some(found) = known.iter().find(|known| known.words() == allocator.words()) {
        return Some(found);
    }
    let new: &'static Allocator = Box::leak(Box::new(allocator));
    known.push(new).ok().map(|()| new)
}

/// # Safety
///
/// Only in a forked child, before it has a second thread.
pub(crate) unsafe fn unlock_after_fork() {
    // SAFETY: the thread that forked does not hold the lock, and there is no other.
    unsafe { KNOWN.force_unlock() };
}

impl Allocator {
    const fn ours<const DOMAIN: usize>() -> Allocator {
        Allocator {
            context: std::ptr::null_mut(),
            malloc: Some(malloc::<DOMAIN>),
            calloc: Some(calloc::<DOMAIN>),
            realloc: Some(realloc::<DOMAIN>),
            free: Some(free::<DOMAIN>),
        }
    }

    fn words(&self) -> [usize; 5] {
        [
            self.context as usize,
            self.malloc.map_or(0, |function| function as usize),
            self.calloc.map_or(0, |function| function as usize),
            self.realloc.map_or(0, |function| function as usize),
            self.free.map_or(0, |function| function as usize),
        ]
    }
}

impl Domain {
    const fn new(number: c_int, family: Family, ours: Allocator) -> Domain {
        Domain {
            number,
            family,
            ours,
            next: AtomicPtr::new((&raw const NONE).cast_mut()),
            installed: AtomicBool::new(false),
            asking: AtomicUsize::new(0),
        }
    }

    /// Whether an allocator is ours.
    fn stands_in(&self, allocator: &Allocator) -> bool {
        allocator.words()[1..] == self.ours.words()[1..]
    }

    /// Whether an allocator calls our functions in the end.
    ///
    /// # Safety
    ///
    /// It is one of CPython's, and this thread is attached.
    unsafe fn is_behind(&self, allocator: &Allocator) -> bool {
        let (Some(malloc), Some(free)) = (allocator.malloc, allocator.free) else {
            return false;
        };
        self.asking
            .store(std::ptr::from_ref(thread()) as usize, Ordering::Relaxed);
        // SAFETY: by the caller's promise; a block that is freed at once.
        unsafe {
            let block = malloc(allocator.context, 1);
            free(allocator.context, block);
        }
        self.asking.swap(0, Ordering::Relaxed) == 0
    }

    #[inline(always)]
    fn next(&self) -> &'static Allocator {
        // Whoever calls us has read our address without further ado; what was written before it is to be seen.
        fence(Ordering::Acquire);
        // SAFETY: NONE, or one of those in KNOWN, which are never written to or freed.
        unsafe { &*self.next.load(Ordering::Acquire) }
    }
}

// The guard of `Watch` stays up while the next allocator runs: what it takes from malloc or mmap
// is its own affair and would count twice.

unsafe extern "C" fn malloc<const DOMAIN: usize>(_: Pointer, size: usize) -> Pointer {
    let (domain, next) = (&DOMAINS[DOMAIN], DOMAINS[DOMAIN].next());
    let Some(malloc) = next.malloc else {
        return std::ptr::null_mut();
    };
    // SAFETY: the next allocator in the chain, with its own context and the caller's size.
    let call = || unsafe { malloc(next.context, size) };
    let Some(watch) = Watch::allocations() else {
        return call();
    };
    let block = call();
    watch.clear(block, size);
    watch.born(block as usize, size, domain.family);
    block
}

unsafe extern "C" fn calloc<const DOMAIN: usize>(_: Pointer, count: usize, size: usize) -> Pointer {
    let (domain, next) = (&DOMAINS[DOMAIN], DOMAINS[DOMAIN].next());
    let Some(calloc) = next.calloc else {
        return std::ptr::null_mut();
    };
    // SAFETY: as in `malloc`.
    let call = || unsafe { calloc(next.context, count, size) };
    let Some(watch) = Watch::allocations() else {
        return call();
    };
    let block = call();
    watch.born(block as usize, count.wrapping_mul(size), domain.family);
    block
}

unsafe extern "C" fn realloc<const DOMAIN: usize>(_: Pointer, old: Pointer, size: usize) -> Pointer {
    let (domain, next) = (&DOMAINS[DOMAIN], DOMAINS[DOMAIN].next());
    let Some(realloc) = next.realloc else {
        return std::ptr::null_mut();
    };
    // SAFETY: as in `malloc`.
    let call = || unsafe { realloc(next.context, old, size) };
    followed::freed(old as usize);
    reallocate(domain.family, old, size, call)
}

unsafe extern "C" fn free<const DOMAIN: usize>(_: Pointer, block: Pointer) {
    let (domain, next) = (&DOMAINS[DOMAIN], DOMAINS[DOMAIN].next());
    let asking = domain.asking.load(Ordering::Relaxed);
    if asking != 0 && asking == std::ptr::from_ref(thread()) as usize {
        domain.asking.store(0, Ordering::Relaxed);
    }
    let watch = if block.is_null() { None } else { Watch::frees() };
    if let Some(watch) = &watch {
        watch.died(block as usize);
        followed::freed(block as usize);
    }
    if let Some(free) = next.free {
        // SAFETY: as in `malloc`.
        unsafe { free(next.context, block) }
    }
}

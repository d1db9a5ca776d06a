//! CPython's allocator hooks, for the MEM and OBJ domains.
//!
//! The RAW domain ends in `malloc`, whose slot is patched, so it needs no hook of its own.
//! `PyMem_GetAllocator` and `PyMem_SetAllocator` lie outside the stable ABI and are looked up
//! at run time; both and `PyMemAllocatorEx` are unchanged from CPython 3.5 on (Doc/c-api/memory).

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use leaktight_liveset::Family;

use crate::followed;
use crate::native::reallocate;
use crate::state::Watch;

type Pointer = *mut c_void;

/// `PyMemAllocatorEx`. Ours are told by their context, the address of a static of ours.
#[derive(Clone, Copy)]
#[repr(C)]
struct Allocator {
    context: Pointer,
    malloc: Option<unsafe extern "C" fn(Pointer, usize) -> Pointer>,
    calloc: Option<unsafe extern "C" fn(Pointer, usize, usize) -> Pointer>,
    realloc: Option<unsafe extern "C" fn(Pointer, Pointer, usize) -> Pointer>,
    free: Option<unsafe extern "C" fn(Pointer, Pointer)>,
}

type Access = unsafe extern "C" fn(c_int, *mut Allocator);

/// One domain: its number in CPython (`PyMemAllocatorDomain`), and whom we stand in front of.
struct Domain {
    number: c_int,
    family: Family,
    next: UnsafeCell<Allocator>,
    /// Ours stands in the chain, though maybe behind another hook that came later.
    installed: AtomicBool,
    /// The last block was freed through ours.
    called: AtomicBool,
}

// SAFETY: `next` is written only by `install`, with the GIL held, while our functions cannot be reached; they are only
// called with the GIL held, too.
unsafe impl Sync for Domain {}

static DOMAINS: [Domain; 2] = [Domain::new(1, Family::PyMem), Domain::new(2, Family::PyObject)];

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
/// With CPython in the process, the caller holds the GIL.
pub(crate) unsafe fn install() {
    let Some((get, set)) = access() else { return };
    for domain in &DOMAINS {
        let mut ours = domain.hooks();
        let mut now = Allocator::NONE;
        // SAFETY: the GIL is held, so nobody changes allocators meanwhile; `now` outlives the call.
        unsafe { get(domain.number, &mut now) };
        // A hook that came after ours and stayed calls us already; a second time would close a ring.
        // SAFETY: the allocator that stands there, and the GIL is held.
        if now.context == ours.context || domain.installed.load(Ordering::Relaxed) && unsafe { domain.is_behind(&now) }
        {
            continue;
        }
        domain.installed.store(true, Ordering::Relaxed);
        // SAFETY: see `Sync for Domain`.
        unsafe { *domain.next.get() = now };
        // SAFETY: `ours` has the right signatures and lives forever.
        unsafe { set(domain.number, &mut ours) };
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
        let mut now = Allocator::NONE;
        // SAFETY: as in `install`.
        unsafe { get(domain.number, &mut now) };
        if now.context == domain.hooks().context {
            let mut next = domain.next();
            // SAFETY: `next` is the allocator that stood there before us.
            unsafe { set(domain.number, &mut next) };
            domain.installed.store(false, Ordering::Relaxed);
        }
    }
}

impl Allocator {
    const NONE: Allocator = Allocator {
        context: std::ptr::null_mut(),
        malloc: None,
        calloc: None,
        realloc: None,
        free: None,
    };
}

impl Domain {
    const fn new(number: c_int, family: Family) -> Domain {
        Domain {
            number,
            family,
            next: UnsafeCell::new(Allocator::NONE),
            installed: AtomicBool::new(false),
            called: AtomicBool::new(false),
        }
    }

    fn hooks(&'static self) -> Allocator {
        Allocator {
            context: (self as *const Domain).cast_mut().cast(),
            malloc: Some(malloc),
            calloc: Some(calloc),
            realloc: Some(realloc),
            free: Some(free),
        }
    }

    /// Whether an allocator calls our functions in the end.
    ///
    /// # Safety
    ///
    /// It is one of CPython's, and the GIL is held.
    unsafe fn is_behind(&self, allocator: &Allocator) -> bool {
        let (Some(malloc), Some(free)) = (allocator.malloc, allocator.free) else {
            return false;
        };
        self.called.store(false, Ordering::Relaxed);
        // SAFETY: by the caller's promise; a block that is freed at once.
        unsafe {
            let block = malloc(allocator.context, 1);
            free(allocator.context, block);
        }
        self.called.load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn next(&self) -> Allocator {
        // SAFETY: see `Sync for Domain`.
        unsafe { *self.next.get() }
    }
}

/// The domain behind a context pointer that we handed to CPython.
#[inline(always)]
fn domain<'a>(context: Pointer) -> &'a Domain {
    // SAFETY: CPython passes back the context of `hooks`, which is one of the static DOMAINS.
    unsafe { &*context.cast::<Domain>() }
}

// The guard of `Watch` stays up while the next allocator runs: what it takes from malloc or mmap
// is its own affair and would count twice.

unsafe extern "C" fn malloc(context: Pointer, size: usize) -> Pointer {
    let (domain, next) = (domain(context), domain(context).next());
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

unsafe extern "C" fn calloc(context: Pointer, count: usize, size: usize) -> Pointer {
    let (domain, next) = (domain(context), domain(context).next());
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

unsafe extern "C" fn realloc(context: Pointer, old: Pointer, size: usize) -> Pointer {
    let (domain, next) = (domain(context), domain(context).next());
    let Some(realloc) = next.realloc else {
        return std::ptr::null_mut();
    };
    // SAFETY: as in `malloc`.
    let call = || unsafe { realloc(next.context, old, size) };
    followed::freed(old as usize);
    reallocate(domain.family, old, size, call)
}

unsafe extern "C" fn free(context: Pointer, block: Pointer) {
    let (domain, next) = (domain(context), domain(context).next());
    if !domain.called.load(Ordering::Relaxed) {
        domain.called.store(true, Ordering::Relaxed);
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

//! The `malloc` family.

use std::ffi::{c_int, c_void};
use std::mem::transmute;
use std::sync::atomic::{AtomicUsize, Ordering};

use leaktight_liveset::Family;

use crate::slots::{Hook, ReplacedFunction};
use crate::state::Watch;

/// Declares one hook: where the real function's address is kept, and how to call it.
macro_rules! real {
    ($real:ident, $name:ident, fn($($type:ty),*) -> $result:ty) => {
        pub(crate) static $real: AtomicUsize = AtomicUsize::new(0);

        #[inline(always)]
        fn $name() -> unsafe extern "C" fn($($type),*) -> $result {
            let address = $real.load(Ordering::Relaxed);
            // SAFETY: `find_real_functions` stored the address of the libc function of this very signature
            // before any slot was patched, and a hook is only reached through a patched slot.
            unsafe { transmute(address) }
        }
    };
}
pub(crate) use real;

/// One entry of a table of replaced functions.
macro_rules! function {
    ($name:literal, $hook:path, $real:path) => {
        ReplacedFunction {
            name: $name,
            hook: Hook($hook as *const ()),
            real: &$real,
        }
    };
}
pub(crate) use function;

type Pointer = *mut c_void;

real!(MALLOC, real_malloc, fn(usize) -> Pointer);
real!(CALLOC, real_calloc, fn(usize, usize) -> Pointer);
real!(REALLOC, real_realloc, fn(Pointer, usize) -> Pointer);
real!(REALLOCARRAY, real_reallocarray, fn(Pointer, usize, usize) -> Pointer);
real!(FREE, real_free, fn(Pointer) -> ());
real!(
    POSIX_MEMALIGN,
    real_posix_memalign,
    fn(*mut Pointer, usize, usize) -> c_int
);
real!(ALIGNED_ALLOC, real_aligned_alloc, fn(usize, usize) -> Pointer);
real!(MEMALIGN, real_memalign, fn(usize, usize) -> Pointer);
real!(VALLOC, real_valloc, fn(usize) -> Pointer);
real!(PVALLOC, real_pvalloc, fn(usize) -> Pointer);

/// The first so many of [`FUNCTIONS`] exist in every libc.
pub(crate) const ESSENTIAL: usize = 4;

pub(crate) static FUNCTIONS: &[ReplacedFunction] = &[
    function!(c"malloc", malloc, MALLOC),
    function!(c"calloc", calloc, CALLOC),
    function!(c"realloc", realloc, REALLOC),
    function!(c"free", free, FREE),
    function!(c"reallocarray", reallocarray, REALLOCARRAY),
    function!(c"posix_memalign", posix_memalign, POSIX_MEMALIGN),
    function!(c"aligned_alloc", aligned_alloc, ALIGNED_ALLOC),
    function!(c"memalign", memalign, MEMALIGN),
    function!(c"valloc", valloc, VALLOC),
    function!(c"pvalloc", pvalloc, PVALLOC),
];

// SAFETY of the calls below: each hook hands its own arguments to the real function of the same
// name, so whatever made the caller's call right makes ours right.

unsafe extern "C" fn malloc(size: usize) -> Pointer {
    // SAFETY: see above.
    let call = || unsafe { real_malloc()(size) };
    allocate(Family::Malloc, size, call)
}

unsafe extern "C" fn calloc(count: usize, size: usize) -> Pointer {
    // SAFETY: see above.
    let call = || unsafe { real_calloc()(count, size) };
    allocate(Family::Calloc, count.wrapping_mul(size), call)
}

unsafe extern "C" fn aligned_alloc(alignment: usize, size: usize) -> Pointer {
    // SAFETY: see above.
    let call = || unsafe { real_aligned_alloc()(alignment, size) };
    allocate(Family::Aligned, size, call)
}

unsafe extern "C" fn memalign(alignment: usize, size: usize) -> Pointer {
    // SAFETY: see above.
    let call = || unsafe { real_memalign()(alignment, size) };
    allocate(Family::Aligned, size, call)
}

unsafe extern "C" fn valloc(size: usize) -> Pointer {
    // SAFETY: see above.
    let call = || unsafe { real_valloc()(size) };
    allocate(Family::Aligned, size, call)
}

unsafe extern "C" fn pvalloc(size: usize) -> Pointer {
    // SAFETY: see above.
    let call = || unsafe { real_pvalloc()(size) };
    allocate(Family::Aligned, size, call)
}

unsafe extern "C" fn posix_memalign(result: *mut Pointer, alignment: usize, size: usize) -> c_int {
    // SAFETY: see above.
    let call = || unsafe { real_posix_memalign()(result, alignment, size) };
    let Some(watch) = Watch::allocations() else {
        return call();
    };
    let status = call();
    if status == 0 {
        // SAFETY: on success the function has stored a pointer there.
        watch.born(unsafe { *result } as usize, size, Family::Aligned);
    }
    status
}

unsafe extern "C" fn realloc(old: Pointer, size: usize) -> Pointer {
    // SAFETY: see above.
    let call = || unsafe { real_realloc()(old, size) };
    reallocate(Family::Realloc, old, size, call)
}

unsafe extern "C" fn reallocarray(old: Pointer, count: usize, size: usize) -> Pointer {
    // SAFETY: see above.
    let call = || unsafe { real_reallocarray()(old, count, size) };
    reallocate(Family::Realloc, old, count.wrapping_mul(size), call)
}

unsafe extern "C" fn free(block: Pointer) {
    let watch = if block.is_null() { None } else { Watch::frees() };
    if let Some(watch) = &watch {
        // Before the real free: afterwards another thread may be given the same address.
        watch.died(block as usize);
    }
    // SAFETY: see above.
    unsafe { real_free()(block) }
}

#[inline(always)]
pub(crate) fn allocate(family: Family, size: usize, call: impl Fn() -> Pointer) -> Pointer {
    let Some(watch) = Watch::allocations() else {
        return call();
    };
    let block = call();
    watch.born(block as usize, size, family);
    block
}

/// Shared with the PyMem hooks. The old block dies first, for the reason given in `free`; a
/// failed call leaves it alive and so brings it back.
#[inline(always)]
pub(crate) fn reallocate(family: Family, old: Pointer, size: usize, call: impl Fn() -> Pointer) -> Pointer {
    let Some(watch) = Watch::frees() else {
        return call();
    };
    let before = if old.is_null() { None } else { watch.died(old as usize) };
    let new = call();
    // libc's realloc(p, 0) returns NULL and has freed the block.
    if !new.is_null() {
        watch.born(new as usize, size, family);
    } else if let Some(before) = before
        && size != 0
    {
        watch.back(&before);
    }
    new
}

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

/// So many places that serve these functions are followed at a time: that of the names as the loader resolves them,
/// and other allocators, libc's behind a preloaded one or that of another namespace (dlmopen(3)). Each has hooks of
/// its own, which know its real functions.
pub(crate) const PLACES: usize = 4;

/// As `real`, one for each place.
macro_rules! reals {
    ($real:ident, $name:ident, fn($($type:ty),*) -> $result:ty) => {
        pub(crate) static $real: [AtomicUsize; crate::native::PLACES] = [const { AtomicUsize::new(0) }; crate::native::PLACES];

        #[inline(always)]
        fn $name<const PLACE: usize>() -> unsafe extern "C" fn($($type),*) -> $result {
            let address = $real[PLACE].load(Ordering::Relaxed);
            // SAFETY: the address of a function of this very signature, or of its trampoline, stored before
            // anything led to the hook of this place.
            unsafe { transmute(address) }
        }
    };
}
pub(crate) use reals;

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

/// The table of a room's functions for each place.
macro_rules! table {
    ($($name:literal $hook:ident $real:ident,)*) => {
        const fn functions<const PLACE: usize>() -> [ReplacedFunction; [$($name),*].len()] {
            [$(ReplacedFunction { name: $name, hook: Hook($hook::<PLACE> as *const ()), real: &$real[PLACE] }),*]
        }

        pub(crate) static FUNCTIONS: [[ReplacedFunction; [$($name),*].len()]; crate::native::PLACES] =
            [functions::<0>(), functions::<1>(), functions::<2>(), functions::<3>()];
    };
}
pub(crate) use table;

type Pointer = *mut c_void;

reals!(MALLOC, real_malloc, fn(usize) -> Pointer);
reals!(CALLOC, real_calloc, fn(usize, usize) -> Pointer);
reals!(REALLOC, real_realloc, fn(Pointer, usize) -> Pointer);
reals!(REALLOCARRAY, real_reallocarray, fn(Pointer, usize, usize) -> Pointer);
reals!(FREE, real_free, fn(Pointer) -> ());
reals!(
    POSIX_MEMALIGN,
    real_posix_memalign,
    fn(*mut Pointer, usize, usize) -> c_int
);
reals!(ALIGNED_ALLOC, real_aligned_alloc, fn(usize, usize) -> Pointer);
reals!(MEMALIGN, real_memalign, fn(usize, usize) -> Pointer);
reals!(VALLOC, real_valloc, fn(usize) -> Pointer);
reals!(PVALLOC, real_pvalloc, fn(usize) -> Pointer);

/// The first so many of [`FUNCTIONS`] exist in every libc.
pub(crate) const ESSENTIAL: usize = 4;

table! {
    c"malloc" malloc MALLOC,
    c"calloc" calloc CALLOC,
    c"realloc" realloc REALLOC,
    c"free" free FREE,
    c"reallocarray" reallocarray REALLOCARRAY,
    c"posix_memalign" posix_memalign POSIX_MEMALIGN,
    c"aligned_alloc" aligned_alloc ALIGNED_ALLOC,
    c"memalign" memalign MEMALIGN,
    c"valloc" valloc VALLOC,
    c"pvalloc" pvalloc PVALLOC,
}

// SAFETY of the calls below: each hook hands its own arguments to the real function of the same
// name, so whatever made the caller's call right makes ours right.

unsafe extern "C" fn malloc<const PLACE: usize>(size: usize) -> Pointer {
    // SAFETY: see above.
    let call = || unsafe { real_malloc::<PLACE>()(size) };
    allocate(Family::Malloc, size, call)
}

unsafe extern "C" fn calloc<const PLACE: usize>(count: usize, size: usize) -> Pointer {
    // SAFETY: see above.
    let call = || unsafe { real_calloc::<PLACE>()(count, size) };
    allocate(Family::Calloc, count.wrapping_mul(size), call)
}

unsafe extern "C" fn aligned_alloc<const PLACE: usize>(alignment: usize, size: usize) -> Pointer {
    // SAFETY: see above.
    let call = || unsafe { real_aligned_alloc::<PLACE>()(alignment, size) };
    allocate(Family::Aligned, size, call)
}

unsafe extern "C" fn memalign<const PLACE: usize>(alignment: usize, size: usize) -> Pointer {
    // SAFETY: see above.
    let call = || unsafe { real_memalign::<PLACE>()(alignment, size) };
    allocate(Family::Aligned, size, call)
}

unsafe extern "C" fn valloc<const PLACE: usize>(size: usize) -> Pointer {
    // SAFETY: see above.
    let call = || unsafe { real_valloc::<PLACE>()(size) };
    allocate(Family::Aligned, size, call)
}

unsafe extern "C" fn pvalloc<const PLACE: usize>(size: usize) -> Pointer {
    // SAFETY: see above.
    let call = || unsafe { real_pvalloc::<PLACE>()(size) };
    allocate(Family::Aligned, size, call)
}

unsafe extern "C" fn posix_memalign<const PLACE: usize>(result: *mut Pointer, alignment: usize, size: usize) -> c_int {
    // SAFETY: see above.
    let call = || unsafe { real_posix_memalign::<PLACE>()(result, alignment, size) };
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

unsafe extern "C" fn realloc<const PLACE: usize>(old: Pointer, size: usize) -> Pointer {
    // SAFETY: see above.
    let call = || unsafe { real_realloc::<PLACE>()(old, size) };
    reallocate(Family::Realloc, old, size, call)
}

unsafe extern "C" fn reallocarray<const PLACE: usize>(old: Pointer, count: usize, size: usize) -> Pointer {
    // SAFETY: see above.
    let call = || unsafe { real_reallocarray::<PLACE>()(old, count, size) };
    reallocate(Family::Realloc, old, count.wrapping_mul(size), call)
}

unsafe extern "C" fn free<const PLACE: usize>(block: Pointer) {
    let watch = if block.is_null() { None } else { Watch::frees() };
    if let Some(watch) = &watch {
        // Before the real free: afterwards another thread may be given the same address.
        watch.died(block as usize);
    }
    // SAFETY: see above.
    unsafe { real_free::<PLACE>()(block) }
}

#[inline(always)]
pub(crate) fn allocate(family: Family, size: usize, call: impl Fn() -> Pointer) -> Pointer {
    let Some(watch) = Watch::allocations() else {
        return call();
    };
    let block = call();
    if family != Family::Calloc {
        watch.clear(block, size);
    }
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

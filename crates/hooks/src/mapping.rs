//! The `mmap` family.

use std::ffi::{c_int, c_void};
use std::mem::transmute;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::native::real;
use crate::slots::{Hook, ReplacedFunction};
use crate::state::Watch;

type Pointer = *mut c_void;

real!(
    MMAP,
    real_mmap,
    fn(Pointer, usize, c_int, c_int, c_int, libc::off_t) -> Pointer
);
real!(MUNMAP, real_munmap, fn(Pointer, usize) -> c_int);
real!(
    MREMAP,
    real_mremap,
    fn(Pointer, usize, usize, c_int, Pointer) -> Pointer
);

/// `mmap64` is `mmap` under a second name on the 64-bit systems that we support.
static MMAP64: AtomicUsize = AtomicUsize::new(0);

pub(crate) static FUNCTIONS: &[ReplacedFunction] = &[
    ReplacedFunction {
        name: c"mmap",
        hook: Hook(mmap as *const ()),
        real: &MMAP,
    },
    ReplacedFunction {
        name: c"mmap64",
        hook: Hook(mmap as *const ()),
        real: &MMAP64,
    },
    ReplacedFunction {
        name: c"munmap",
        hook: Hook(munmap as *const ()),
        real: &MUNMAP,
    },
    ReplacedFunction {
        name: c"mremap",
        hook: Hook(mremap as *const ()),
        real: &MREMAP,
    },
];

unsafe extern "C" fn mmap(
    at: Pointer,
    len: usize,
    protection: c_int,
    flags: c_int,
    file: c_int,
    offset: libc::off_t,
) -> Pointer {
    // SAFETY: the caller's own arguments, handed on.
    let call = || unsafe { real_mmap()(at, len, protection, flags, file, offset) };
    let Some(watch) = Watch::allocations() else {
        return call();
    };
    let start = call();
    if start != libc::MAP_FAILED {
        watch.mapped(start as usize, len);
    }
    start
}

unsafe extern "C" fn munmap(start: Pointer, len: usize) -> c_int {
    if let Some(watch) = Watch::frees() {
        // Before the call, since the addresses may be mapped anew at once. A failing munmap
        // (unaligned start) unmaps nothing, and no mapping of ours starts unaligned.
        watch.unmapped(start as usize, len);
    }
    // SAFETY: the caller's own arguments, handed on.
    unsafe { real_munmap()(start, len) }
}

/// Declared with its fifth argument always there: callers that pass four leave a register
/// undefined that the kernel reads only under `MREMAP_FIXED`.
unsafe extern "C" fn mremap(old: Pointer, old_len: usize, len: usize, flags: c_int, to: Pointer) -> Pointer {
    // SAFETY: the caller's own arguments, handed on.
    let call = || unsafe { real_mremap()(old, old_len, len, flags, to) };
    let Some(watch) = Watch::frees() else {
        return call();
    };
    let before = watch.unmapped(old as usize, old_len);
    let start = call();
    if start != libc::MAP_FAILED {
        watch.mapped(start as usize, len);
    } else if let Some(before) = before {
        watch.mapping_back(&before);
    }
    start
}

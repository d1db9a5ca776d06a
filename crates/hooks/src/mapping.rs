//! Memory from the kernel: the `mmap` family, the program break, shared segments of System V.

use std::ffi::{c_int, c_long, c_void};
use std::mem::transmute;
use std::sync::atomic::{AtomicUsize, Ordering};

use leaktight_liveset::Family;

use crate::descriptors::note_system_call;
use crate::native::{reals, table};
use crate::slots::{Hook, ReplacedFunction};
use crate::state::Watch;

type Pointer = *mut c_void;

reals!(
    MMAP,
    real_mmap,
    fn(Pointer, usize, c_int, c_int, c_int, libc::off_t) -> Pointer
);
reals!(MUNMAP, real_munmap, fn(Pointer, usize) -> c_int);
reals!(
    MREMAP,
    real_mremap,
    fn(Pointer, usize, usize, c_int, Pointer) -> Pointer
);
reals!(SBRK, real_sbrk, fn(isize) -> Pointer);
reals!(BRK, real_brk, fn(Pointer) -> c_int);
reals!(SHMAT, real_shmat, fn(c_int, Pointer, c_int) -> Pointer);
reals!(SHMDT, real_shmdt, fn(Pointer) -> c_int);
reals!(
    SYSCALL,
    real_syscall,
    fn(c_long, usize, usize, usize, usize, usize, usize) -> c_long
);

/// `mmap64` is `mmap` under a second name on the 64-bit systems that we support.
static MMAP64: [AtomicUsize; crate::native::PLACES] = [const { AtomicUsize::new(0) }; crate::native::PLACES];

table! {
    c"mmap" mmap MMAP,
    c"mmap64" mmap MMAP64,
    c"munmap" munmap MUNMAP,
    c"mremap" mremap MREMAP,
    c"sbrk" sbrk SBRK,
    c"brk" brk BRK,
    c"shmat" shmat SHMAT,
    c"shmdt" shmdt SHMDT,
    c"syscall" syscall SYSCALL,
}

// SAFETY of the calls below: each hook hands its own arguments to the real function of the same name, so whatever
// made the caller's call right makes ours right.

unsafe extern "C" fn mmap<const PLACE: usize>(
    at: Pointer,
    len: usize,
    protection: c_int,
    flags: c_int,
    file: c_int,
    offset: libc::off_t,
) -> Pointer {
    // SAFETY: see above.
    map(len, || unsafe {
        real_mmap::<PLACE>()(at, len, protection, flags, file, offset)
    })
}

unsafe extern "C" fn munmap<const PLACE: usize>(start: Pointer, len: usize) -> c_int {
    // SAFETY: see above.
    unmap(start, len, || unsafe { real_munmap::<PLACE>()(start, len) })
}

/// Declared with its fifth argument always there: callers that pass four leave a register
/// undefined that the kernel reads only under `MREMAP_FIXED`.
unsafe extern "C" fn mremap<const PLACE: usize>(
    old: Pointer,
    old_len: usize,
    len: usize,
    flags: c_int,
    to: Pointer,
) -> Pointer {
    // SAFETY: see above.
    remap(old, old_len, len, || unsafe {
        real_mremap::<PLACE>()(old, old_len, len, flags, to)
    })
}

/// What malloc itself takes by it passes through, being inside of malloc's hook.
unsafe extern "C" fn sbrk<const PLACE: usize>(increment: isize) -> Pointer {
    // SAFETY: see above.
    let call = || unsafe { real_sbrk::<PLACE>()(increment) };
    let Some(watch) = Watch::frees() else {
        return call();
    };
    let before = call();
    if before != libc::MAP_FAILED {
        moved(
            &watch,
            before as usize,
            (before as usize).wrapping_add_signed(increment),
        );
    }
    before
}

unsafe extern "C" fn brk<const PLACE: usize>(to: Pointer) -> c_int {
    // SAFETY: see above.
    let call = || unsafe { real_brk::<PLACE>()(to) };
    let Some(watch) = Watch::frees() else {
        return call();
    };
    // SAFETY: asks where the break is.
    let before = unsafe { libc::sbrk(0) };
    let status = call();
    if status == 0 {
        moved(&watch, before as usize, to as usize);
    }
    status
}

unsafe extern "C" fn shmat<const PLACE: usize>(id: c_int, at: Pointer, flags: c_int) -> Pointer {
    // SAFETY: see above.
    attach(id, || unsafe { real_shmat::<PLACE>()(id, at, flags) })
}

unsafe extern "C" fn shmdt<const PLACE: usize>(start: Pointer) -> c_int {
    // SAFETY: see above.
    detach(start, || unsafe { real_shmdt::<PLACE>()(start) })
}

/// Declared with all arguments that any system call takes: what a caller does not pass, the kernel does not read.
unsafe extern "C" fn syscall<const PLACE: usize>(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    // SAFETY: see above.
    let call = || unsafe { real_syscall::<PLACE>()(number, a, b, c, d, e, f) };
    let (start, address) = (a as Pointer, || call() as Pointer);
    match number {
        libc::SYS_mmap => map(b, address) as c_long,
        libc::SYS_munmap => c_long::from(unmap(start, b, || call() as c_int)),
        libc::SYS_mremap => remap(start, b, c, address) as c_long,
        libc::SYS_shmat => attach(a as c_int, address) as c_long,
        libc::SYS_shmdt => c_long::from(detach(start, || call() as c_int)),
        _ => {
            let result = call();
            note_system_call(number, result);
            result
        }
    }
}

#[inline(always)]
fn map(len: usize, call: impl Fn() -> Pointer) -> Pointer {
    let Some(watch) = Watch::allocations() else {
        return call();
    };
    let start = call();
    if start != libc::MAP_FAILED {
        watch.mapped(start as usize, len, Family::Mmap);
    }
    start
}

#[inline(always)]
fn unmap(start: Pointer, len: usize, call: impl Fn() -> c_int) -> c_int {
    if let Some(watch) = Watch::frees() {
        // Before the call, since the addresses may be mapped anew at once. A failing munmap
        // (unaligned start) unmaps nothing, and no mapping of ours starts unaligned.
        watch.unmapped(start as usize, len);
    }
    call()
}

#[inline(always)]
fn remap(old: Pointer, old_len: usize, len: usize, call: impl Fn() -> Pointer) -> Pointer {
    let Some(watch) = Watch::frees() else {
        return call();
    };
    let before = watch.unmapped(old as usize, old_len);
    let start = call();
    if start != libc::MAP_FAILED {
        watch.mapped(start as usize, len, Family::Mmap);
    } else if let Some(before) = before {
        watch.mapping_back(&before);
    }
    start
}

fn moved(watch: &Watch, from: usize, to: usize) {
    match to.checked_sub(from) {
        Some(0) => {}
        Some(len) => watch.mapped(from, len, Family::Break),
        None => {
            watch.unmapped(to, from - to);
        }
    }
}

fn attach(id: c_int, call: impl Fn() -> Pointer) -> Pointer {
    let Some(watch) = Watch::allocations() else {
        return call();
    };
    let start = call();
    if start != libc::MAP_FAILED {
        // SAFETY: all zero is a value of it, and the kernel fills it in.
        let len = unsafe {
            let mut segment: libc::shmid_ds = std::mem::zeroed();
            match libc::shmctl(id, libc::IPC_STAT, &mut segment) {
                0 => segment.shm_segsz,
                _ => 0,
            }
        };
        watch.mapped(start as usize, len, Family::Shared);
    }
    start
}

fn detach(start: Pointer, call: impl Fn() -> c_int) -> c_int {
    if let Some(watch) = Watch::frees()
        && let Some(len) = watch.mapped_len(start as usize)
    {
        watch.unmapped(start as usize, len);
    }
    call()
}

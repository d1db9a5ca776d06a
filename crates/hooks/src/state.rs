//! Whether we are watching, whom, and where the hooks write to.

mod session;
mod watch;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use leaktight_liveset::{Block, LiveSet, MappedVec, Mappings, SpinLock, Totals};

use crate::followed;
use crate::made;
use crate::marks;
use crate::slots::PatchCount;
use crate::thread::{Thread, thread};
use crate::threads;

pub use session::{Error, Options, Threads, keep_hooks, patch_new_objects, patched, start, stay_installed, stop};
pub(crate) use watch::Watch;

/// Session number in the high half, flags in the low one; 0 = not tracking. One word, so that a
/// hook reads one consistent state.
static STATE: AtomicU64 = AtomicU64::new(0);
const STACKS: u64 = 1;
const ONLY_OWN: u64 = 2;

static LAST_SESSION: AtomicU32 = AtomicU32::new(0);
static CALL: AtomicU32 = AtomicU32::new(0);
/// The last call that was entered, also while none runs.
static LATEST_CALL: AtomicU32 = AtomicU32::new(0);
static LIVE: LiveSet = LiveSet::new();
/// Memory that was freed while stacks are on, by its first byte; live blocks may have been made of it since. Those that
/// are not in the live set are here, too, marked as foreign.
static FREED: LiveSet = LiveSet::new();
static MAPPED: SpinLock<Mappings> = SpinLock::new(Mappings::new());
static OVERFLOWED: AtomicBool = AtomicBool::new(false);
/// A `fn(Frames) -> u32`, or 0.
static CAPTURE: AtomicUsize = AtomicUsize::new(0);
/// A `fn(&Block)`, or 0.
static TOLD: AtomicUsize = AtomicUsize::new(0);
static WITH_PYTHON: AtomicBool = AtomicBool::new(false);
/// What was loaded when the hooks were put in: objects that came and went, and whether those of resources are among them.
type Then = ((u64, u64), bool);

static PATCHED: SpinLock<(PatchCount, Then)> = SpinLock::new((
    PatchCount {
        entries: 0,
        objects: 0,
        slots: 0,
    },
    ((0, 0), false),
));
/// `fn()`s, or 0: called before and after a module is unloaded.
static AROUND_UNLOADING: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
static FORKED: AtomicBool = AtomicBool::new(false);
/// The hooks stay in place between sessions.
static KEEP: AtomicBool = AtomicBool::new(false);

const IN_HOOK: u32 = 1;
const UNWATCHED: u32 = 2;

/// The number that blocks born from now on carry as their birth call.
pub fn enter_call(number: u32) {
    LATEST_CALL.store(number, Ordering::Relaxed);
    CALL.store(number, Ordering::Relaxed);
}

/// The number that blocks carry that are born between calls. Threads that a call has just started still
/// work for that call.
pub fn leave_call(number: u32) {
    CALL.store(number, Ordering::Relaxed);
}

/// Runs `call` with this thread watched: what it allocates counts. Stacks that are captured meanwhile
/// end below this function.
#[inline(never)]
pub fn watched<R>(call: impl FnOnce() -> R) -> R {
    struct Back(usize);
    impl Drop for Back {
        fn drop(&mut self) {
            thread().outermost.set(self.0);
        }
    }
    let here = 0u8;
    let _frame = Back(
        thread()
            .outermost
            .replace(std::ptr::from_ref(std::hint::black_box(&here)) as usize),
    );
    let _guard = set_guard(|_| 0);
    call()
}

/// An address in the frame of [`watched`], if the calling thread is within it; otherwise 0. May be asked by a signal handler.
pub fn outermost() -> usize {
    thread().outermost.get()
}

/// Runs `call` without noting what it allocates. Blocks that it frees are noted as gone.
pub fn unwatched<R>(call: impl FnOnce() -> R) -> R {
    let _back = set_guard(|guard| guard + UNWATCHED);
    call()
}

/// Whether this thread is within [`unwatched`].
pub(crate) fn is_unwatched() -> bool {
    thread().guard.get() & !IN_HOOK != 0
}

fn set_guard(change: impl FnOnce(u32) -> u32) -> impl Drop {
    struct Back(u32);
    impl Drop for Back {
        fn drop(&mut self) {
            thread().guard.set(self.0);
        }
    }
    let guard = &thread().guard;
    Back(guard.replace(change(guard.get())))
}

/// Which part of a stack is the program's, by addresses in the frames on both sides of it.
#[derive(Clone, Copy, Debug)]
pub struct Frames {
    /// In the frame of the hook: it and those that it called are the tracker's.
    pub inside: usize,
    /// In the frame of [`watched`]: it and those that called it are the tracker's. 0 = none.
    pub outside: usize,
}

/// Sets the function that captures the calling thread's stack and returns its number.
///
/// It is called inside the hooks: it must not call a patched function that it relies on to be
/// seen, must not unwind, and must be quick.
pub fn capture_with(capture: fn(Frames) -> u32) {
    CAPTURE.store(capture as usize, Ordering::Release);
}

/// Sets a function that is told of each block with a stack, before its owner has it; `None`: nobody is. It is called inside
/// the hooks, as [`capture_with`]'s, and by any thread.
pub fn tell_births(told: Option<fn(&Block)>) {
    TOLD.store(told.map_or(0, |told| told as usize), Ordering::SeqCst);
}

#[cold]
fn tell_birth(block: &Block) {
    let told = TOLD.load(Ordering::Relaxed);
    if told != 0 {
        // SAFETY: only `tell_births` stores here, and it stores a `fn(&Block)`.
        unsafe { std::mem::transmute::<usize, fn(&Block)>(told)(block) };
    }
}

/// Turns the capturing of stacks on or off, while tracking. With stacks on, fresh blocks are cleared too.
pub fn with_stacks(on: bool) {
    if STATE.load(Ordering::Relaxed) == 0 {
        return;
    }
    if on {
        STATE.fetch_or(STACKS, Ordering::SeqCst);
    } else {
        STATE.fetch_and(!STACKS, Ordering::SeqCst);
    }
}

/// What is alive of all that was allocated since [`start`].
pub fn totals() -> Totals {
    let mut totals = LIVE.totals();
    totals.join(MAPPED.lock().totals());
    totals
}

/// The live block that begins there.
pub fn live_block(address: usize) -> Option<Block> {
    LIVE.get(address)
}

/// Every live block and mapping. When there is no memory for the list, [`overflowed`] says so from
/// then on.
pub fn live_blocks() -> MappedVec<Block> {
    let mut all = MappedVec::new();
    let mut failed = false;
    LIVE.for_each(|block| failed |= all.push(*block).is_err());
    MAPPED
        .lock()
        .blocks()
        .iter()
        .for_each(|block| failed |= all.push(*block).is_err());
    OVERFLOWED.fetch_or(failed, Ordering::Relaxed);
    all
}

/// Memory that was freed since stacks were turned on, as start and end, by rising address and without overlaps: what it
/// holds is dead, unless it is part of a live block.
pub fn freed_memory() -> MappedVec<(usize, usize)> {
    let (mut freed, mut in_use) = (MappedVec::new(), MappedVec::<(usize, usize)>::new());
    FREED.for_each(|block| {
        let list = if block.foreign { &mut in_use } else { &mut freed };
        // Without memory for it, it counts as in use.
        let _ = list.push((block.address, block.address + block.size));
    });
    in_use.sort_unstable();
    freed.sort_unstable();
    let mut all = MappedVec::<(usize, usize)>::new();
    for (start, end) in freed.iter().copied() {
        let next = in_use.partition_point(|(_, used_end)| *used_end <= start);
        if in_use.get(next).is_some_and(|(used, _)| *used < end) {
            continue;
        }
        match all.last_mut() {
            Some(last) if last.1 >= start => last.1 = last.1.max(end),
            _ => {
                let _ = all.push((start, end));
            }
        }
    }
    all
}

/// Whether a block that was allocated since [`start`] lives at this address.
pub fn is_tracked(address: usize) -> bool {
    LIVE.get(address).is_some()
}

/// Whether this very block is still alive.
pub fn is_alive(block: &Block) -> bool {
    LIVE.get(block.address).as_ref() == Some(block)
}

/// Whether the live set ran out of memory, so that it is not complete.
pub fn overflowed() -> bool {
    LIVE.overflowed() || OVERFLOWED.load(Ordering::Relaxed)
}

/// Whether this process is a child that was forked while tracking. A child is not tracked.
pub fn forked() -> bool {
    FORKED.load(Ordering::Relaxed)
}

/// Sets the functions that are called before and after a module may be unloaded (in `dlclose`), on the
/// thread that unloads it, while tracking.
pub fn around_unloading(before: fn(), after: fn()) {
    AROUND_UNLOADING[0].store(before as usize, Ordering::Release);
    AROUND_UNLOADING[1].store(after as usize, Ordering::Release);
}

/// Runs what unloads a module, and around it what was set by [`around_unloading`].
pub(crate) fn unload<R>(unload: impl FnOnce() -> R) -> R {
    let tell = |call: &AtomicUsize| {
        let call = call.load(Ordering::Acquire);
        if call != 0 && STATE.load(Ordering::Relaxed) & STACKS != 0 {
            // SAFETY: only `around_unloading` stores here, and it stores `fn()`s.
            unwatched(|| unsafe { std::mem::transmute::<usize, fn()>(call)() });
        }
    };
    tell(&AROUND_UNLOADING[0]);
    let result = unload();
    tell(&AROUND_UNLOADING[1]);
    result
}

/// The running session if this thread belongs to it, else 0, and the call that it works for.
pub(crate) fn own_session() -> (u32, u32) {
    let session = (STATE.load(Ordering::Relaxed) >> 32) as u32;
    let thread = thread();
    if session == thread.session.get() {
        (session, birth(thread))
    } else {
        (0, 0)
    }
}

/// Makes the calling thread one of the session's, started by this call (0: it is the first).
pub(crate) fn belong_to(session: u32, call: u32) {
    thread().session.set(session);
    thread().started_in.set(call);
}

/// The call that a thread works for: the one that started it, though others may have begun since. A
/// thread that lives for long is a worker, and works for the call that runs.
#[inline(always)]
fn birth(thread: &Thread) -> u32 {
    const LONG: u32 = 512;
    let started = thread.started_in.get();
    if started != 0 && LATEST_CALL.load(Ordering::Relaxed).wrapping_sub(started) <= LONG {
        started
    } else {
        CALL.load(Ordering::Relaxed)
    }
}

//! Whether we are watching, whom, and where the hooks write to.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use leaktight_liveset::{Block, Family, LiveSet, MappedVec, Mappings, SpinLock, Totals};

use crate::followed;
use crate::made;
use crate::marks::{self, Mark};
use crate::pymem;
use crate::slots::{self, PatchCount};
use crate::thread::{Thread, thread};
use crate::threads::{self, forget_threads};
use leaktight_elf::objects_generation;

/// Whose allocations are noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// Those of every thread; blocks of threads that do not belong to the call are marked foreign.
    All,
    /// Only those of the thread that called [`start`] and of threads that it starts.
    Own,
}

/// What to watch.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whose allocations are noted.
    pub threads: Threads,
    /// This code is a module of CPython: stand in front of its MEM and OBJ allocators too, and leave
    /// the calls of this very module alone.
    pub python: bool,
    /// Follow descriptors, names and processes, too.
    pub resources: bool,
    /// Follow the files that are made in folders for temporary files.
    pub files: bool,
}

/// Why tracking could not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// No loaded object defines this function, as in a statically linked program.
    NotDynamic(&'static std::ffi::CStr),
    /// No function could be stood in front of, at its entry or in a relocation slot of any object.
    NothingPatched,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::NotDynamic(name) => write!(
                f,
                "no loaded object defines `{}`, so allocations cannot be seen; is the program linked statically?",
                name.to_string_lossy()
            ),
            Error::NothingPatched => f.write_str(
                "neither malloc itself nor a call of it can be stood in front of, so allocations cannot be seen",
            ),
        }
    }
}

impl std::error::Error for Error {}

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

/// Starts tracking; the calling thread becomes the one whose calls are judged. It is *not*
/// watched itself outside of [`watched`].
///
/// # Errors
///
/// When allocations cannot be seen at all; then nothing was changed.
///
/// # Safety
///
/// Only one session at a time. With `options.python` the caller holds the GIL.
pub unsafe fn start(options: Options) -> Result<(), Error> {
    if options.resources || patched() == PatchCount::default() {
        slots::set_with_resources(options.resources);
    }
    slots::find_real_functions().map_err(Error::NotDynamic)?;
    handle_forks();
    FORKED.store(false, Ordering::Relaxed);
    OVERFLOWED.store(false, Ordering::Relaxed);
    let session = LAST_SESSION.fetch_add(1, Ordering::Relaxed).wrapping_add(1).max(1);
    LIVE.open(session);
    FREED.open(session);
    MAPPED.lock().open(session);
    enter_call(0);
    forget_threads();
    marks::begin();
    made::begin(options.files);
    followed::forget();
    belong_to(session, 0);
    threads::this_thread_checks(true);
    WITH_PYTHON.store(options.python, Ordering::Relaxed);
    // Hooks of an earlier session may have stayed in place.
    patch_new_objects();
    if patched() == PatchCount::default() {
        LIVE.close();
        threads::this_thread_checks(false);
        FREED.close();
        return Err(Error::NothingPatched);
    }
    if options.python {
        // SAFETY: the caller holds the GIL.
        unsafe { pymem::install() };
    }
    let only_own = if options.threads == Threads::Own { ONLY_OWN } else { 0 };
    STATE.store(u64::from(session) << 32 | only_own, Ordering::SeqCst);
    Ok(())
}

/// Stops tracking and takes the hooks out, unless they are to stay. The live set is emptied.
///
/// # Safety
///
/// As for [`start`]; harmless when nothing was started.
pub unsafe fn stop() {
    threads::this_thread_checks(false);
    // In a forked child the tables may be in the middle of a change by a thread of the parent's.
    if !forked() {
        if STATE.swap(0, Ordering::SeqCst) == 0 {
            return;
        }
        LIVE.close();
        FREED.close();
        MAPPED.lock().open(0);
    }
    if !KEEP.load(Ordering::Relaxed) {
        // SAFETY: the caller says so.
        unsafe { take_out() };
    }
}

/// Whether the hooks stay in place, passing everything through, when a session ends. Whoever starts many
/// sessions saves their patching. Off at first; turned off, it takes out what has stayed.
///
/// # Safety
///
/// No session runs. If one ran with [`Options::python`], the caller holds the GIL.
pub unsafe fn keep_hooks(keep: bool) {
    KEEP.store(keep, Ordering::Relaxed);
    if !keep && patched() != PatchCount::default() {
        // SAFETY: the caller says so.
        unsafe { take_out() };
    }
}

/// # Safety
///
/// With CPython's allocators hooked, the caller holds the GIL.
unsafe fn take_out() {
    if WITH_PYTHON.load(Ordering::Relaxed) {
        // SAFETY: the caller holds the GIL.
        unsafe { pymem::remove() };
    }
    slots::restore_all();
    *PATCHED.lock() = Default::default();
}

/// Puts CPython's allocator hooks back if the call has taken them out.
///
/// # Safety
///
/// With [`Options::python`] the caller holds the GIL.
pub unsafe fn stay_installed() {
    if WITH_PYTHON.load(Ordering::Relaxed) {
        // SAFETY: the caller says so.
        unsafe { pymem::install() };
    }
}

/// Patches objects that were loaded since the last look, and says whether any came or went.
/// Cheap when there are none.
pub fn patch_new_objects() -> bool {
    let now = (objects_generation(), slots::with_resources());
    if PATCHED.lock().1 == now {
        return false;
    }
    let count = slots::patch_all(WITH_PYTHON.load(Ordering::Relaxed));
    *PATCHED.lock() = (count, now);
    true
}

/// What is patched now.
pub fn patched() -> PatchCount {
    PATCHED.lock().0
}

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

/// A child is not tracked, and finds no lock held by a thread that it does not have. Nothing is locked before the
/// fork: handlers of others run after that, and OpenBLAS's, for one, ends and starts threads in there.
fn handle_forks() {
    static ONCE: Once = Once::new();
    unsafe extern "C" fn child() {
        if STATE.swap(0, Ordering::SeqCst) != 0 {
            FORKED.store(true, Ordering::Relaxed);
        }
        // SAFETY: the forking thread is the only one here, and forks outside of hooks, where it holds no lock.
        unsafe {
            threads::unlock_after_fork();
            followed::unlock_after_fork();
            marks::unlock_after_fork();
            made::unlock_after_fork();
            MAPPED.force_unlock();
            LIVE.unlock_after_fork();
            FREED.unlock_after_fork();
        }
    }
    // SAFETY: the handler only touches atomics and the locks above.
    ONCE.call_once(|| unsafe {
        libc::pthread_atfork(None, None, Some(child));
    });
}

/// One pass through a hook on a watched thread. While it lives, nested calls pass through unseen.
pub(crate) struct Watch {
    state: u64,
    guard_before: u32,
    own: bool,
    birth: u32,
    /// The guard is this thread's.
    _not_send: PhantomData<*const ()>,
}

impl Watch {
    /// For functions that allocate: `None` when this allocation is not to be noted. With stacks on, what unwatched
    /// threads allocate is noted as memory in use.
    #[inline(always)]
    pub(crate) fn allocations() -> Option<Watch> {
        Watch::enter(|guard, state| guard == 0 || state & STACKS != 0 && guard & IN_HOOK == 0)
    }

    /// For functions that free (and may allocate): frees count on unwatched threads too, since
    /// the block may have been noted when it was allocated.
    #[inline(always)]
    pub(crate) fn frees() -> Option<Watch> {
        Watch::enter(|guard, _| guard & IN_HOOK == 0)
    }

    #[inline(always)]
    fn enter(admits: impl FnOnce(u32, u64) -> bool) -> Option<Watch> {
        let state = STATE.load(Ordering::Relaxed);
        if state == 0 {
            return None;
        }
        let thread = thread();
        let guard = thread.guard.get();
        if !admits(guard, state) {
            return None;
        }
        thread.guard.set(guard | IN_HOOK);
        let own = thread.session.get() == (state >> 32) as u32;
        Some(Watch {
            state,
            guard_before: guard,
            own,
            birth: if own {
                birth(thread)
            } else {
                CALL.load(Ordering::Relaxed)
            },
            _not_send: PhantomData,
        })
    }

    /// Notes a new block; a null pointer is a failed allocation and no block.
    #[inline(always)]
    pub(crate) fn born(&self, address: usize, size: usize, family: Family) {
        if address == 0 {
            return;
        }
        match self.block(address, size, family) {
            Some(block) => {
                LIVE.insert(self.session(), &block);
                if block.stack != 0 {
                    tell_birth(&block);
                }
            }
            None if self.state & STACKS != 0 => self.given_out(address, size, family),
            None => {}
        }
    }

    /// A block that the live set does not have is in use.
    #[cold]
    fn given_out(&self, address: usize, size: usize, family: Family) {
        let block = Block {
            address,
            size,
            birth: 0,
            stack: 0,
            family,
            foreign: true,
        };
        FREED.insert(self.session(), &block);
    }

    /// Notes that a block is about to be freed; returns it when it was noted before.
    #[inline(always)]
    pub(crate) fn died(&self, address: usize) -> Option<Block> {
        let block = LIVE.remove(address);
        if self.state & STACKS != 0 {
            self.taken_back(address, block.as_ref());
        }
        block
    }

    #[cold]
    fn taken_back(&self, address: usize, block: Option<&Block>) {
        /// Larger ones may go back to the kernel, which gives their addresses to anybody (mallopt(3),
        /// `M_MMAP_THRESHOLD`).
        const MOST: usize = 128 << 10;
        let known = FREED.get(address);
        match block {
            Some(block) if block.size < MOST => {
                if known.is_none_or(|known| known.foreign || known.size < block.size) {
                    let block = Block {
                        foreign: false,
                        ..*block
                    };
                    FREED.insert(self.session(), &block);
                }
            }
            // One that was noted as in use, or went back to the kernel.
            _ => {
                FREED.remove(address);
            }
        }
    }

    /// Brings a block back whose realloc failed.
    #[cold]
    pub(crate) fn back(&self, block: &Block) {
        FREED.remove(block.address);
        LIVE.insert(self.session(), block);
    }

    pub(crate) fn mapped(&self, start: usize, len: usize, family: Family) {
        if let Some(block) = self.block(start, len, family) {
            self.mapping_back(&block);
        }
    }

    pub(crate) fn unmapped(&self, start: usize, len: usize) -> Option<Block> {
        let result = MAPPED.lock().remove(start, len);
        OVERFLOWED.fetch_or(result.is_err(), Ordering::Relaxed);
        result.ok().flatten()
    }

    pub(crate) fn mapped_len(&self, start: usize) -> Option<usize> {
        MAPPED.lock().len_of(start)
    }

    pub(crate) fn mapping_back(&self, block: &Block) {
        let failed = MAPPED.lock().insert(self.session(), block).is_err();
        OVERFLOWED.fetch_or(failed, Ordering::Relaxed);
    }

    /// With stacks on, clears what earlier owners left in a fresh block, whose content is undefined: pointers that would
    /// seem to hold what they once held, and the type of an object that is gone.
    #[inline(always)]
    pub(crate) fn clear(&self, block: *mut c_void, size: usize) {
        /// What is larger comes from the kernel, as a rule, and is clear.
        const MOST: usize = 64 << 10;
        if self.state & STACKS != 0 && size <= MOST && !block.is_null() {
            // SAFETY: the allocator just returned `size` bytes there, and nobody else has the pointer yet.
            unsafe { block.cast::<u8>().write_bytes(0, size) };
        }
    }

    #[inline(always)]
    fn block(&self, address: usize, size: usize, family: Family) -> Option<Block> {
        let unwatched = self.guard_before != 0;
        if unwatched || (!self.own && self.state & ONLY_OWN != 0) {
            return None;
        }
        let stack = if self.state & STACKS != 0 { self.capture() } else { 0 };
        Some(Block {
            address,
            size,
            birth: self.birth,
            stack,
            family,
            foreign: !self.own,
        })
    }

    /// Who is doing something that is not an allocation; `None` when it is not to be noted.
    pub(crate) fn mark(&self) -> Option<Mark> {
        let block = self.block(0, 0, Family::Malloc)?;
        Some(Mark {
            birth: block.birth,
            stack: block.stack,
            foreign: block.foreign,
        })
    }

    #[cold]
    fn capture(&self) -> u32 {
        let capture = CAPTURE.load(Ordering::Acquire);
        if capture == 0 {
            return 0;
        }
        let frames = Frames {
            inside: std::ptr::from_ref(self) as usize,
            outside: thread().outermost.get(),
        };
        // SAFETY: only `capture_with` stores here, and it stores a `fn(Frames) -> u32`.
        unsafe { std::mem::transmute::<usize, fn(Frames) -> u32>(capture)(frames) }
    }

    #[inline(always)]
    fn session(&self) -> u32 {
        (self.state >> 32) as u32
    }
}

impl Drop for Watch {
    #[inline(always)]
    fn drop(&mut self) {
        thread().guard.set(self.guard_before);
    }
}

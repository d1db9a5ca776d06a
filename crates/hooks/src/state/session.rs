//! Where tracking begins and ends.

use std::sync::Once;
use std::sync::atomic::Ordering;

use leaktight_elf::objects_generation;

use super::*;
use crate::pymem;
use crate::slots;
use crate::threads::forget_threads;

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
    if options.python {
        let is_seen = |allocate: &mut dyn FnMut()| {
            let before = totals().own.blocks;
            watched(allocate);
            totals().own.blocks > before
        };
        // SAFETY: the caller holds the GIL.
        unsafe { pymem::install_raw(is_seen) };
    }
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
            pymem::unlock_after_fork();
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

//! One tracking session at a time, undone however the check ends.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use leaktight_elf::loaded_objects;
use leaktight_hooks::{self as hooks, Options, PatchCount};
use leaktight_stacks as stacks;
use libc::{PT_GNU_EH_FRAME, PT_LOAD};

use crate::check::Error;
use crate::namespaces;
use crate::origin;
use crate::references;
use crate::room::with_room;

/// The process in the high half and the thread in the low one that run a check; 0 = none does. A forked
/// child finds its parent's number, which is nobody's there.
static OWNER: AtomicU64 = AtomicU64::new(0);

/// What to do when another thread is checking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenBusy {
    Wait,
    Fail,
}

/// Tracking is on for as long as this lives.
pub(crate) struct Session {
    tells_stacks: bool,
}

impl Session {
    pub(crate) fn start<E>(options: Options, busy: WhenBusy) -> Result<Session, Error<E>> {
        take_turn(busy)?;
        hooks::capture_with(|frames| stacks::capture(frames.inside, frames.outside, is_followed));
        hooks::around_unloading(stacks::forget_modules, tell_modules);
        // From here on the drop undoes it all.
        let session = Session { tells_stacks: false };
        // SAFETY: OWNER admits one session, and a subject that says it is Python's holds the GIL.
        unsafe { hooks::start(options) }.map_err(Error::Hooks)?;
        Ok(session)
    }

    /// Captures a stack for every allocation from now on.
    pub(crate) fn tell_stacks(&mut self) {
        if !self.tells_stacks {
            self.tells_stacks = true;
            tell_modules();
            hooks::with_stacks(true);
        }
    }

    /// Lets stacks be captured by others, also where allocations are noted without.
    pub(crate) fn know_modules(&self) {
        if !self.tells_stacks {
            tell_modules();
        }
    }

    /// To be called between calls: hooks objects that were loaded meanwhile.
    pub(crate) fn look_for_new_objects(&self) {
        // SAFETY: a subject that says it is Python's holds the GIL between calls.
        unsafe { hooks::stay_installed() };
        if with_room(hooks::patch_new_objects) && self.tells_stacks {
            tell_modules();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: started by the same thread, which still holds the GIL if it did; nobody captures once the hooks are out.
        unsafe {
            hooks::stop();
            stacks::forget_modules();
            stacks::clear();
        }
        OWNER.store(0, Ordering::SeqCst);
    }
}

/// What tracking would see here: patches all slots once and takes the patches back.
///
/// # Errors
///
/// When nothing can be seen, or a check is running.
pub fn what_is_patched(options: Options) -> Result<PatchCount, Error<std::convert::Infallible>> {
    let _session = Session::start(options, WhenBusy::Fail)?;
    Ok(hooks::patched())
}

/// Whether a code object is not kept alive by the stack store: on a thread that cannot, and one that a call made,
/// which would otherwise seem to be left behind by it.
fn is_followed(code: usize, holds_gil: bool) -> bool {
    let followed = !holds_gil || hooks::is_tracked(code);
    if followed {
        hooks::follow(code);
    }
    followed
}

/// Whether the hooks stay in place, passing everything through, when a check ends: whoever makes many checks
/// saves the patching. Off at first; turned off, it takes out what has stayed, and forgets what checks with
/// [`Check::screen`](crate::Check::screen) have found out about objects.
///
/// # Errors
///
/// When a check is running; then nothing has changed.
///
/// # Safety
///
/// Where a check ran for CPython, the caller holds the GIL.
pub unsafe fn keep_hooks(keep: bool) -> Result<(), Error<std::convert::Infallible>> {
    take_turn(WhenBusy::Fail)?;
    // SAFETY: this thread has the turn, so no session runs; the rest is the caller's word.
    unsafe { hooks::keep_hooks(keep) };
    origin::keep_symbols(keep);
    if !keep {
        references::again::forget();
    }
    OWNER.store(0, Ordering::SeqCst);
    Ok(())
}

fn tell_modules() {
    let mut modules = Vec::new();
    loaded_objects(|object| {
        let loads = || object.headers().filter(|header| header.0 == PT_LOAD);
        let start = loads().map(|(_, start, _)| start).min();
        let end = loads().map(|(_, start, len)| start + len).max();
        let table = object.headers().find(|header| header.0 == PT_GNU_EH_FRAME);
        if let (Some(start), Some(end), Some((_, table, len))) = (start, end, table)
            && let Some((_, segment, segment_len)) = loads().find(|(_, start, len)| table.wrapping_sub(*start) < *len)
        {
            modules.push(stacks::Module {
                base: object.base,
                range: (start, end),
                unwind_table: (table, len),
                unwind_segment: (segment, segment + segment_len),
                copy: None,
            });
        }
    });
    modules.extend(namespaces::modules(&modules));
    // SAFETY: the modules are loaded or copied, and `dlclose` makes the unwinder forget them first.
    unsafe { stacks::set_modules(&modules) };
}

/// Makes this thread the one that checks.
fn take_turn<E>(busy: WhenBusy) -> Result<(), Error<E>> {
    const POLL: Duration = Duration::from_millis(1);
    let me = this_process_and_thread();
    loop {
        let owner = OWNER.load(Ordering::SeqCst);
        let is_free = owner == 0 || owner >> 32 != me >> 32;
        if is_free
            && OWNER
                .compare_exchange(owner, me, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
        {
            return Ok(());
        }
        match busy {
            _ if owner == me => return Err(Error::Nested),
            WhenBusy::Fail => return Err(Error::Busy),
            WhenBusy::Wait => std::thread::sleep(POLL),
        }
    }
}

fn this_process_and_thread() -> u64 {
    // SAFETY: both only ask for a number.
    let (process, thread) = unsafe { (libc::getpid(), libc::gettid()) };
    (process as u64) << 32 | thread as u64
}

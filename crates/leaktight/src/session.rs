//! One tracking session at a time, undone however the check ends.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use leaktight_hooks::{self as hooks, Options, PatchCount, loaded_objects};
use leaktight_stacks as stacks;

use crate::check::Error;

/// A number for the thread that runs a check; 0 = none does.
static OWNER: AtomicUsize = AtomicUsize::new(0);
static WAITING: Mutex<()> = Mutex::new(());

/// What to do when another thread is checking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenBusy {
    Wait,
    Fail,
}

/// Tracking is on for as long as this lives.
pub(crate) struct Session {
    tells_stacks: bool,
    _turn: Option<std::sync::MutexGuard<'static, ()>>,
}

impl Session {
    pub(crate) fn start<E>(options: Options, busy: WhenBusy) -> Result<Session, Error<E>> {
        let me = thread_number();
        if OWNER.load(Ordering::SeqCst) == me {
            return Err(Error::Nested);
        }
        let turn = match busy {
            WhenBusy::Wait => Some(WAITING.lock().unwrap_or_else(|poisoned| poisoned.into_inner())),
            WhenBusy::Fail => None,
        };
        if OWNER
            .compare_exchange(0, me, Ordering::SeqCst, Ordering::SeqCst)
            .is_err()
        {
            return Err(Error::Busy);
        }
        hooks::capture_with(stacks::capture);
        hooks::before_unloading(stacks::forget_modules);
        // From here on the drop undoes it all.
        let session = Session {
            tells_stacks: false,
            _turn: turn,
        };
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

    /// To be called between calls: hooks objects that were loaded meanwhile.
    pub(crate) fn look_for_new_objects(&self) {
        if hooks::patch_new_objects() && self.tells_stacks {
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

fn tell_modules() {
    const PT_LOAD: u32 = 1;
    const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
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
            });
        }
    });
    // SAFETY: the modules are loaded, and `dlclose` makes the unwinder forget them first.
    unsafe { stacks::set_modules(&modules) };
}

fn thread_number() -> usize {
    thread_local!(static MARK: u8 = const { 0 });
    MARK.with(|mark| std::ptr::from_ref(mark) as usize)
}

//! Where and in which call descriptors came to be.
//!
//! Which of them still exist is the kernel's to say; a mark only adds who made it. A number that was
//! closed and given out again unseen keeps an old mark, so whoever reads one compares its call.

use std::ffi::c_int;

use leaktight_liveset::{MappedVec, SpinLock};

use crate::state::Watch;
use crate::vfork;

/// Which call made something, and where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The call; 0 = none.
    pub birth: u32,
    /// The stack's number in the stack store; 0 = not captured.
    pub stack: u32,
    /// By a thread that does not belong to the calls.
    pub foreign: bool,
}

const MOST_DESCRIPTORS: usize = 1 << 20;

/// By number.
static OPENED: SpinLock<MappedVec<Mark>> = SpinLock::new(MappedVec::new());

/// Who opened this descriptor, as far as it was seen.
pub fn opened(descriptor: c_int) -> Option<Mark> {
    let opened = OPENED.lock();
    let mark = opened.get(usize::try_from(descriptor).ok()?).copied()?;
    (mark.birth != 0).then_some(mark)
}

/// Forgets everything.
pub(crate) fn begin() {
    OPENED.lock().clear();
}

/// # Safety
///
/// Only in a forked child, before it has a second thread.
pub(crate) unsafe fn unlock_after_fork() {
    // SAFETY: the thread that forked does not hold the lock, and there is no other.
    unsafe { OPENED.force_unlock() };
}

/// Notes a new descriptor; a negative number is a failed call.
pub(crate) fn note_descriptor(descriptor: c_int) {
    let Ok(at) = usize::try_from(descriptor) else {
        return;
    };
    if vfork::is_in_child() {
        return;
    }
    let Some(watch) = Watch::allocations() else {
        return;
    };
    let Some(mark) = watch.mark() else {
        return;
    };
    let mut opened = OPENED.lock();
    if at < MOST_DESCRIPTORS {
        while opened.len() <= at {
            // Without memory the descriptor is still counted, only its place is not known.
            if opened.push(Mark::default()).is_err() {
                return;
            }
        }
        opened[at] = mark;
    }
}

/// Notes that a descriptor is about to be closed.
pub(crate) fn forget_descriptor(descriptor: c_int) {
    if vfork::is_in_child() {
        return;
    }
    // For as long as the lock is held: a signal handler may close something, too.
    let Some(_watch) = Watch::frees() else {
        return;
    };
    let mut opened = OPENED.lock();
    if let Some(mark) = usize::try_from(descriptor).ok().and_then(|at| opened.get_mut(at)) {
        *mark = Mark::default();
    }
}

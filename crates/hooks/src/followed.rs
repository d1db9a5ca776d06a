//! Python objects that a captured stack names without keeping them alive.
//!
//! A thread that has let go of the GIL must not touch a reference count. Its frames keep their code alive while
//! they run; whether it lived on is known from the hook that sees it being freed.

use std::sync::atomic::{AtomicUsize, Ordering};

use leaktight_liveset::{MappedVec, SpinLock};

/// Address of an object, and whether it was freed since.
static FOLLOWED: SpinLock<MappedVec<(usize, bool)>> = SpinLock::new(MappedVec::new());
/// How many those are: nearly always none, and then a free costs one load more.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Notes from now on whether the object at this address is freed.
pub fn follow(address: usize) {
    let mut followed = FOLLOWED.lock();
    if followed.iter().any(|(known, _)| *known == address) {
        return;
    }
    // Without memory for it, it counts as freed: then it is never looked at.
    let _ = followed.push((address, false));
    COUNT.store(followed.len(), Ordering::Relaxed);
    NOT_ALL.fetch_or(
        usize::from(followed.last().is_none_or(|(last, _)| *last != address)),
        Ordering::Relaxed,
    );
}

/// Some object could not be noted.
static NOT_ALL: AtomicUsize = AtomicUsize::new(0);

/// Whether the object at this address, if it was followed, is gone.
pub fn was_freed(address: usize) -> bool {
    if NOT_ALL.load(Ordering::Relaxed) != 0 {
        return true;
    }
    let followed = FOLLOWED.lock();
    followed.iter().any(|(known, freed)| *known == address && *freed)
}

#[inline(always)]
pub(crate) fn freed(address: usize) {
    if COUNT.load(Ordering::Relaxed) != 0 {
        note(address);
    }
}

#[cold]
fn note(address: usize) {
    if let Some(entry) = FOLLOWED.lock().iter_mut().find(|(known, _)| *known == address) {
        entry.1 = true;
    }
}

pub(crate) fn forget() {
    FOLLOWED.lock().clear();
    COUNT.store(0, Ordering::Relaxed);
    NOT_ALL.store(0, Ordering::Relaxed);
}

pub(crate) fn lock_before_fork() {
    std::mem::forget(FOLLOWED.lock());
}

/// # Safety
///
/// After [`lock_before_fork`], once, on a copy of the thread that called it.
pub(crate) unsafe fn unlock_after_fork() {
    // SAFETY: the caller holds the lock.
    unsafe { FOLLOWED.force_unlock() };
}

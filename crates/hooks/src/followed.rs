//! Python objects that a captured stack names without keeping them alive.
//!
//! A thread that has let go of the GIL must not touch a reference count, and an object that a call made would
//! seem to be leaked by it if it was kept alive. While its code runs a frame keeps it alive; whether it lived on is
//! known from the hook that sees it being freed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use leaktight_liveset::{MappedVec, SpinLock};

/// Address of an object, and whether it was freed since; by address.
static FOLLOWED: SpinLock<MappedVec<(usize, bool)>> = SpinLock::new(MappedVec::new());
/// Some bits of their addresses, so that nearly every free costs one load more.
static FILTER: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];
/// Some object could not be noted.
static NOT_ALL: AtomicBool = AtomicBool::new(false);

/// Notes from now on whether the object at this address is freed.
pub fn follow(address: usize) {
    let mut followed = FOLLOWED.lock();
    if let Err(at) = followed.binary_search_by_key(&address, |(known, _)| *known) {
        // Without memory for it, it counts as freed: then it is never looked at.
        if followed.insert(at, (address, false)).is_err() {
            NOT_ALL.store(true, Ordering::Relaxed);
        }
        let (word, bit) = place(address);
        FILTER[word].fetch_or(bit, Ordering::Relaxed);
    }
}

/// Whether the object at this address, if it was followed, is gone. One that came after it at the same address counts
/// as gone, too.
pub fn was_freed(address: usize) -> bool {
    if NOT_ALL.load(Ordering::Relaxed) {
        return true;
    }
    let followed = FOLLOWED.lock();
    let found = followed.binary_search_by_key(&address, |(known, _)| *known);
    found.is_ok_and(|at| followed[at].1)
}

/// Does something with the object at this address, unless it was followed and is gone; its memory is not given back
/// meanwhile. What is done must be quick, and free or follow nothing.
pub fn unless_freed<R>(address: usize, work: impl FnOnce() -> R) -> Option<R> {
    let followed = FOLLOWED.lock();
    let found = followed.binary_search_by_key(&address, |(known, _)| *known);
    let is_gone = NOT_ALL.load(Ordering::Relaxed) || found.is_ok_and(|at| followed[at].1);
    (!is_gone).then(work)
}

#[inline(always)]
pub(crate) fn freed(address: usize) {
    let (word, bit) = place(address);
    if FILTER[word].load(Ordering::Relaxed) & bit != 0 {
        note(address);
    }
}

#[cold]
fn note(address: usize) {
    let mut followed = FOLLOWED.lock();
    if let Ok(at) = followed.binary_search_by_key(&address, |(known, _)| *known) {
        followed[at].1 = true;
    }
}

/// Objects start at multiples of 16 bytes.
fn place(address: usize) -> (usize, u64) {
    (address >> 4 & 63, 1 << (address >> 10 & 63))
}

pub(crate) fn forget() {
    FOLLOWED.lock().clear();
    FILTER.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    NOT_ALL.store(false, Ordering::Relaxed);
}

/// # Safety
///
/// Only in a forked child, before it has a second thread.
pub(crate) unsafe fn unlock_after_fork() {
    // SAFETY: the thread that forked does not hold the lock, and there is no other.
    unsafe { FOLLOWED.force_unlock() };
}

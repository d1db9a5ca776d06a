//! Stacks of our own to unwind on: that of the thread may be small, and where it ends is not always known, as with
//! coroutines.

use leaktight_liveset::{MappedVec, SpinLock};

/// So much is needed for unwinding, and for what it calls.
const LEN: usize = 128 << 10;
/// So many threads unwind at a time; a further one waits for some microseconds.
const STACKS: usize = 8;

static SPARE: [SpinLock<MappedVec<u8>>; STACKS] = [const { SpinLock::new(MappedVec::new()) }; STACKS];

/// Runs `work` on one of these stacks. `None` without memory for it.
pub(crate) fn on_spare_stack<R>(work: impl FnOnce() -> R) -> Option<R> {
    let free = SPARE.iter().find_map(SpinLock::try_lock);
    let mut spare = free.unwrap_or_else(|| SPARE[0].lock());
    if spare.is_empty() {
        *spare = MappedVec::zeroed(LEN).ok()?;
    }
    // SAFETY: memory that only the holder of the lock uses, until `work` has returned; it does not unwind.
    Some(unsafe { psm::on_stack(spare.as_mut_ptr(), LEN, work) })
}

/// Frees the locks.
///
/// # Safety
///
/// Only in a forked child, before it has a second thread.
pub(crate) unsafe fn unlock_after_fork() {
    // SAFETY: the thread that forked is in none of the stacks, and there is no other.
    SPARE.iter().for_each(|spare| unsafe { spare.force_unlock() });
}

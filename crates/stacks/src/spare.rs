//! A stack for those threads whose own is too small to unwind on.

use leaktight_liveset::{MappedVec, SpinLock};

/// Unwinding and what it is called from need less.
pub(crate) const ROOM: usize = 24 << 10;

const LEN: usize = 128 << 10;

static SPARE: SpinLock<MappedVec<u8>> = SpinLock::new(MappedVec::new());

/// Runs `work` on the spare stack; one thread at a time, for some microseconds. `None` without memory for it.
pub(crate) fn on_spare_stack<R>(work: impl FnOnce() -> R) -> Option<R> {
    let mut spare = SPARE.lock();
    if spare.is_empty() {
        *spare = MappedVec::zeroed(LEN).ok()?;
    }
    // SAFETY: memory that only the holder of the lock uses, until `work` has returned; it does not unwind.
    Some(unsafe { psm::on_stack(spare.as_mut_ptr(), LEN, work) })
}

/// Whether a stack that reaches down to `start` has less than that left at `sp`. The main thread's grows as it is needed.
pub(crate) fn is_short(start: usize, sp: usize) -> bool {
    // SAFETY: both only ask who runs here.
    start != 0 && sp - start < ROOM && unsafe { libc::gettid() != libc::getpid() }
}

//! What the lock is built of. `tests/loom.rs` compiles the lock again with Loom's versions of these.

pub(crate) use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use crate::spin::SpinLock;

impl<T> SpinLock<T> {
    /// A free lock around `value`.
    pub const fn new(value: T) -> Self {
        SpinLock::with(AtomicBool::new(false), value)
    }
}

/// Waits while the lock looks taken; now and then lets another thread run.
pub(crate) fn wait_while(held: &AtomicBool) {
    let mut tries = 0u32;
    while held.load(Ordering::Relaxed) {
        tries = tries.wrapping_add(1);
        if tries.is_multiple_of(128) {
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }
}

/// Frees the lock; whoever takes it next sees what was written under it.
#[inline]
pub(crate) fn set_free(held: &AtomicBool) {
    held.store(false, Ordering::Release);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_try_that_fails_leaves_the_lock_to_its_holder() {
        let lock = SpinLock::new(1);
        let held = lock.lock();
        assert!(lock.try_lock().is_none());
        assert!(lock.try_lock().is_none());
        drop(held);
        assert_eq!(lock.try_lock().map(|value| *value), Some(1));
    }
}

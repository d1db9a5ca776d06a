//! A spin lock that allocates nothing, not even at first use.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering;

use crate::atomic::{AtomicBool, set_free, wait_while};

/// Mutual exclusion for critical sections of some nanoseconds.
///
/// Not reentrant. Hooks never take it twice on one thread, since a thread-local
/// guard turns nested allocations (and those of signal handlers) away first.
#[repr(align(64))]
pub struct SpinLock<T> {
    held: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is only reached through a guard, and `held` admits one guard at a time.
unsafe impl<T: Send> Sync for SpinLock<T> {}

impl<T> SpinLock<T> {
    /// A lock around `value`, free if `held` is false.
    pub(crate) const fn with(held: AtomicBool, value: T) -> Self {
        SpinLock {
            held,
            value: UnsafeCell::new(value),
        }
    }

    /// Waits until the lock is free and takes it.
    #[inline]
    pub fn lock(&self) -> SpinGuard<'_, T> {
        while self.held.swap(true, Ordering::Acquire) {
            wait_while(&self.held);
        }
        SpinGuard { lock: self }
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<SpinGuard<'_, T>> {
        // Lazily: a guard that is made and dropped would free somebody else's lock.
        (!self.held.swap(true, Ordering::Acquire)).then(|| SpinGuard { lock: self })
    }

    /// Frees the lock without a guard, for a forked child: a thread that it does not have may hold it.
    ///
    /// # Safety
    ///
    /// No guard is alive in a thread of this process. What the lock protects may be in the middle of a change.
    pub unsafe fn force_unlock(&self) {
        set_free(&self.held);
    }
}

/// Access to the value, for as long as this lives.
pub struct SpinGuard<'a, T> {
    lock: &'a SpinLock<T>,
}

impl<T> Deref for SpinGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: this guard is the only one while it lives (see `lock`).
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for SpinGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this guard is the only one while it lives (see `lock`).
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for SpinGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        set_free(&self.lock.held);
    }
}

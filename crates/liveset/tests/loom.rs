//! Every interleaving of threads at the live set's lock, tried by Loom on the lock's own source.

use std::sync::Arc;

use loom::cell::UnsafeCell;

#[allow(dead_code, missing_docs)]
#[path = "../src/spin.rs"]
mod spin;

mod atomic {
    pub(crate) use loom::sync::atomic::AtomicBool;
    use loom::sync::atomic::Ordering;

    pub(crate) fn wait_while(_held: &AtomicBool) {
        loom::thread::yield_now();
    }

    /// An exchange where the lock has a store: Loom lets a later exchange miss a plain store.
    pub(crate) fn set_free(held: &AtomicBool) {
        held.swap(false, Ordering::Release);
    }
}

fn lock() -> Arc<spin::SpinLock<Counter>> {
    Arc::new(spin::SpinLock::with(
        atomic::AtomicBool::new(false),
        Counter(UnsafeCell::new(0)),
    ))
}

/// Loom itself notices when two threads touch the cell at once.
struct Counter(UnsafeCell<u32>);

impl Counter {
    fn add(&self) {
        // SAFETY: the pointer is used within the closure only, under the lock.
        self.0.with_mut(|count| unsafe { *count += 1 });
    }
}

fn model(run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 100_000;
    builder.preemption_bound = Some(3);
    builder.check(run);
}

#[test]
fn the_lock_admits_one_thread_and_loses_no_write() {
    model(|| {
        let lock = lock();
        let threads: Vec<_> = (0..1)
            .map(|_| {
                let lock = lock.clone();
                loom::thread::spawn(move || lock.lock().add())
            })
            .collect();
        lock.lock().add();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        // SAFETY: the other threads are gone.
        assert_eq!(lock.lock().0.with(|count| unsafe { *count }), 2);
    });
}

#[test]
fn a_failed_try_takes_nothing() {
    model(|| {
        let lock = lock();
        let other = lock.clone();
        let thread = loom::thread::spawn(move || other.try_lock().map(|guard| guard.add()).is_some());
        let mine = lock.try_lock().map(|guard| guard.add()).is_some();
        let theirs = thread.join().unwrap();
        // SAFETY: the other thread is gone.
        let count = lock.lock().0.with(|count| unsafe { *count });
        assert_eq!(count, u32::from(mine) + u32::from(theirs));
        assert!(mine || theirs);
    });
}

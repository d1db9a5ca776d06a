//! The handler allocates nothing.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use common::{WAYS, by, eight, on_own_thread};
use leaktight_watchpoints::Options;

struct Counting;

/// By the watched thread: the test harness has one of its own.
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static THREAD: AtomicI32 = AtomicI32::new(0);

fn count() {
    if own_thread() == THREAD.load(Ordering::SeqCst) {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
    }
}

fn own_thread() -> i32 {
    // SAFETY: only asks.
    unsafe { libc::gettid() }
}

// SAFETY: the system's allocator, and a counter.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn neither_noting_nor_dropping_nor_ending_early_allocates() {
    for way in WAYS {
        on_own_thread(|| {
            let word = AtomicU64::new(0);
            let options = Options {
                most_writes: 100,
                stop_after_dropping: 100,
                capture: Some(|_| 1),
                ..by(way)
            };
            let watch = leaktight_watchpoints::Watch::start(&[eight(&word)], &options).unwrap();
            THREAD.store(own_thread(), Ordering::SeqCst);
            drop(std::hint::black_box(Box::new(7)));
            assert_eq!(ALLOCATIONS.swap(0, Ordering::SeqCst), 2, "the counter counts");
            for _ in 0..300 {
                word.fetch_add(1, Ordering::SeqCst);
            }
            THREAD.store(0, Ordering::SeqCst);
            assert_eq!(ALLOCATIONS.load(Ordering::SeqCst), 0, "{way:?}");
            let log = watch.stop();
            assert!(log.stopped_early && log.writes().len() == 100);
        });
    }
}

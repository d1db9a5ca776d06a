//! The hooks allocate nothing from the heaps that they watch, with and without stacks.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local!(static ALLOCATIONS: Cell<u64> = const { Cell::new(0) });

// SAFETY: hands everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's own arguments.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's own arguments.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that libc's malloc has handed out.
fn in_use() -> usize {
    // SAFETY: reads statistics.
    let info = unsafe { libc::mallinfo2() };
    info.uordblks + info.hblkhd
}

#[test]
fn a_watched_malloc_allocates_only_what_was_asked_for() {
    const BLOCKS: usize = 100;
    let mut calls = 0;
    let mut allocated = 0;
    let mut grown = 0;
    let report = leaktight::check(|| {
        calls += 1;
        let rust = ALLOCATIONS.get();
        let allocate = |kept: usize| {
            let mut blocks = [std::ptr::null_mut(); BLOCKS];
            // SAFETY: plain allocations, freed once each, but for those that are leaked on purpose.
            unsafe {
                for (at, block) in blocks.iter_mut().enumerate() {
                    *block = libc::malloc(100 + at);
                }
                for block in &blocks[kept..] {
                    libc::free(*block);
                }
                libc::free(libc::realloc(libc::calloc(3, 50), 1000));
            }
        };
        // Fills the thread's cache, whose chunks count as used: what runs between calls empties it in part.
        allocate(0);
        let before = in_use();
        allocate(1);
        // One chunk of 112 bytes is what the leak takes; small freed ones stay in the thread's cache as used.
        if calls > 40 {
            grown = grown.max(in_use().saturating_sub(before));
            allocated += ALLOCATIONS.get() - rust;
        }
    });
    // The leak switches stacks on, and its own verdict shows that the hooks were at work all the time.
    assert_eq!(
        (report.verdict, report.calls),
        // Beside the thread that runs the tests, loss is looked for again after 16 calls more.
        (leaktight::Verdict::Leak, 80),
        "{report}"
    );
    assert_eq!(report.findings[0].bytes_per_call, 100.0, "{report}");
    assert_eq!(allocated, 0);
    assert!(grown <= 112, "{grown} bytes");
}

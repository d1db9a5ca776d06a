//! What glibc says of blocks of known sizes. One test, since the others of a program would allocate meanwhile.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

use std::hint::black_box;

use leaktight_heap::{HeapInfo, allocators, heap_info, heap_trim, private_allocators};

#[test]
fn blocks_of_known_sizes_move_the_figures_by_their_chunks() {
    /// Above the largest limit from which glibc gives a block a mapping of its own.
    const LARGE: usize = 64 << 20;
    const PAGE: u64 = 4096;
    let before = heap_info().unwrap();
    // Or the compiler would see that nobody uses the blocks.
    // SAFETY: plain allocations, each released once.
    let (small, large) = black_box(unsafe { (libc::malloc(100_000), libc::malloc(LARGE)) });
    let expected = HeapInfo {
        heap_used: before.heap_used + 100_016,
        // The size, the chunk's head, and what fills up the page.
        mmap_used: before.mmap_used + LARGE as u64 + PAGE,
    };
    assert_eq!(heap_info(), Ok(expected));
    // SAFETY: as above.
    unsafe {
        libc::free(small);
        libc::free(large);
    }
    heap_trim().unwrap();
    assert_eq!(heap_info(), Ok(before));

    let glibc = &allocators()[0];
    assert_eq!((glibc.name, glibc.serves_malloc), ("glibc", true));
    assert!(glibc.object.ends_with("/libc.so.6"), "{glibc:?}");
    let told = glibc.statistics.clone().unwrap();
    assert_eq!(told.mapped.unwrap(), told.used.unwrap() + told.held_free.unwrap());
    assert_eq!(private_allocators(), []);
}

//! Prints what the allocator says before and after blocks of a known size, and checks that it is plausible.
//!
//! `make check-platforms` runs it on every platform that can be had here.

use std::ffi::c_void;
use std::thread;

use leaktight_heap::{Error, HeapInfo, allocators, heap_info, heap_trim};

const BLOCKS: u64 = 1_000;
const SMALL: u64 = 1_000;
const LARGE: u64 = 64 << 20;
/// What the program itself may allocate between two looks, for one line of output.
const SLACK: u64 = 64 << 10;

fn main() {
    for allocator in allocators() {
        println!("{allocator:?}");
    }
    assert!(
        allocators()[0].serves_malloc,
        "the first allocator is the one that serves malloc"
    );
    match heap_info() {
        Ok(before) => moves_with_blocks(before),
        Err(error) => keeps_no_statistics(&error),
    }
    println!("plausible");
}

fn moves_with_blocks(before: HeapInfo) {
    println!("before:      {before:?}");
    let mut blocks = Vec::with_capacity(BLOCKS as usize);
    blocks.extend((0..BLOCKS).map(|_| Block::new(SMALL)));
    let small = told("small blocks");
    let grown = small.heap_used - before.heap_used;
    assert!(
        (BLOCKS * SMALL..=BLOCKS * SMALL * 2).contains(&grown),
        "{grown} more bytes used"
    );

    let large_block = Block::new(LARGE);
    let large = told("large block");
    let grown = (large.heap_used - small.heap_used).max(large.mmap_used.saturating_sub(small.mmap_used));
    assert!((LARGE..=LARGE + LARGE / 4).contains(&grown), "{grown} more bytes used");

    drop((blocks, large_block));
    heap_trim().expect("the heap can be trimmed");
    let after = told("freed");
    assert!(after.heap_used <= before.heap_used + SLACK, "all was freed");
    #[cfg(windows)]
    private_heaps::come_and_go();
    from_many_threads();
}

/// Some platforms have no figures; then both calls say so, and a figure is never made up.
fn keeps_no_statistics(error: &Error) {
    println!("{error}");
    assert!(
        matches!(error, Error::Unsupported { what: "heap_info", .. }),
        "{error:?}"
    );
    println!("{}", heap_trim().expect_err("what cannot be read cannot be trimmed"));
}

fn from_many_threads() {
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    drop(Block::new(SMALL));
                    heap_info().expect("can be read while others allocate");
                    heap_trim().expect("can be trimmed while others allocate");
                }
            });
        }
    });
}

fn told(when: &str) -> HeapInfo {
    let info = heap_info().expect("could be read before");
    println!("{:12} {info:?}", format!("{when}:"));
    info
}

/// A block of the C allocator, written to from end to end.
struct Block(*mut c_void);

impl Block {
    fn new(size: u64) -> Self {
        // SAFETY: any size may be asked for.
        let block = unsafe { libc::malloc(size as usize) };
        assert!(!block.is_null(), "no memory for a block");
        // SAFETY: the block is that long.
        unsafe { block.cast::<u8>().write_bytes(1, size as usize) };
        Block(block)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: comes from `malloc`, and is freed once.
        unsafe { libc::free(self.0) };
    }
}

#[cfg(windows)]
mod private_heaps {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use windows_sys::Win32::Foundation::HANDLE;
    use windows_sys::Win32::System::Memory::{HEAP_NO_SERIALIZE, HeapAlloc, HeapCreate, HeapDestroy};

    use super::{allocators, heap_info, thread, told};

    const BLOCK: usize = 5_000;

    /// A private heap is counted; and one that is destroyed while others look does no harm.
    pub fn come_and_go() {
        let before = told("heaps");
        let heap = create();
        let with_heap = told("one more");
        assert_eq!(with_heap.heap_count, before.heap_count + 1);
        let grown = with_heap.heap_used - before.heap_used;
        assert!(
            grown < BLOCK as u64,
            "blocks of a private heap are not counted: {grown}"
        );
        let list = allocators();
        assert_eq!(list.len() as u64, with_heap.heap_count);
        println!("{:?}", list.last());
        destroy(heap);
        assert_eq!(told("destroyed").heap_count, before.heap_count);

        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    let heaps: Vec<_> = (0..40).map(|_| create()).collect();
                    heaps.into_iter().for_each(destroy);
                }
            });
            for _ in 0..200 {
                heap_info().expect("can be read while heaps come and go");
                assert!(!allocators().is_empty());
            }
            done.store(true, Relaxed);
        });
    }

    /// Without a lock, as those that must not be walked from outside.
    fn create() -> HANDLE {
        // SAFETY: a heap of its own, used and destroyed by this thread only.
        let heap = unsafe { HeapCreate(HEAP_NO_SERIALIZE, 0, 0) };
        // SAFETY: the heap was made above.
        assert!(!heap.is_null() && !unsafe { HeapAlloc(heap, 0, BLOCK) }.is_null());
        heap
    }

    fn destroy(heap: HANDLE) {
        // SAFETY: made by `create` on this thread, and destroyed once.
        unsafe { HeapDestroy(heap) };
    }
}

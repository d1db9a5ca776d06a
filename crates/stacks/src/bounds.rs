//! How far the calling thread's stack reaches, found without allocating.

use std::cell::Cell;

use leaktight_memory::mapping_around;

thread_local! {
    /// Start and end of the mapping that this thread's stack pointer lay in last. Its first use may allocate
    /// inside the loader; the hook that we are called from is guarded by then, so that passes through.
    static STACK: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// The end of the stack that `sp` points into: words below it can be read. 0 when unknown.
///
/// Asks the kernel again when `sp` left the known range, so coroutines that switch stacks
/// and a main stack that has grown are met.
pub(crate) fn stack_end(sp: usize) -> usize {
    let known = STACK.get();
    if (known.0..known.1).contains(&sp) {
        return known.1;
    }
    let found = mapping_around(sp).unwrap_or((0, 0));
    STACK.set(found);
    found.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_stack_is_found_on_any_thread() {
        let here = || {
            let local = 0u8;
            let at = &raw const local as usize;
            assert!(stack_end(at) > at);
        };
        here();
        std::thread::spawn(here).join().unwrap();
    }
}

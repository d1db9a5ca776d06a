//! How far the calling thread's stack reaches, found without allocating.

use std::cell::Cell;

use leaktight_memory::mapping_around;

thread_local! {
    /// Start and end of the mapping that this thread's stack pointer lay in last. Its first use may allocate
    /// inside the loader; the hook that we are called from is guarded by then, so that passes through.
    static STACK: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// Start and end of the stack that `sp` points into: words from `sp` to the end can be read. (0, 0) when unknown.
///
/// Asks the kernel again when `sp` left the known range, so coroutines that switch stacks
/// and a main stack that has grown are met.
pub(crate) fn stack_around(sp: usize) -> (usize, usize) {
    let known = STACK.get();
    if (known.0..known.1).contains(&sp) {
        return known;
    }
    let found = mapping_around(sp).unwrap_or((0, 0));
    STACK.set(found);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_stack_is_found_on_any_thread() {
        let here = || {
            let local = 0u8;
            let at = &raw const local as usize;
            let (start, end) = stack_around(at);
            assert!(start <= at && at < end);
        };
        here();
        std::thread::spawn(here).join().unwrap();
    }
}

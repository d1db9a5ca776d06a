//! Room on the stack for what the engine does between calls, on threads that have little of it.
//!
//! Only there: the calls themselves run on the stack of the thread that asked for the check, as they would without one.

/// Runs `work` on a stack that has at least [`LEAST`] bytes left: that of the thread, or one made for it.
pub(crate) fn with_room<R>(work: impl FnOnce() -> R) -> R {
    const LEAST: usize = 256 << 10;
    const NEW: usize = 2 << 20;
    stacker::maybe_grow(LEAST, NEW, work)
}

//! Over a write, on a processor that traps before it: aarch64. On x86-64 nothing of this happens.
//!
//! A thread that went on from the trap would run into it again, for ever: the kernel steps over an instruction only
//! where no signal is to be handled (`watchpoint_handler` in arch/arm64/kernel/hw_breakpoint.c; what it steps over is the
//! first instruction of the handler then). So each write has two traps:
//!
//! ```text
//! before the write:      its word is let go, signals are blocked, and a breakpoint is set behind the instruction
//! at the breakpoint:     the write is done, and noted as on x86-64; everything is put back
//! ```
//!
//! Nothing else runs on the thread in between, so no write is overlooked.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::signal::{SENT, mask_in};

/// Which words, a bit for each.
pub(crate) type Words = usize;

/// What a trap at a place in the program means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "aarch64"), allow(dead_code))]
pub(crate) enum Next {
    /// The write is done.
    Done,
    /// It is done when the instruction at this address is reached.
    At(usize),
    /// It cannot be told when it is done.
    Unknown,
}

/// The step that is under way, in the handler and for the watched thread only.
pub(crate) struct Step {
    /// Where it ends; 0: there is none.
    end: AtomicUsize,
    /// The words that are let go.
    pub let_go: AtomicUsize,
    /// The signals that the thread had blocked before.
    mask: AtomicU64,
}

impl Step {
    pub(crate) const fn none() -> Step {
        Step {
            end: AtomicUsize::new(0),
            let_go: AtomicUsize::new(0),
            mask: AtomicU64::new(0),
        }
    }

    pub(crate) fn is_under_way(&self) -> bool {
        self.end.load(Ordering::SeqCst) != 0
    }

    pub(crate) fn ends_at(&self, address: usize) -> bool {
        self.is_under_way() && self.end.load(Ordering::SeqCst) == address
    }

    /// From the return of the handler on. May be said again of a step that is under way.
    pub(crate) fn begin(&self, end: usize, context: &mut libc::ucontext_t) {
        let mask = mask_in(context);
        if !self.is_under_way() {
            self.mask.store(*mask, Ordering::SeqCst);
        }
        *mask |= SENT;
        self.end.store(end, Ordering::SeqCst);
    }

    /// If there is one.
    pub(crate) fn end(&self, context: &mut libc::ucontext_t) {
        if self.end.swap(0, Ordering::SeqCst) != 0 {
            *mask_in(context) = self.mask.load(Ordering::SeqCst);
        }
    }

    /// There is none.
    pub(crate) fn forget(&self) {
        self.end.store(0, Ordering::SeqCst);
        self.let_go.store(0, Ordering::SeqCst);
    }
}

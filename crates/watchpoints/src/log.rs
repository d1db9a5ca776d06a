//! What was written.

use std::fmt;

use leaktight_liveset::Region;

/// One write to a watched word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Which word: its place among those that were to be watched.
    pub word: usize,
    /// What [`Watch::mark`](crate::Watch::mark) was last told.
    pub mark: u32,
    /// The value that the last write seen had left, or that the word had at the start.
    pub before: u64,
    /// The value after this write.
    pub after: u64,
    /// What the [`Capture`](crate::Capture) returned; 0 without one, and where the thread was no longer at the write.
    pub stack: u32,
}

impl Write {
    /// By how much the value rose, taken as a signed number.
    pub fn change(&self) -> i64 {
        self.after.wrapping_sub(self.before) as i64
    }
}

/// All writes of the watched thread, in their order.
pub struct Log {
    records: Region,
    len: usize,
    /// Writes for which there was no more room. They are the last ones.
    pub dropped: u64,
    /// Writes that the processor has counted and that raised no trap of their own: with SIGTRAP blocked, or one
    /// instruction that wrote two watched words. Known by perf only; otherwise 0.
    pub missed: u64,
    /// Writes that left all words as they were, so that it is not known which word it was. By ptrace only, and with
    /// more than one word.
    pub unknown: u64,
    /// Watching ended before [`Watch::stop`](crate::Watch::stop), after
    /// [`Options::stop_after_dropping`](crate::Options::stop_after_dropping).
    pub stopped_early: bool,
    /// Somebody set another handler for SIGTRAP meanwhile, which is left in place, or closed descriptors that were not
    /// theirs: the log may lack writes.
    pub disturbed: bool,
    /// Why the registers could not be cleared, should that be so. The handler then stays where it is, and nothing can
    /// be watched any more.
    pub not_cleared: Option<std::io::Error>,
}

impl Log {
    /// # Safety
    ///
    /// The region begins with so many writes, and nobody else writes to it.
    pub(crate) unsafe fn new(records: Region, len: usize) -> Log {
        Log {
            records,
            len,
            dropped: 0,
            missed: 0,
            unknown: 0,
            stopped_early: false,
            disturbed: false,
            not_cleared: None,
        }
    }

    /// The writes, the first one first.
    pub fn writes(&self) -> &[Write] {
        // SAFETY: what `new` was promised; a region starts at a page.
        unsafe { std::slice::from_raw_parts(self.records.start().cast(), self.len) }
    }

    /// Whether every write is there.
    pub fn is_complete(&self) -> bool {
        let lacking = self.dropped + self.missed + self.unknown;
        lacking == 0 && !self.stopped_early && !self.disturbed
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("writes", &self.writes())
            .field("dropped", &self.dropped)
            .field("missed", &self.missed)
            .field("unknown", &self.unknown)
            .field("stopped_early", &self.stopped_early)
            .field("disturbed", &self.disturbed)
            .field("not_cleared", &self.not_cleared)
            .finish()
    }
}

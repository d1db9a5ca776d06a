//! When a check must come to an end.

use std::time::{Duration, Instant};

/// What ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spent {
    Time,
    Memory,
    Descriptors,
}

/// Bounds on one check.
pub(crate) struct Budget {
    started: Instant,
    time: Duration,
    bytes: u64,
}

impl Budget {
    /// Starts the clock.
    pub(crate) fn start(time: Duration, bytes: u64) -> Budget {
        Budget {
            started: Instant::now(),
            time,
            bytes,
        }
    }

    /// What ran out, if anything, with so many bytes alive that the calls left behind.
    pub(crate) fn spent(&self, live_bytes: u64) -> Option<Spent> {
        if live_bytes > self.bytes {
            Some(Spent::Memory)
        } else if self.elapsed() > self.time {
            Some(Spent::Time)
        } else {
            None
        }
    }

    /// The time until it is spent.
    pub(crate) fn left(&self) -> Duration {
        self.time.saturating_sub(self.elapsed())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

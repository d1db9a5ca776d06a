//! The numbers that the decision depends on, and the words that it ends in.

/// How deep to look. All numbers are calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// A leak that shows once in so many calls must not be called clean.
    pub period: u32,
    /// Never more calls than this.
    pub max_calls: u32,
    /// Reachable growth is called a leak from here on, or after 32 periods if that is later. At the default
    /// of 16,384 calls, no cache that is full after 2,048 calls can be mistaken for one.
    pub confirm: u32,
    /// A first look after so few calls, at least 4: unless every one of them, but for the first and the last,
    /// has left something, they are clean, with a period of 1. If they are not, there is a second such look after
    /// twice as many. `None` = no such looks.
    pub screen: Option<u32>,
}

impl Rules {
    /// The first look that may end in "clean": four periods, so that the births that are compared there
    /// (from an eighth to a half of the calls) span more than one.
    pub fn clean_at(&self) -> u32 {
        self.period.saturating_mul(4).max(16)
    }

    /// Reachable growth is called a leak from here on.
    pub fn confirm(&self) -> u32 {
        self.period.saturating_mul(32).max(self.confirm)
    }
}

/// What so many calls suffice for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Only what is lost convicts, and nothing acquits.
    Early,
    /// From [`Rules::clean_at`] on: what leaves nothing is clean.
    Clearing,
    /// From [`Rules::confirm`] on: what is held and grows in step is a leak.
    Confirming,
}

impl Rules {
    /// What `calls` calls suffice for; `last` when there can be no further one.
    pub(crate) fn phase(&self, calls: u32, last: bool) -> Phase {
        let confirm = match last {
            true => self.confirm_when_exhausted(),
            false => self.confirm(),
        };
        match calls {
            _ if calls < self.clean_at() => Phase::Early,
            _ if calls < confirm => Phase::Clearing,
            _ => Phase::Confirming,
        }
    }

    /// The looks of the screening. The second costs few calls, and saves those with stacks for what happens to be
    /// alive from each of the first calls, such as tables that grow and buffers that are kept for later.
    pub(crate) fn screens(&self) -> Option<[u32; 2]> {
        self.screen.map(|first| [first, first.saturating_mul(2)])
    }

    /// When time or memory ran out, growth in step is called a leak from here on: half as many calls, and
    /// so no cache that is full after 1,024 calls can be mistaken for one.
    fn confirm_when_exhausted(&self) -> u32 {
        self.confirm() / 2
    }
}

impl Default for Rules {
    /// Period 512, at most 65,536 calls.
    fn default() -> Self {
        Rules {
            period: 512,
            max_calls: 65_536,
            confirm: 16_384,
            screen: None,
        }
    }
}

/// What the judged calls do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing grows.
    Clean,
    /// Something is lost, or grows without end in sight.
    Leak,
    /// It grew and stopped: a cache.
    Bounded,
    /// It could not be decided.
    Indeterminate,
}

/// How sure a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// Nothing in memory points to the blocks any more.
    Lost,
    /// Something may still hold them, and they become ever more.
    Growing,
}

/// Why the verdict is what it is.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// Nothing that was born in the compared octaves is still alive.
    NothingGrows,
    /// The findings say it.
    Findings,
    /// Of the first half of the calls so much is left, the last from this call, and it
    /// has not grown since.
    Stopped {
        /// Blocks that stayed.
        blocks: u64,
        /// Their bytes.
        bytes: u64,
        /// Descriptors, threads and the like that stayed.
        scarce: u64,
        /// The call that the youngest of them is from.
        last_call: u32,
    },
    /// Still growing when calls, time or memory ran out, and something holds the blocks.
    StillGrowing,
    /// So few calls say nothing.
    TooFewCalls,
}

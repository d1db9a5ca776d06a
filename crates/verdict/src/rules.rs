//! The numbers that the decision depends on, and the words that it ends in.

use std::time::Duration;

use crate::births::Births;

/// How deep to look. All numbers are calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// A leak that shows once in so many calls must not be called clean.
    pub period: u32,
    /// Never more calls than this.
    pub max_calls: u32,
    /// Growth of what is held is called a leak from here on, or after 32 periods if that is later. No cache
    /// that is full by then can be mistaken for one.
    pub confirm: u32,
    /// From here on already, where the calls up to `confirm` would take more than five seconds.
    pub confirm_slow: u32,
    /// A first look after so few calls, at least 2: unless every one of them, but for the first and the last,
    /// has left something, they are clean, with a period of 1. If they are not, there is another such look after
    /// twice as many, and so on up to 8 calls at least. `None` = no such looks.
    pub screen: Option<u32>,
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

/// Calls that a clean verdict takes for each one of the period: the births that are compared then (from an eighth to
/// a half of the calls) span more than one period.
const CALLS_PER_PERIOD: u32 = 4;

impl Rules {
    /// The period and the limit on calls that were asked for. Without a period a limit decides how deep to look,
    /// without a limit there are calls enough for the period.
    pub fn of(period: Option<u32>, max_calls: Option<u32>) -> Rules {
        let rules = Rules::default();
        let limit = max_calls.unwrap_or(u32::MAX).max(1);
        let period = period.unwrap_or(rules.period.min(limit / CALLS_PER_PERIOD)).max(1);
        Rules {
            period,
            max_calls: max_calls.map_or(rules.max_calls.max(period.saturating_mul(128)), |_| limit),
            ..rules
        }
    }

    /// The first look that may end in "clean".
    pub fn clean_at(&self) -> u32 {
        self.period.saturating_mul(CALLS_PER_PERIOD).max(16)
    }

    /// Whether sites are told apart from the first call on. In few calls there is no time to begin with it when something
    /// is suspicious, and it costs little.
    pub(crate) fn tells_sites_at_once(&self) -> bool {
        self.screen.is_none() && self.max_calls < Rules::default().clean_at()
    }

    /// What `calls` calls suffice for, which took so long.
    pub(crate) fn phase(&self, calls: u32, took: Duration) -> Phase {
        match calls {
            _ if calls < self.clean_at() => Phase::Early,
            _ if calls < self.confirm_after(calls, took) => Phase::Clearing,
            _ => Phase::Confirming,
        }
    }

    /// From here on growth that goes ever more slowly, and a single step long ago, are known for what they are.
    pub(crate) fn settled(&self) -> u32 {
        self.period.saturating_mul(32).max(self.confirm_slow)
    }

    /// The looks of the screening. All but the first cost few calls, and save those with stacks for what happens to be
    /// alive from each of the first calls, such as tables that grow and buffers that are kept for later.
    pub(crate) fn screens(&self) -> impl Iterator<Item = u32> + use<> {
        let doubled = std::iter::successors(self.screen, |look| look.checked_mul(2));
        let last = self.screens_until();
        doubled.take_while(move |look| *look <= last)
    }

    /// The last of them; 0 = there are none.
    pub fn screens_until(&self) -> u32 {
        const FEWEST: u32 = 8;
        let Some(first) = self.screen else { return 0 };
        let doubled = std::iter::successors(first.checked_mul(2), |look| look.checked_mul(2));
        doubled.into_iter().find(|look| *look >= FEWEST).unwrap_or(u32::MAX)
    }

    fn confirm_after(&self, calls: u32, took: Duration) -> u32 {
        const PATIENCE: Duration = Duration::from_secs(5);
        let sure = self.period.saturating_mul(32).max(self.confirm);
        let more = took.as_secs_f64() / f64::from(calls.max(1)) * f64::from(sure.saturating_sub(self.settled()));
        match more > PATIENCE.as_secs_f64() {
            true => self.settled(),
            false => sure,
        }
    }
}

impl Default for Rules {
    /// Period 512, at most 65,536 calls, and growth is called a leak after all of them, or after a quarter.
    fn default() -> Self {
        Rules {
            period: 512,
            max_calls: 65_536,
            confirm: 65_536,
            confirm_slow: 16_384,
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
    /// So much has stayed, and it has not grown since.
    Stopped(Kept),
    /// So much has stayed, and ever less is added.
    Slows(Kept),
    /// Still growing when calls, time or memory ran out, and something holds the blocks.
    StillGrowing,
    /// Nothing stayed behind, but calls, time or memory ran out before there were as many calls as the period needs.
    StoppedEarly {
        /// So many calls it needs.
        needed: u32,
    },
    /// So few calls say nothing.
    TooFewCalls,
}

/// What is left of the first half of the calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Blocks that stayed.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Descriptors, threads and the like that stayed.
    pub scarce: u64,
    /// The call that the youngest of them is from.
    pub last_call: u32,
}

impl Kept {
    /// These blocks of memory, and these descriptors, threads and the like.
    pub fn of(blocks: &Births, scarce: &Births) -> Kept {
        let total = blocks.total();
        Kept {
            blocks: total.blocks,
            bytes: total.bytes,
            scarce: scarce.total().blocks,
            last_call: blocks.last().max(scarce.last()).unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Duration = Duration::ZERO;

    #[test]
    fn phases_begin_at_their_call() {
        let rules = Rules::default();
        let phase = |calls| rules.phase(calls, FAST);
        assert_eq!((phase(2047), phase(2048)), (Phase::Early, Phase::Clearing));
        assert_eq!((phase(65_535), phase(65_536)), (Phase::Clearing, Phase::Confirming));
    }

    #[test]
    fn growth_is_confirmed_earlier_where_the_calls_between_would_take_over_five_seconds() {
        // 49,152 calls of 102 microseconds take 5.01 seconds, of 101 microseconds 4.96.
        let phase = |calls: u32, micros| Rules::default().phase(calls, Duration::from_micros(micros) * calls);
        assert_eq!(phase(16_383, 102), Phase::Clearing);
        assert_eq!(phase(16_384, 102), Phase::Confirming);
        assert_eq!(phase(16_384, 101), Phase::Clearing);
        // Just five seconds more.
        let rules = Rules {
            confirm: 32_768,
            ..Rules::default()
        };
        assert_eq!(rules.phase(16_384, Duration::from_secs(5)), Phase::Clearing);
    }

    #[test]
    fn a_long_period_takes_32_periods_to_confirm() {
        let rules = |period| Rules {
            period,
            ..Rules::default()
        };
        assert_eq!((rules(512).settled(), rules(513).settled()), (16_384, 16_416));
        assert_eq!(rules(4096).phase(131_071, FAST), Phase::Clearing);
        assert_eq!(rules(4096).phase(131_072, FAST), Phase::Confirming);
    }

    #[test]
    fn sixteen_calls_are_the_fewest_that_can_be_clean() {
        let clean_at = |period| Rules::of(Some(period), None).clean_at();
        assert_eq!((clean_at(1), clean_at(4), clean_at(5)), (16, 16, 20));
    }
}

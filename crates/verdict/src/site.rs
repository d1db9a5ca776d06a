//! What one site does.

use crate::births::{Births, Pace, Rate};
use crate::history::{Growth, History, Speed};
use crate::lost;
use crate::rules::{Certainty, Phase, Rules};
use crate::scarce::{self, Spread};
use crate::trend::Amount;

/// What is alive from one place in the code.
#[derive(Clone, Debug)]
pub struct Site {
    /// The same number for the same place at every look.
    pub id: usize,
    /// Whether it is one place; otherwise it gathers the blocks born before sites were told apart.
    pub told: bool,
    /// The live blocks.
    pub births: Births,
    /// Those of them to which nothing points; empty when nobody looked.
    pub lost: Births,
    /// All live blocks of the sizes that occur here, wherever they were allocated.
    pub peers: Amount,
    /// These are no blocks but things that a process can have only so many of, such as descriptors; they
    /// are judged by the `scarce` rule, and count one block of 0 bytes each.
    pub scarce: bool,
}

impl Site {
    /// Notes a live block: the call in which it was born, its size in bytes, and whether nothing points to it.
    pub fn add(&mut self, birth: u32, size: u64, is_lost: bool) {
        self.births.add(birth, size);
        if is_lost {
            self.lost.add(birth, size);
        }
    }
}

/// What one site does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SiteFinding {
    /// [`Site::id`].
    pub site: usize,
    /// How sure it is.
    pub certainty: Certainty,
    /// How much.
    pub rate: Rate,
    /// The births that it was taken from: from the first, up to but not including the second.
    pub births: (u32, u32),
}

pub(crate) enum State {
    /// Nothing goes on here.
    Quiet,
    /// It may be a leak.
    Open(SiteFinding),
    /// It grows ever more slowly.
    Falling,
    /// It is a leak.
    Found(SiteFinding),
}

/// The look at which sites are judged.
pub(crate) struct Moment<'a> {
    pub rules: &'a Rules,
    /// The calls until now,
    pub calls: u32,
    /// and what they suffice for.
    pub phase: Phase,
    /// There can be no further call.
    pub last: bool,
    /// Sites are told apart since this call; before it all blocks are of one site.
    pub sites_since: Option<u32>,
    /// The looks before.
    pub history: &'a History,
}

impl Moment<'_> {
    pub(crate) fn state(&self, site: &Site) -> State {
        match site.scarce {
            true => self.state_of_scarce(site),
            false => self.state_of_blocks(site),
        }
    }

    fn state_of_blocks(&self, site: &Site) -> State {
        // Blocks from before sites were told apart count only where there will be no others. Of those since, a few
        // may have no known place, and must not be judged together with them.
        let known_since = match site.told || !self.last && told_window(self.sites_since, self.calls).is_some() {
            true => self.sites_since.unwrap_or(0),
            false => 0,
        };
        let Some((from, to)) = window(known_since, self.calls) else {
            return State::Quiet;
        };
        let found = |certainty| finding(site, certainty, (from, to));
        if lost::is_proof(&site.lost, from, to) {
            return State::Found(found(Certainty::Lost));
        }
        // Blocks from before sites were told apart say nothing about what still grows.
        if !site.told && self.sites_since.is_some_and(|since| since <= self.calls / 2) {
            return State::Quiet;
        }
        if self.phase == Phase::Early {
            return match site.births.spread(from, to, 3) {
                true => State::Open(found(Certainty::Growing)),
                false => State::Quiet,
            };
        }
        let calls = self.calls;
        // What the second half keeps may be in use, and says nothing where the first half does.
        let first_half = (from, calls / 2);
        let compared = match suffices(first_half, self.rules.period) {
            true => first_half,
            false => (from, to),
        };
        if self.is_rare(site, compared, 0) {
            return State::Quiet;
        }
        let growth = self.history.growth(site, calls);
        if growth == Growth::None {
            return State::Quiet;
        }
        let (pace, speed) = (site.births.pace(calls), self.history.speed(site, calls));
        let is_falling = pace == Pace::Falling || speed == Speed::Ending;
        let keeps_up = pace == Pace::InStep && speed == Speed::Same;
        if is_falling && calls >= self.rules.settled() {
            State::Falling
        } else if keeps_up && growth == Growth::AsBorn && known_since <= calls / 8 && self.phase == Phase::Confirming {
            State::Found(found(Certainty::Growing))
        } else {
            State::Open(found(Certainty::Growing))
        }
    }

    fn state_of_scarce(&self, site: &Site) -> State {
        let known_since = if site.told { self.sites_since.unwrap_or(0) } else { 0 };
        let Some((from, to)) = window(known_since, self.calls) else {
            return State::Quiet;
        };
        // One may be kept. Where a clean verdict is at stake a leak of the period must have left more.
        let is_kept = self.phase == Phase::Early || suffices((from, to), self.rules.period.saturating_mul(2));
        if self.is_rare(site, (from, to), u32::from(is_kept)) {
            return State::Quiet;
        }
        let things = site.births.between(from, to).blocks as u32;
        // A ring of as many as the calls since then looks like growth.
        let is_told_late = !self.last && from > self.calls / 3;
        let few = self.calls.max(things) < scarce::CONFIRM_WHEN_EXHAUSTED || is_told_late;
        let enough = match self.last {
            true => !few || self.calls >= self.rules.clean_at(),
            false => self.calls >= scarce::CONFIRM.min(self.rules.clean_at()) && !few,
        };
        let open = finding(site, Certainty::Growing, (from, to));
        // Only where a leak of the period has left something of the last third.
        let shows = self.phase == Phase::Early || suffices((from, to), self.rules.period.saturating_mul(3));
        match scarce::spread(&site.births, from, to) {
            // In fewer calls a ring or a pool that is being filled looks the same.
            Spread::Even if enough && !few => State::Found(open),
            Spread::Ending if enough && shows => State::Quiet,
            _ => State::Open(open),
        }
    }

    /// Fewer than half of what a leak of the guaranteed period would have left there is no such leak.
    fn is_rare(&self, site: &Site, (from, to): (u32, u32), least: u32) -> bool {
        let half_of_least = to.saturating_sub(from) / self.rules.period / 2;
        site.births.calls(from, to) <= half_of_least.max(least) as usize
    }
}

/// The births that count at a look for sites that are told apart.
pub(crate) fn told_window(sites_since: Option<u32>, calls: u32) -> Option<(u32, u32)> {
    window(sites_since?, calls)
}

/// Whether what is told apart since then has been for long enough: a leak of the period has left something that counts.
pub(crate) fn is_told_long_enough(sites_since: Option<u32>, calls: u32, period: u32) -> bool {
    sites_since.is_none() || told_window(sites_since, calls).is_some_and(|births| suffices(births, period))
}

/// Whether a leak of the period has left something of these births.
fn suffices((from, to): (u32, u32), period: u32) -> bool {
    to.saturating_sub(from) >= period
}

/// The births that count at a look: not the first ones after a change of mode, which pay for
/// interned code and first-time buffers, and not the newest eighth, which may simply be in use.
fn window(since: u32, calls: u32) -> Option<(u32, u32)> {
    const SETTLING: u32 = 8;
    let from = (since + SETTLING).max(calls / 8);
    let to = calls - (calls / 8).max(1);
    (from < to).then_some((from, to))
}

fn finding(site: &Site, certainty: Certainty, births: (u32, u32)) -> SiteFinding {
    SiteFinding {
        site: site.id,
        certainty,
        rate: site.births.rate(births.0, births.1),
        births,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::births::births;

    #[test]
    fn the_first_eight_calls_and_the_newest_eighth_do_not_count() {
        assert_eq!(window(0, 16), Some((8, 14)));
        assert_eq!(window(0, 64), Some((8, 56)));
        assert_eq!(window(0, 2048), Some((256, 1792)));
        assert_eq!(window(1024, 2048), Some((1032, 1792)));
        // At least the newest call.
        assert_eq!((window(0, 10), window(0, 9)), (Some((8, 9)), None));
        assert_eq!((window(16, 28), window(16, 27)), (Some((24, 25)), None));
        assert_eq!(window(16, 16), None);
        assert_eq!(
            (told_window(None, 2048), told_window(Some(0), 16)),
            (None, Some((8, 14)))
        );
    }

    /// What there is of one place.
    fn site(calls: impl IntoIterator<Item = u32>) -> Site {
        let births = births(calls);
        Site {
            id: 7,
            told: true,
            peers: births.total(),
            births,
            lost: Births::default(),
            scarce: false,
        }
    }

    fn scarce(calls: impl IntoIterator<Item = u32>) -> Site {
        Site {
            scarce: true,
            ..site(calls)
        }
    }

    fn untold(calls: impl IntoIterator<Item = u32>) -> Site {
        Site {
            told: false,
            ..site(calls)
        }
    }

    /// A look after so many calls, the last but where something else is said, with sites told apart since then.
    fn at(calls: u32, phase: Phase, since: impl Into<Option<u32>>) -> At {
        At {
            rules: Rules::default(),
            calls,
            phase,
            last: false,
            since: since.into(),
            history: History::default(),
        }
    }

    struct At {
        rules: Rules,
        calls: u32,
        phase: Phase,
        last: bool,
        since: Option<u32>,
        history: History,
    }

    impl At {
        fn last(self) -> At {
            At { last: true, ..self }
        }

        fn period(self, period: u32) -> At {
            let rules = Rules { period, ..self.rules };
            At { rules, ..self }
        }

        /// After a look at which the site had these blocks.
        fn after(mut self, calls: u32, births: impl IntoIterator<Item = u32>) -> At {
            self.history.add(calls, &[site(births)]);
            self
        }

        fn state(&self, site: &Site) -> &'static str {
            let moment = Moment {
                rules: &self.rules,
                calls: self.calls,
                phase: self.phase,
                last: self.last,
                sites_since: self.since,
                history: &self.history,
            };
            match moment.state(site) {
                State::Quiet => "quiet",
                State::Open(_) => "open",
                State::Falling => "falling",
                State::Found(found) => match found.certainty {
                    Certainty::Lost => "lost",
                    Certainty::Growing => "growing",
                },
            }
        }
    }

    #[test]
    fn blocks_without_a_place_count_only_where_there_will_be_no_others() {
        let early = |calls, since| at(calls, Phase::Early, since);
        // Places are told apart since call 40, and of the calls since then some count already, or none.
        assert_eq!(early(64, 40).state(&untold(1..=40)), "quiet");
        assert_eq!(early(64, 40).last().state(&untold(1..=40)), "open");
        assert_eq!(early(44, 40).state(&untold(1..=40)), "open");
        // Once births with a place make up half of the calls they say nothing.
        assert_eq!(early(64, 33).last().state(&untold(1..=33)), "open");
        assert_eq!(early(64, 32).last().state(&untold(1..=32)), "quiet");
        assert_eq!(at(64, Phase::Early, None).state(&untold(1..=40)), "open");
    }

    #[test]
    fn early_on_three_calls_that_left_something_may_be_a_leak_and_lost_ones_are_one() {
        let early = at(64, Phase::Early, 0);
        assert_eq!(early.state(&site([10, 20, 40])), "open");
        assert_eq!(early.state(&site([10, 40])), "quiet");
        let lost = |calls: &[u32]| Site {
            lost: births(calls.iter().copied()),
            ..site(calls.iter().copied())
        };
        assert_eq!(early.state(&lost(&[10, 20, 40, 50])), "lost");
        assert_eq!(early.state(&lost(&[10, 20, 40])), "open");
        let told = |since| at(64, Phase::Early, since).state(&lost(&[24, 30, 44, 50]));
        assert_eq!((told(16), told(17)), ("lost", "open"), "the first eight with stacks");
    }

    #[test]
    fn what_a_leak_of_the_period_would_have_left_is_compared_by_halves() {
        // A leak every 512 calls leaves 48 in 24,576 calls.
        let clearing = || at(65_536, Phase::Clearing, 0);
        assert_eq!(clearing().state(&site((8192..57_344).step_by(1024))), "quiet");
        assert_eq!(clearing().state(&site((8192..57_344).step_by(1000))), "open");
        assert_eq!(
            clearing().period(100).state(&site((8192..57_344).step_by(202))),
            "quiet"
        );
        assert_eq!(clearing().period(100).state(&site((8192..57_344).step_by(201))), "open");
    }

    #[test]
    fn places_told_apart_late_are_compared_up_to_the_newest_eighth() {
        // From call 512 to 1,024 a leak of the period has left something, from call 513 on perhaps not.
        let late = || site((1100..1700).step_by(100));
        assert_eq!(at(2048, Phase::Clearing, 504).state(&late()), "quiet");
        assert_eq!(at(2048, Phase::Clearing, 505).state(&late()), "open");
        assert_eq!(at(2048, Phase::Clearing, 504).last().state(&site([600])), "open");
        assert_eq!(at(2048, Phase::Clearing, 504).state(&site([1024])), "quiet");
        // In a few calls there may be no first half that counts.
        let few = |period, births: &[u32]| {
            at(16, Phase::Clearing, 0)
                .period(period)
                .state(&site(births.iter().copied()))
        };
        assert_eq!((few(4, &[8]), few(4, &[13]), few(4, &[14])), ("open", "open", "quiet"));
        assert_eq!((few(1, &[8, 9, 10, 11]), few(1, &[8, 9, 10])), ("open", "quiet"));
    }

    #[test]
    fn what_falls_is_known_for_it_once_there_are_calls_enough() {
        assert_eq!(at(16_383, Phase::Clearing, 0).state(&site(1..=4096)), "open");
        assert_eq!(at(16_384, Phase::Clearing, 0).state(&site(1..=4096)), "falling");
        // In step, but the place as a whole hardly grows.
        let ending = at(16_384, Phase::Clearing, 0).after(4096, [1]).after(8192, 1..=16_000);
        assert_eq!(ending.state(&site(1..=16_384)), "falling");
    }

    #[test]
    fn growth_is_called_one_when_all_clues_agree() {
        let grows = |phase, since| at(16_384, phase, since).after(4096, 1..=4096).after(8192, 1..=8192);
        let leak = || site(1..=16_384);
        assert_eq!(grows(Phase::Confirming, 2048).state(&leak()), "growing");
        assert_eq!(
            grows(Phase::Confirming, 2049).state(&leak()),
            "open",
            "told apart too late"
        );
        assert_eq!(grows(Phase::Clearing, 0).state(&leak()), "open", "too few calls");
        let confirming = || at(16_384, Phase::Confirming, 0);
        let slower = confirming().after(4096, [1]).after(8192, 1..=8192);
        assert_eq!(slower.state(&leak()), "open", "more slowly than before");
        let uneven = confirming().after(8192, 1..=8192);
        assert_eq!(uneven.state(&site(1..=10_000)), "open", "births are not in step");
        assert_eq!(confirming().after(8192, 1..=12_288).state(&leak()), "growing");
        assert_eq!(confirming().after(8192, 1..=12_289).state(&leak()), "open", "handed on");
        assert_eq!(
            confirming().after(8192, 1..=16_384).state(&leak()),
            "quiet",
            "no more of them"
        );
    }

    #[test]
    fn things_that_run_out_count_from_the_first_call_where_no_place_is_known() {
        let calls = || 64..400;
        let told = Site {
            scarce: true,
            ..site(calls())
        };
        let untold = Site {
            scarce: true,
            ..untold(calls())
        };
        assert_eq!(at(512, Phase::Early, 400).state(&untold), "growing");
        assert_eq!(at(512, Phase::Early, 400).state(&told), "quiet");
        assert_eq!(at(16, Phase::Early, 16).state(&told), "quiet");
    }

    #[test]
    fn things_that_run_out_are_judged_after_512_calls_or_four_short_periods() {
        let leak = || scarce(1..=512);
        let full = || scarce(1..=100);
        assert_eq!(at(511, Phase::Early, 0).state(&leak()), "open");
        assert_eq!(at(512, Phase::Early, 0).state(&leak()), "growing");
        assert_eq!(at(511, Phase::Early, 0).state(&full()), "open");
        assert_eq!(at(512, Phase::Early, 0).state(&full()), "quiet");
        let short = |calls| at(calls, Phase::Clearing, 0).period(10);
        assert_eq!(
            (short(111).state(&leak()), short(112).state(&leak())),
            ("open", "growing")
        );
        // A limit that is lower does not make it certain.
        assert_eq!(
            (short(111).last().state(&leak()), short(112).last().state(&leak())),
            ("open", "growing")
        );
        // Of what is told apart since call 35 on, a ring of 85 would look the same.
        let told = |since| at(128, Phase::Clearing, since).period(10).state(&leak());
        assert_eq!((told(34), told(35)), ("growing", "open"));
        // One is none, and two are a few.
        assert_eq!(at(256, Phase::Early, 0).state(&scarce([100])), "quiet");
        assert_eq!(at(256, Phase::Early, 0).state(&scarce([100, 101])), "open");
        assert_eq!(at(512, Phase::Early, 0).state(&scarce([100, 440])), "open");
        // One is all that a leak of the period may have left, or it has left two.
        let few = |period| at(16, Phase::Clearing, 0).period(period).state(&scarce([9]));
        assert_eq!((few(3), few(4)), ("quiet", "open"));
        // It has stopped, or the last third is too short to say so.
        let stopped = |period| {
            at(16, Phase::Clearing, 0)
                .last()
                .period(period)
                .state(&scarce([8, 9, 10]))
        };
        assert_eq!((stopped(2), stopped(3)), ("quiet", "open"));
    }

    #[test]
    fn things_that_run_out_are_judged_after_112_when_calls_do() {
        let after = |calls| at(calls, Phase::Early, 0).last();
        assert_eq!(after(111).state(&scarce(1..=111)), "open");
        assert_eq!(after(112).state(&scarce(1..=112)), "growing");
        // Of 111 calls 85 are compared: with 27 things more they left 112.
        assert_eq!(after(111).state(&scarce((1..=111).chain(20..47))), "growing");
        assert_eq!(after(111).state(&scarce((1..=111).chain(20..46))), "open");
    }
}

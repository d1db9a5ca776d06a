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
        let (calls, since_then) = (self.calls, known_since <= self.calls / 4);
        let compared = (from.max(calls / 8), if since_then { calls / 2 } else { to });
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
        if self.is_rare(site, (from, to), 1) {
            return State::Quiet;
        }
        let things = site.births.between(from, to).blocks as u32;
        let sure = match self.last {
            true => self.calls.max(things) >= scarce::CONFIRM_WHEN_EXHAUSTED,
            false => self.calls >= scarce::CONFIRM.min(self.rules.clean_at()),
        };
        let open = finding(site, Certainty::Growing, (from, to));
        match scarce::spread(&site.births, from, to) {
            Spread::Even if sure => State::Found(open),
            Spread::Ending if sure => State::Quiet,
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

/// The births that count at a look: not the first ones after a change of mode, which pay for
/// interned code and first-time buffers, and not the newest eighth, which may simply be in use.
fn window(since: u32, calls: u32) -> Option<(u32, u32)> {
    const SETTLING: u32 = 8;
    let from = (since + SETTLING).max(calls / 8);
    let to = calls - (calls / 8).clamp(1, SETTLING.max(calls / 8));
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

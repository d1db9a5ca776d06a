//! The judge: takes what was measured, says when to go on and what it means.

use std::collections::HashMap;

use crate::births::{Births, Pace, Rate};
use crate::lost;
use crate::resident::{self, Resident};
use crate::rules::{Certainty, Reason, Rules, Verdict};
use crate::scarce::{self, Spread};
use crate::screen;
use crate::trend::{Amount, Trend};

/// Follows one run of calls.
#[derive(Clone, Debug)]
pub struct Judge {
    rules: Rules,
    trend: Trend,
    /// Sites are told apart since this call; before it all blocks are of one site.
    sites_since: Option<u32>,
    /// Resident memory that no block explains, once there is a suspicion.
    resident: Option<Resident>,
    /// What was alive of each site and of its peers at the look before, and at which call that was.
    earlier: (u32, HashMap<usize, (Amount, Amount)>),
}

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

/// What to do after a look.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Go on to the next look, and tell sites apart from now on if that is set.
    Continue {
        /// Capture stacks.
        tell_sites: bool,
    },
    /// The verdict stands.
    Done(Outcome),
}

/// The verdict on a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// What the calls do.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The sites that leak; for `Indeterminate`, those that may.
    pub findings: Vec<SiteFinding>,
    /// No leak with a fixed period up to so many calls; 0 when nothing can be said.
    pub period: u32,
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

/// The site of memory that becomes resident though nobody allocates it.
pub const RESIDENT: usize = usize::MAX;

enum State {
    Quiet,
    Open(SiteFinding),
    Falling,
    Found(SiteFinding),
}

/// How a site has changed between two looks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Growth {
    /// It has not grown.
    None,
    /// It has grown, or it is not known.
    Some,
    /// It has grown by at least half of what was born there since and is alive.
    AsBorn,
}

/// The fewest calls that say anything.
const LEAST_CALLS: u32 = 16;
/// Looks before the first that may say "clean": leaks at every call show by the second, at every tenth
/// or fiftieth by the later ones.
const EARLY_LOOKS: [u32; 5] = [16, 64, 160, 512, 1024];

impl Judge {
    /// Nothing seen yet.
    pub fn new(rules: Rules) -> Judge {
        Judge {
            rules,
            trend: Trend::default(),
            sites_since: None,
            resident: None,
            earlier: (0, HashMap::new()),
        }
    }

    /// Whether the totals are wanted after this call: four times in each of the first octaves, eight
    /// times from call 512 and sixteen times from call 2,048 on, at uneven distances so that no periodic
    /// function hides between them.
    pub fn wants_checkpoint(call: u32) -> bool {
        let octave = call.max(1).ilog2();
        let slots = match octave {
            0..=8 => 2,
            9..=10 => 3,
            _ => 4,
        };
        if octave < slots {
            return true;
        }
        let (place, step) = (call - (1 << octave), 1u32 << (octave - slots));
        let (slot, within) = (place / step, place % step);
        // Golden-ratio steps through the slot.
        within == ((u64::from(slot.wrapping_mul(2_654_435_769) >> 8) * u64::from(step)) >> 24) as u32
    }

    /// The call after which [`Judge::look`] is to be called next.
    pub fn next_look(&self, calls: u32) -> u32 {
        let early = EARLY_LOOKS.into_iter().filter(|look| *look < self.rules.clean_at());
        let early = self.rules.screens().into_iter().flatten().chain(early);
        let late = std::iter::successors(Some(self.rules.clean_at()), |look| look.checked_mul(2));
        let next = early.chain(late).find(|look| *look > calls).unwrap_or(u32::MAX);
        next.min(self.rules.max_calls)
    }

    /// Notes the total after a call.
    pub fn checkpoint(&mut self, call: u32, total: Amount) {
        self.trend.add(call, total.bytes);
    }

    /// Resident memory that no live block explains may be growing: it is told from now on, at each checkpoint, by
    /// [`Judge::resident`].
    pub fn watch_resident(&mut self, calls: u32) {
        self.resident.get_or_insert_with(|| Resident::new(calls));
    }

    /// Notes how many bytes are resident of mappings that hold no block of the live set.
    pub fn resident(&mut self, call: u32, bytes: u64) {
        if let Some(resident) = &mut self.resident {
            resident.add(call, bytes);
        }
    }

    /// Whether it matters at this look which of the survivors are lost.
    pub fn wants_reachability(&self, calls: u32, sites: &[Site]) -> bool {
        let Some((from, to)) = self.told_window(calls) else {
            return false;
        };
        sites.iter().any(|site| !site.scarce && site.births.spread(from, to, 4))
    }

    /// Judges after `calls` calls.
    pub fn look(&mut self, calls: u32, sites: &[Site]) -> Next {
        let last = calls >= self.rules.max_calls;
        if self.rules.screens().is_some_and(|[_, second]| calls <= second)
            && let Some(outcome) = self.screened(calls, sites)
        {
            return Next::Done(outcome);
        }
        let result = match self.decide(calls, sites) {
            Some(outcome) => Next::Done(outcome),
            None if last => Next::Done(self.exhausted(calls, sites)),
            None => self.go_on(calls, sites),
        };
        if calls >= self.rules.clean_at() {
            self.earlier = (
                calls,
                sites
                    .iter()
                    .map(|site| (site.id, (site.births.total(), site.peers)))
                    .collect(),
            );
        }
        result
    }

    fn screened(&self, calls: u32, sites: &[Site]) -> Option<Outcome> {
        let quiet = |scarce| {
            let mut all = Births::default();
            let sites = sites.iter().filter(|site| site.scarce == scarce);
            sites.for_each(|site| all.join(&site.births));
            screen::is_quiet(&all, calls)
        };
        (quiet(false) && quiet(true)).then(|| self.outcome(Verdict::Clean, Reason::NothingGrows, Vec::new(), 1))
    }

    /// The verdict when there can be no further call: time or memory ran out after `calls` calls.
    pub fn exhausted(&self, calls: u32, sites: &[Site]) -> Outcome {
        if let Some(outcome) = self.decide(calls, sites) {
            return outcome;
        }
        if calls < LEAST_CALLS {
            return self.outcome(Verdict::Indeterminate, Reason::TooFewCalls, Vec::new(), 0);
        }
        let (mut findings, mut open, mut falling) = (Vec::new(), Vec::new(), false);
        for site in sites {
            match self.state(site, calls, true) {
                State::Found(found) => findings.push(found),
                State::Open(found) => open.push(found),
                State::Falling => falling = true,
                State::Quiet => {}
            }
        }
        let resident = self.resident.as_ref().map(|resident| resident.growth(calls, true));
        if open.is_empty()
            && findings.is_empty()
            && let Some(resident::Growth::Steady(rate)) = resident
        {
            open.push(resident_finding(rate, calls));
        }
        if open.is_empty() && findings.is_empty() && self.trend.still_rises(calls) {
            open = self.rising_sites(calls, sites);
        }
        if !findings.is_empty() {
            return self.outcome(Verdict::Leak, Reason::Findings, findings, 0);
        }
        if !open.is_empty() {
            return self.outcome(Verdict::Indeterminate, Reason::StillGrowing, open, 0);
        }
        if falling {
            return self.outcome(Verdict::Bounded, stopped(calls, sites), Vec::new(), 0);
        }
        self.nothing_grows(calls, sites)
    }

    /// The verdict, if it already stands.
    fn decide(&self, calls: u32, sites: &[Site]) -> Option<Outcome> {
        let states: Vec<State> = sites.iter().map(|site| self.state(site, calls, false)).collect();
        let undecided = states
            .iter()
            .any(|state| matches!(state, State::Open(_) | State::Falling));
        let mut findings: Vec<SiteFinding> = states
            .into_iter()
            .filter_map(|state| match state {
                State::Found(found) => Some(found),
                _ => None,
            })
            .collect();
        // What runs out is told at once, even while memory is not decided.
        let is_scarce = |found: &SiteFinding| sites.iter().any(|site| site.id == found.site && site.scarce);
        if undecided && !findings.iter().any(is_scarce) {
            return None;
        }
        let early = calls < self.rules.clean_at();
        if !early && self.trend.keeps_rising(calls) && calls >= self.rules.confirm() {
            let known: Vec<usize> = findings.iter().map(|found| found.site).collect();
            let rising = self.rising_sites(calls, sites);
            findings.extend(rising.into_iter().filter(|found| !known.contains(&found.site)));
        }
        if findings.is_empty() && !early {
            match self.resident.as_ref().map(|resident| resident.growth(calls, false)) {
                Some(resident::Growth::Steady(rate)) => findings.push(resident_finding(rate, calls)),
                Some(resident::Growth::Unclear) => return None,
                Some(resident::Growth::None) | None => {}
            }
        }
        if !findings.is_empty() {
            return Some(self.outcome(Verdict::Leak, Reason::Findings, findings, 0));
        }
        // A single step may have begun something; long after, it was one.
        let late = calls > self.rules.confirm();
        let rises = if late {
            self.trend.still_rises(calls)
        } else {
            self.trend.rises(calls)
        };
        if early || rises {
            return None;
        }
        Some(self.nothing_grows(calls, sites))
    }

    fn go_on(&mut self, calls: u32, sites: &[Site]) -> Next {
        let mut all = Births::default();
        sites.iter().for_each(|site| all.join(&site.births));
        // Early on only what looks like a steady leak is worth the cost of stacks.
        let suspicious = calls >= self.rules.clean_at()
            || self.rules.screens().is_some_and(|[_, second]| calls >= second)
            || all.spread(calls / 8, calls - calls / 4, 4);
        if suspicious && self.sites_since.is_none() {
            self.sites_since = Some(calls);
        }
        Next::Continue {
            tell_sites: self.sites_since.is_some(),
        }
    }

    fn state(&self, site: &Site, calls: u32, exhausted: bool) -> State {
        if site.scarce {
            return self.state_of_scarce(site, calls, exhausted);
        }
        let confirm = match exhausted {
            true => self.rules.confirm_when_exhausted(),
            false => self.rules.confirm(),
        };
        // Blocks from before sites were told apart count only where there will be no others. Of those since, a few
        // may have no known place, and must not be judged together with them.
        let known_since = match site.told || !exhausted && self.told_window(calls).is_some() {
            true => self.sites_since.unwrap_or(0),
            false => 0,
        };
        let Some((from, to)) = self.window(known_since, calls) else {
            return State::Quiet;
        };
        let found = |certainty| SiteFinding {
            site: site.id,
            certainty,
            rate: site.births.rate(from, to),
            births: (from, to),
        };
        if lost::is_proof(&site.lost, from, to) {
            return State::Found(found(Certainty::Lost));
        }
        // Blocks from before sites were told apart say nothing about what still grows.
        if !site.told && self.sites_since.is_some_and(|since| since <= calls / 2) {
            return State::Quiet;
        }
        if calls < self.rules.clean_at() {
            return match site.births.spread(from, to, 3) {
                true => State::Open(found(Certainty::Growing)),
                false => State::Quiet,
            };
        }
        // Fewer than half of what a leak of the guaranteed period would have left there is no such leak.
        let compared = (
            from.max(calls / 8),
            if known_since <= calls / 4 { calls / 2 } else { to },
        );
        let half_of_least = compared.1.saturating_sub(compared.0) / self.rules.period / 2;
        if site.births.calls(compared.0, compared.1) <= half_of_least as usize {
            return State::Quiet;
        }
        let growth = self.growth(site, calls);
        if growth == Growth::None {
            return State::Quiet;
        }
        match site.births.pace(calls) {
            Pace::InStep if calls >= confirm && known_since <= calls / 8 && growth == Growth::AsBorn => {
                State::Found(found(Certainty::Growing))
            }
            Pace::Falling if calls >= self.rules.confirm() => State::Falling,
            _ => State::Open(found(Certainty::Growing)),
        }
    }

    fn state_of_scarce(&self, site: &Site, calls: u32, exhausted: bool) -> State {
        let known_since = if site.told { self.sites_since.unwrap_or(0) } else { 0 };
        let Some((from, to)) = self.window(known_since, calls) else {
            return State::Quiet;
        };
        let open = SiteFinding {
            site: site.id,
            certainty: Certainty::Growing,
            rate: site.births.rate(from, to),
            births: (from, to),
        };
        let sure = match exhausted {
            true => calls.max(site.births.between(from, to).blocks as u32) >= scarce::CONFIRM_WHEN_EXHAUSTED,
            false => calls >= scarce::CONFIRM.min(self.rules.clean_at()),
        };
        // Fewer than half of what a leak of the guaranteed period would have left there is no such leak.
        let least = (to - from) / self.rules.period / 2;
        if site.births.calls(from, to) <= least.max(1) as usize {
            return State::Quiet;
        }
        match scarce::spread(&site.births, from, to) {
            Spread::Even if sure => State::Found(open),
            Spread::Ending if sure => State::Quiet,
            _ => State::Open(open),
        }
    }

    /// Whether the site as a whole has grown since the look before, and with it the number of all blocks of
    /// its sizes. Its births alone do not tell: a free list hands a block on from owner to owner and
    /// from place to place, and the block keeps its birth.
    fn growth(&self, site: &Site, calls: u32) -> Growth {
        let (earlier_call, earlier) = &self.earlier;
        let Some((before, peers)) = earlier
            .get(&site.id)
            .filter(|_| *earlier_call > 0 && *earlier_call < calls)
        else {
            return Growth::Some;
        };
        let now = site.births.total();
        let born = site.births.between(*earlier_call + 1, calls + 1).blocks;
        let grown = now
            .blocks
            .saturating_sub(before.blocks)
            .min(site.peers.blocks.saturating_sub(peers.blocks));
        if grown == 0
            && now
                .bytes
                .saturating_sub(before.bytes)
                .min(site.peers.bytes.saturating_sub(peers.bytes))
                == 0
        {
            Growth::None
        } else if grown * 2 >= born {
            Growth::AsBorn
        } else {
            Growth::Some
        }
    }

    fn told_window(&self, calls: u32) -> Option<(u32, u32)> {
        self.window(self.sites_since?, calls)
    }

    /// The births that count at a look: not the first ones after a change of mode, which pay for
    /// interned code and first-time buffers, and not the newest eighth, which may simply be in use.
    fn window(&self, since: u32, calls: u32) -> Option<(u32, u32)> {
        const SETTLING: u32 = 8;
        let from = (since + SETTLING).max(calls / 8);
        let to = calls - (calls / 8).clamp(1, SETTLING.max(calls / 8));
        (from < to).then_some((from, to))
    }

    /// Sites that hold more bytes than at the look before, or than nothing if this is the first: they carry the trend.
    fn rising_sites(&self, calls: u32, sites: &[Site]) -> Vec<SiteFinding> {
        const SHARE_PERCENT: u64 = 5;
        let (earlier_call, earlier) = &self.earlier;
        if *earlier_call >= calls {
            return Vec::new();
        }
        let rise = |site: &Site| {
            let (before, _) = earlier.get(&site.id).copied().unwrap_or_default();
            site.births.total().bytes.saturating_sub(before.bytes)
        };
        let all: u64 = sites.iter().map(rise).sum();
        let births = (*earlier_call, calls);
        let calls = f64::from(calls - earlier_call);
        sites
            .iter()
            .filter(|site| rise(site) > 0 && rise(site) * 100 >= all * SHARE_PERCENT)
            .map(|site| {
                let rate = Rate {
                    blocks: 0.0,
                    bytes: rise(site) as f64 / calls,
                    every: None,
                };
                SiteFinding {
                    site: site.id,
                    certainty: Certainty::Growing,
                    rate,
                    births,
                }
            })
            .collect()
    }

    fn nothing_grows(&self, calls: u32, sites: &[Site]) -> Outcome {
        // What the first octaves kept belongs to the warm-up.
        const WARM_UP: u32 = 64;
        let late = sites.iter().any(|site| site.births.calls(WARM_UP, calls / 2) > 0);
        let (verdict, reason) = if late {
            (Verdict::Bounded, stopped(calls, sites))
        } else {
            (Verdict::Clean, Reason::NothingGrows)
        };
        self.outcome(verdict, reason, Vec::new(), (calls / 4).min(self.rules.period))
    }

    fn outcome(&self, verdict: Verdict, reason: Reason, mut findings: Vec<SiteFinding>, period: u32) -> Outcome {
        findings.sort_by(|a, b| b.rate.bytes.total_cmp(&a.rate.bytes));
        Outcome {
            verdict,
            reason,
            findings,
            period,
        }
    }
}

fn resident_finding(bytes: f64, calls: u32) -> SiteFinding {
    SiteFinding {
        site: RESIDENT,
        certainty: Certainty::Growing,
        rate: Rate {
            blocks: 0.0,
            bytes,
            every: None,
        },
        births: (calls / 4, calls),
    }
}

/// What stayed, less the youngest, which may be in use.
fn stopped(calls: u32, sites: &[Site]) -> Reason {
    let (mut blocks, mut scarce) = (Births::default(), Births::default());
    for site in sites {
        let old = if site.scarce { &mut scarce } else { &mut blocks };
        old.join_until(&site.births, calls / 2);
    }
    let total = blocks.total();
    Reason::Stopped {
        blocks: total.blocks,
        bytes: total.bytes,
        scarce: scarce.total().blocks,
        last_call: blocks.last().max(scarce.last()).unwrap_or(0),
    }
}

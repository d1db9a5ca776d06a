//! The judge: takes what was measured, says when to go on and what it means.

use std::time::Duration;

use crate::births::{Births, Rate};
use crate::history::History;
use crate::looks;
use crate::rules::{Certainty, Kept, Phase, Reason, Rules, Verdict};
use crate::screen::{self, Climb};
use crate::site::{Moment, Site, SiteFinding, State, is_told_long_enough, told_window};
use crate::trend::{Amount, Trend, least_rise};
use crate::witness::{Growth, Witness};

/// Follows one run of calls.
#[derive(Clone, Debug)]
pub struct Judge {
    rules: Rules,
    trend: Trend,
    /// The totals of the screening.
    climb: Climb,
    /// Sites are told apart since this call; before it all blocks are of one site.
    sites_since: Option<u32>,
    /// What the kernel and allocators count, by the numbers that they were given.
    witnesses: Vec<(usize, Witness)>,
    /// Those of them that tell of memory that is being filled.
    filling: Vec<usize>,
    /// The looks before, from the first on that may say "clean".
    history: History,
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

/// Sites from here on are no places but witnesses: the first is number 0.
pub const WITNESS: usize = usize::MAX / 2;

/// The fewest calls that say anything.
const LEAST_CALLS: u32 = 16;

impl Judge {
    /// Nothing seen yet.
    pub fn new(rules: Rules) -> Judge {
        Judge {
            rules,
            trend: Trend::default(),
            climb: Climb::default(),
            sites_since: rules.tells_sites_at_once().then_some(0),
            witnesses: Vec::new(),
            filling: Vec::new(),
            history: History::default(),
        }
    }

    /// Whether sites are told apart from the first call on.
    pub fn tells_sites(&self) -> bool {
        self.sites_since.is_some()
    }

    /// Whether the totals are wanted after this call, by [`Judge::checkpoint`].
    pub fn wants_checkpoint(call: u32) -> bool {
        looks::wants_checkpoint(call)
    }

    /// The call after which [`Judge::look`] is to be called next.
    pub fn next_look(&self, calls: u32) -> u32 {
        looks::next(&self.rules, calls)
    }

    /// Notes the total after a call.
    pub fn checkpoint(&mut self, call: u32, total: Amount) {
        self.trend.add(call, total.bytes);
        self.screen(call, total);
    }

    /// The same for the call that warms up, and before it.
    pub fn screen(&mut self, call: u32, total: Amount) {
        if call <= self.rules.screens_until() {
            self.climb.add(total.bytes);
        }
    }

    /// Something that another one counts may be growing, and the live set does not explain it: [`Judge::witness`] tells it
    /// from now on, at each checkpoint. Less than `least` bytes are no growth. `suspicion` is what was seen of it before, in
    /// bytes per call.
    pub fn watch(&mut self, witness: usize, calls: u32, least: u64, suspicion: f64) {
        if self.witnesses.iter().all(|(known, _)| *known != witness) {
            self.witnesses.push((witness, Witness::new(calls, least, suspicion)));
        }
    }

    /// The same for memory that was there before and is only being filled. That may end, so it is never called a leak.
    pub fn watch_filling(&mut self, witness: usize, calls: u32, least: u64, suspicion: f64) {
        self.watch(witness, calls, least, suspicion);
        self.filling.push(witness);
    }

    /// Notes how many bytes a witness counts that nothing explains.
    pub fn witness(&mut self, witness: usize, call: u32, bytes: u64) {
        if let Some((_, known)) = self.witnesses.iter_mut().find(|(known, _)| *known == witness) {
            known.add(call, bytes);
        }
    }

    /// Whether it matters at this look which of the survivors are lost.
    pub fn wants_reachability(&self, calls: u32, sites: &[Site]) -> bool {
        let Some((from, to)) = told_window(self.sites_since, calls) else {
            return false;
        };
        sites.iter().any(|site| !site.scarce && site.births.spread(from, to, 4))
    }

    /// Judges after `calls` calls, which took so long.
    pub fn look(&mut self, calls: u32, took: Duration, sites: &[Site]) -> Next {
        let moment = self.moment(calls, took, false);
        let verdict = self.screened(calls, sites).or_else(|| self.decide(&moment, sites));
        let next = if let Some(outcome) = verdict {
            Next::Done(outcome)
        } else if calls >= self.rules.max_calls {
            Next::Done(self.exhausted(calls, took, sites))
        } else {
            self.go_on(calls, sites)
        };
        if calls >= self.rules.clean_at() {
            self.history.add(calls, sites);
        }
        next
    }

    /// The verdict when there can be no further call: time or memory ran out after `calls` calls, which took so long.
    pub fn exhausted(&self, calls: u32, took: Duration, sites: &[Site]) -> Outcome {
        if let Some(outcome) = self.decide(&self.moment(calls, took, false), sites) {
            return outcome;
        }
        if calls < LEAST_CALLS {
            return self.outcome(Verdict::Indeterminate, Reason::TooFewCalls, Vec::new(), 0);
        }
        let moment = self.moment(calls, took, true);
        let (mut findings, mut open, mut falling) = (Vec::new(), Vec::new(), Vec::new());
        for site in sites {
            match moment.state(site) {
                State::Found(found) => findings.push(found),
                State::Open(found) => open.push(found),
                State::Falling => falling.push(site.id),
                State::Quiet => {}
            }
        }
        if open.is_empty() && findings.is_empty() {
            let growing = |(witness, growth)| match growth {
                Growth::Steady(rate) | Growth::Unclear(rate) => Some(witnessed(witness, rate, calls)),
                Growth::None => None,
            };
            open.extend(self.growths(calls).filter_map(growing));
        }
        if open.is_empty() && findings.is_empty() && self.trend.still_rises(calls) {
            open = self.rising_sites(calls, sites, 0);
            open.retain(|found| !falling.contains(&found.site));
        }
        if !findings.is_empty() {
            return self.outcome(Verdict::Leak, Reason::Findings, findings, 0);
        }
        if !open.is_empty() {
            return self.outcome(Verdict::Indeterminate, Reason::StillGrowing, open, 0);
        }
        if !falling.is_empty() {
            return self.outcome(Verdict::Bounded, Reason::Slows(kept(calls, sites)), Vec::new(), 0);
        }
        if calls >= self.rules.clean_at() && !self.tells_sites_long_enough(calls) {
            let needed = looks::next(&self.rules, calls);
            return self.outcome(Verdict::Indeterminate, Reason::StoppedEarly { needed }, Vec::new(), 0);
        }
        self.nothing_grows(calls, sites)
    }

    /// The verdict where whoever holds what grows says how large it will become.
    pub fn within_bounds(&self, calls: u32) -> Outcome {
        self.ends(calls, Some(Kept::default()))
    }

    /// The verdict of the first few calls, if there are to be such looks.
    fn screened(&self, calls: u32, sites: &[Site]) -> Option<Outcome> {
        let births = |scarce| all_births(sites.iter().filter(|site| site.scarce == scarce));
        // What the first call has made of those is not known.
        let scarce = births(true);
        let none_is_short = screen::is_quiet(&scarce, calls) && (calls > 2 || scarce.total().blocks == 0);
        let clean = calls <= self.rules.screens_until()
            && screen::is_quiet(&births(false), calls)
            && none_is_short
            && !self.climb.goes_on();
        clean.then(|| self.outcome(Verdict::Clean, Reason::NothingGrows, Vec::new(), 1))
    }

    /// The verdict, if it already stands.
    fn decide(&self, moment: &Moment<'_>, sites: &[Site]) -> Option<Outcome> {
        let calls = moment.calls;
        let (mut findings, mut undecided) = (Vec::new(), false);
        for site in sites {
            match moment.state(site) {
                State::Found(found) => findings.push(found),
                State::Open(_) | State::Falling => undecided = true,
                State::Quiet => {}
            }
        }
        // What runs out is told at once, even while memory is not decided.
        let is_scarce = |found: &SiteFinding| sites.iter().any(|site| site.id == found.site && site.scarce);
        if undecided && !findings.iter().any(is_scarce) {
            return None;
        }
        if moment.phase == Phase::Confirming && self.trend.keeps_rising(calls) {
            let known: Vec<usize> = findings.iter().map(|found| found.site).collect();
            // Of what has become full lately a table may still grow, by little beside what the trend is made of.
            let rising = self.rising_sites(calls, sites, self.trend.last_rise(calls) / 8);
            findings.extend(rising.into_iter().filter(|found| !known.contains(&found.site)));
        }
        if findings.is_empty() && moment.phase > Phase::Early {
            for (witness, growth) in self.growths(calls) {
                match growth {
                    Growth::Steady(rate) => findings.push(witnessed(witness, rate, calls)),
                    Growth::Unclear(_) => return None,
                    Growth::None => {}
                }
            }
        }
        if !findings.is_empty() {
            return Some(self.outcome(Verdict::Leak, Reason::Findings, findings, 0));
        }
        // A single step may have begun something; long after, it was one.
        let rises = match calls > self.rules.settled() {
            true => self.trend.still_rises(calls),
            false => self.trend.rises(calls),
        };
        let is_over = moment.phase > Phase::Early && !rises && self.tells_sites_long_enough(calls);
        is_over.then(|| self.nothing_grows(calls, sites))
    }

    fn go_on(&mut self, calls: u32, sites: &[Site]) -> Next {
        let all = all_births(sites);
        // Early on only what looks like a steady leak is worth the cost of stacks.
        let suspicious = calls >= self.rules.clean_at()
            || (self.rules.screens_until() > 0 && calls >= self.rules.screens_until())
            || all.spread(calls / 8, calls - calls / 4, 4);
        // Not where the calls that are left would not suffice: those before would be lost for the verdict.
        let max_calls = self.rules.max_calls;
        if suspicious && self.sites_since.is_none() && is_told_long_enough(Some(calls), max_calls, self.rules.period) {
            self.sites_since = Some(calls);
        }
        Next::Continue {
            tell_sites: self.sites_since.is_some(),
        }
    }

    fn tells_sites_long_enough(&self, calls: u32) -> bool {
        is_told_long_enough(self.sites_since, calls, self.rules.period)
    }

    fn growths(&self, calls: u32) -> impl Iterator<Item = (usize, Growth)> + '_ {
        let growth = move |(witness, known): &(usize, Witness)| {
            let growth = match known.growth(calls) {
                Growth::Steady(rate) if self.filling.contains(witness) => Growth::Unclear(rate),
                growth => growth,
            };
            (*witness, growth)
        };
        self.witnesses.iter().map(growth)
    }

    fn moment(&self, calls: u32, took: Duration, last: bool) -> Moment<'_> {
        Moment {
            rules: &self.rules,
            calls,
            phase: self.rules.phase(calls, took),
            last,
            sites_since: self.sites_since,
            history: &self.history,
        }
    }

    /// Sites that hold more bytes than at the look before, or than nothing if this is the first: they carry the trend,
    /// unless all of them together rise by too little.
    fn rising_sites(&self, calls: u32, sites: &[Site], least: u64) -> Vec<SiteFinding> {
        const SHARE_PERCENT: u64 = 5;
        /// Of a table that is enlarged once more.
        const BYTES_PER_ENTRY: u64 = 256;
        let since = self.history.calls_before(calls);
        let rise = |site: &Site| self.history.rise(site, calls);
        let all: u64 = sites.iter().map(rise).sum();
        let least = least
            .max(least_rise(calls - since))
            .max(BYTES_PER_ENTRY * self.history.filled(sites, calls));
        let carries = |rise: u64| all >= least && rise * 100 >= all * SHARE_PERCENT;
        let rising = sites.iter().map(|site| (site.id, rise(site)));
        let finding = |(site, rise)| {
            let bytes = rise as f64 / f64::from(calls - since);
            in_bytes(site, bytes, (since, calls))
        };
        rising.filter(|(_, rise)| carries(*rise)).map(finding).collect()
    }

    fn nothing_grows(&self, calls: u32, sites: &[Site]) -> Outcome {
        // What the first octaves kept belongs to the warm-up.
        const WARM_UP: u32 = 64;
        let late = sites.iter().any(|site| site.births.calls(WARM_UP, calls / 2) > 0);
        self.ends(calls, late.then(|| kept(calls, sites)))
    }

    /// Nothing goes on, if there were calls enough to say so, and so much has stayed.
    fn ends(&self, calls: u32, kept: Option<Kept>) -> Outcome {
        let needed = self.rules.clean_at();
        let (verdict, reason) = match kept {
            _ if calls < needed => (Verdict::Indeterminate, Reason::StoppedEarly { needed }),
            Some(kept) => (Verdict::Bounded, Reason::Stopped(kept)),
            None => (Verdict::Clean, Reason::NothingGrows),
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

fn witnessed(witness: usize, bytes: f64, calls: u32) -> SiteFinding {
    in_bytes(WITNESS + witness, bytes, (calls / 4, calls))
}

/// Growth that shows in bytes only.
fn in_bytes(site: usize, bytes: f64, births: (u32, u32)) -> SiteFinding {
    SiteFinding {
        site,
        certainty: Certainty::Growing,
        rate: Rate {
            blocks: 0.0,
            bytes,
            every: None,
        },
        births,
    }
}

fn all_births<'a>(sites: impl IntoIterator<Item = &'a Site>) -> Births {
    let mut all = Births::default();
    sites.into_iter().for_each(|site| all.join(&site.births));
    all
}

/// What stayed, less the youngest, which may be in use.
fn kept(calls: u32, sites: &[Site]) -> Kept {
    let (mut blocks, mut scarce) = (Births::default(), Births::default());
    for site in sites {
        let old = if site.scarce { &mut scarce } else { &mut blocks };
        old.join_until(&site.births, calls / 2);
    }
    Kept::of(&blocks, &scarce)
}

#[cfg(test)]
mod tests;

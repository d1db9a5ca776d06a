//! Which of the writes to a reference count are left over.
//!
//! Calls take references to an object and give them back: each is a write, up or down, at some place. What is taken
//! and given back by code that belongs together cancels; what remains, at the rate at which the count is known to
//! drift, is the bug: for a leak the references taken that nothing gives back, for an over-release those given back
//! that nothing took.
//!
//! A count does not say *which* reference a release gives back, so pairs are made by how closely two places belong
//! together ([`Kinship`]): closest first, later ups before earlier ones, within a call before across calls. Where
//! another pairing is about as good, the writes that it leaves over are candidates as well: an answer with one
//! candidate means that every other pairing is worse by more than one degree.
//!
//! The interpreter is taken to be right: a write with none but its own frames is a candidate only where no other is, and
//! for an over-release not even there ([`Unknown::Returned`]).

mod pairs;
mod places;

use std::collections::BTreeMap;

use pairs::{Paired, pair};
use places::Places;
pub use places::{Frame, Kinship, Owner};

/// One write to the count.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The number of the call in which it came; they rise from 0 on.
    pub call: u32,
    /// By how much the count rose.
    pub by: i64,
    /// Where, the innermost frame first, out to the call under test.
    pub stack: Vec<Frame>,
}

/// What a log of writes says.
#[derive(Clone, Debug, PartialEq)]
pub struct Account {
    /// Where the references come from that are missing or too many; empty: not known, and see `unknown`.
    pub origins: Vec<Origin>,
    /// Why nothing is known.
    pub unknown: Option<Unknown>,
    /// All places, in the order of their first write.
    pub places: Vec<Place>,
}

/// One or more bugs at one or more places.
#[derive(Clone, Debug, PartialEq)]
pub struct Origin {
    /// References per call.
    pub per_call: f64,
    /// The likeliest first. One: it is there. Several: it is one of these.
    pub candidates: Vec<Candidate>,
}

/// A place that may be to blame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// An example: its place in the log.
    pub change: usize,
    /// So many of its writes in each call go the way in which the count drifts.
    pub per_call: f64,
}

/// The writes at one place, which is a stack.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    /// An example: its place in the log.
    pub change: usize,
    /// References taken there.
    pub up: u64,
    /// References given back there.
    pub down: u64,
    /// Those of them that are in no pair.
    pub left_over: u64,
}

/// Why it is not known where the references come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unknown {
    /// At the rate of the finding, too few references were taken in so few calls.
    TooShort,
    /// In these calls the count did not drift as it did before.
    OtherRate,
    /// The drift is scattered over places of which none has an appreciable part.
    Scattered,
    /// The interpreter gave back what nobody had taken, as it does where a function returns a reference that it has only
    /// borrowed: that function writes nothing.
    Returned,
}

/// A drift is known from so many references on; below, chance decides.
const LEAST: f64 = 3.0;
/// A place with less than this part of the drift is chance.
const APPRECIABLE: f64 = 0.1;

/// Finds what is left over in the log of `calls` calls, if the count drifts by `per_call`: positive for a leak, negative
/// for an over-release.
pub fn account(log: &[Change], calls: u32, per_call: f64) -> Account {
    of_log(log, calls, per_call, false)
}

/// The same for a drift of just `per_call` in each call, of which everything that is left over is told, however few the
/// calls: whether it is what is known already, one call shows.
pub fn account_exactly(log: &[Change], calls: u32, per_call: f64) -> Account {
    of_log(log, calls, per_call, true)
}

fn of_log(log: &[Change], calls: u32, per_call: f64, is_exact: bool) -> Account {
    let places = Places::of(log);
    let paired = pair(log, &places);
    let mut account = Account {
        origins: Vec::new(),
        unknown: None,
        places: paired.totals(&places),
    };
    match find(log, &places, &paired, calls, per_call, is_exact) {
        Ok(origins) => account.origins = origins,
        Err(unknown) => account.unknown = Some(unknown),
    }
    account
}

/// The calls in which everything has found its way: not the first ones, nor the last.
#[derive(Clone, Copy)]
struct Steady {
    from: u32,
    to: u32,
}

impl Steady {
    fn of(calls: u32) -> Steady {
        let margin = match calls {
            0..4 => 0,
            _ => (calls / 8).max(1),
        };
        Steady {
            from: margin,
            to: calls - margin,
        }
    }

    fn calls(self) -> f64 {
        f64::from(self.to - self.from)
    }

    fn has(self, call: u32) -> bool {
        (self.from..self.to).contains(&call)
    }
}

fn find(
    log: &[Change],
    places: &Places,
    paired: &Paired,
    calls: u32,
    per_call: f64,
    is_exact: bool,
) -> Result<Vec<Origin>, Unknown> {
    let steady = if is_exact {
        Steady { from: 0, to: calls }
    } else {
        Steady::of(calls)
    };
    let expected = per_call.abs() * steady.calls();
    if expected.is_nan() || expected < if is_exact { 1.0 } else { LEAST } {
        return Err(Unknown::TooShort);
    }
    let drift: i64 = log
        .iter()
        .filter(|change| steady.has(change.call))
        .map(|change| change.by)
        .sum();
    let tolerance = if is_exact { 0.0 } else { (expected / 4.0).max(1.5) };
    if (drift as f64 - per_call.signum() * expected).abs() > tolerance {
        return Err(Unknown::OtherRate);
    }
    let is_leak = per_call > 0.0;
    let mut left_over: BTreeMap<usize, u64> = BTreeMap::new();
    for unit in paired.left_over(is_leak).filter(|unit| steady.has(unit.call)) {
        *left_over.entry(places.site(unit.place)).or_default() += 1;
    }
    left_over.retain(|_, count| is_exact || *count >= 2 && *count as f64 >= APPRECIABLE * expected);
    let found: u64 = left_over.values().sum();
    if (found as f64) < expected / 2.0 {
        return Err(Unknown::Scattered);
    }

    let mut groups: Vec<(f64, BTreeMap<usize, u8>)> = Vec::new();
    for (site, count) in left_over {
        // Some of the drift may be lost to pairs with what the last calls gave back.
        let part = count as f64 / found as f64;
        let mut group = (
            part * drift.unsigned_abs() as f64 / steady.calls(),
            alternatives(site, count, places, paired, steady, is_leak),
        );
        // What shares a candidate cannot be told apart.
        while let Some(at) = groups
            .iter()
            .position(|other| other.1.keys().any(|site| group.1.contains_key(site)))
        {
            let (rate, sites) = groups.swap_remove(at);
            group.0 += rate;
            for (site, cost) in sites {
                let known = group.1.entry(site).or_insert(cost);
                *known = cost.min(*known);
            }
        }
        groups.push(group);
    }
    let mut origins: Vec<Origin> = groups
        .into_iter()
        .map(|(per_call, sites)| Origin {
            per_call,
            candidates: ranked(log, places, sites, steady, is_leak),
        })
        .collect();
    let is_by_library = |candidate: &Candidate| places.has_library(places.of_change(candidate.change));
    let (is_known, all) = (
        |origin: &Origin| is_leak || origin.candidates.iter().any(is_by_library),
        origins.len(),
    );
    origins.retain(is_known);
    if origins.is_empty() && all > 0 {
        return Err(Unknown::Returned);
    }
    origins.sort_by(|a, b| {
        b.per_call
            .total_cmp(&a.per_call)
            .then(a.candidates[0].change.cmp(&b.candidates[0].change))
    });
    Ok(origins)
}

/// The sites that would be left over instead of this one, `count` times, if pairs were made otherwise, with how many
/// degrees of kinship that costs; itself at no cost.
fn alternatives(
    site: usize,
    count: u64,
    places: &Places,
    paired: &Paired,
    steady: Steady,
    is_leak: bool,
) -> BTreeMap<usize, u8> {
    const MOST: u8 = 1;
    let mut pairs: BTreeMap<(usize, usize), u64> = BTreeMap::new();
    for (up, down) in paired
        .pairs()
        .filter(|(up, down)| steady.has(up.call) || steady.has(down.call))
    {
        let (own, other) = if is_leak { (up, down) } else { (down, up) };
        *pairs.entry((own.place, other.place)).or_default() += 1;
    }
    // Several places of a site may serve, and several partners; a partner that pairs more rarely than this is chance.
    pairs.retain(|_, times| *times * 4 >= count);
    let mut found = BTreeMap::from([(site, 0)]);
    let mut open = vec![(site, 0u8)];
    while let Some((site, cost)) = open.pop() {
        for (own, other) in pairs.keys() {
            let next = places.site(*own);
            let now = places.kinship(*own, *other) as u8;
            let swapped = places
                .of_site(site)
                .map(|place| places.kinship(place, *other) as u8)
                .max();
            let total = cost + now.saturating_sub(swapped.unwrap_or(0));
            if total <= MOST && found.get(&next).is_none_or(|known| total < *known) {
                found.insert(next, total);
                open.push((next, total));
            }
        }
    }
    found
}

fn ranked(
    log: &[Change],
    places: &Places,
    sites: BTreeMap<usize, u8>,
    steady: Steady,
    is_leak: bool,
) -> Vec<Candidate> {
    let goes_that_way = |change: &Change| (change.by > 0) == is_leak && change.by != 0;
    // How the count and a site move from call to call: a site that moves as the count does is the likelier one.
    let mut drift: BTreeMap<u32, i64> = BTreeMap::new();
    let mut moves: BTreeMap<usize, BTreeMap<u32, i64>> = BTreeMap::new();
    for (at, change) in log.iter().enumerate().filter(|(_, change)| steady.has(change.call)) {
        *drift.entry(change.call).or_default() += change.by;
        if goes_that_way(change) {
            let site = places.site(places.of_change(at));
            *moves.entry(site).or_default().entry(change.call).or_default() += change.by;
        }
    }
    drift.retain(|_, by| *by != 0);
    let has_library = |site: usize| places.of_site(site).any(|place| places.has_library(place));
    let is_any_library = sites.keys().any(|site| has_library(*site));
    let mut order: Vec<_> = sites
        .into_iter()
        .filter(|(site, _)| has_library(*site) || !is_any_library)
        .map(|(site, cost)| (cost, moves.get(&site) != Some(&drift), site))
        .collect();
    order.sort_unstable();
    order
        .into_iter()
        .filter_map(|(_, _, site)| {
            let is_here = |at: &usize| places.site(places.of_change(*at)) == site && goes_that_way(&log[*at]);
            let all: i64 = moves.get(&site).map_or(0, |calls| calls.values().sum());
            Some(Candidate {
                change: (0..log.len()).find(is_here)?,
                per_call: all.unsigned_abs() as f64 / steady.calls(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests;

//! References to objects that live on: counted over the calls, and looked at closely where a count moves with them.

pub(crate) mod again;
mod close;
mod rare;
mod watched;

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use leaktight_hooks as hooks;
use leaktight_references::{Held, Runtime};
use leaktight_report::{self as report, Certainty, Control, Finding, Kind, Severity, sentence};
use leaktight_verdict::Rate;
use leaktight_verdict::references::{Tally, is_suspicious};

use crate::places::Names;
use crate::statics;
use crate::subject::{Description, Subject};

pub(crate) use close::CloseLook;
use rare::shows;
use watched::Place;

/// So many objects are looked at closely at a time, those that moved most.
const MOST_SUSPECTS: usize = 64;

const IMMORTAL: &str = "leaked references to objects that this interpreter never frees (None, small integers, its own types); they do no harm";
const LET_GO: &str = "they were let go since a call did not return in time";

/// What is held. Only touched with the GIL held, which nobody lets go of while this is locked.
static HELD: Mutex<Option<Held>> = Mutex::new(None);

/// Lets go of every object that a check holds, in the middle of a call that does not return: it may wait for the death of
/// one of them. The check no longer counts references then.
///
/// # Safety
///
/// Where a check runs for CPython, the caller holds the GIL.
pub unsafe fn let_go_of_objects() {
    // Not within the lock: objects may die, and run code of theirs.
    drop(take_held());
}

fn take_held() -> Option<Held> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn with_held<T>(ask: impl FnOnce(&mut Held) -> T) -> Option<T> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(ask)
}

/// Follows the counts of all objects that can be found.
#[derive(Default)]
pub(crate) struct References {
    is_on: IsOn,
    /// Only objects that the subject has chosen are.
    is_narrow: bool,
    /// Calls, and which counts were not as at first, by rising address.
    samples: Vec<(u32, Vec<(usize, i64)>)>,
    judged: HashSet<usize>,
    /// Objects with a rate that was not exact: beside other threads that may be chance, and needs a second look.
    unsure: Vec<(usize, f64)>,
    /// What was found, not put into words yet.
    found: Vec<Found>,
    /// What came of watching the counts of those.
    places: Vec<(usize, Result<Place, String>)>,
    /// Objects to which calls keep references where the collector does not look.
    hidden: Vec<usize>,
    pub findings: Vec<Finding>,
    pub remarks: Vec<String>,
    /// Why nothing, or not all, was looked at.
    pub blind_spot: Option<String>,
    /// How rare a leak would have to be to stay unseen, if rarer ones were asked for.
    pub too_rare: Option<String>,
    /// How many objects were.
    pub objects: u64,
}

/// Whether objects are held, which are let go however the check ends.
#[derive(Default)]
struct IsOn(bool);

impl Drop for IsOn {
    fn drop(&mut self) {
        if self.0 {
            drop(take_held());
        }
    }
}

struct Found {
    kind: Kind,
    object: usize,
    rate: Rate,
    tallies: [Tally; 3],
}

impl References {
    /// Holds what may be held before the first call, so that a reference released too often frees nothing.
    pub(crate) fn hold(subject: &mut impl Subject) -> References {
        let mut references = References::default();
        if !subject.is_python() {
            return references;
        }
        // SAFETY: a subject that says it is Python's holds the GIL.
        let runtime = unsafe { Runtime::find() };
        match (runtime, subject.frozen_objects()) {
            (Ok(runtime), Some(frozen)) => {
                references.blind_spot = runtime.has_immortal_objects().then(|| IMMORTAL.to_owned());
                references.is_on.0 = true;
                // SAFETY: as above.
                let held = unsafe { Held::new(runtime, frozen) };
                *HELD.lock().unwrap_or_else(PoisonError::into_inner) = Some(held);
                match subject.chosen_objects() {
                    Some(chosen) => references.add_only(&chosen, subject),
                    None => references.add(&[], subject),
                }
            }
            (Ok(_), None) => references.give_up("the garbage collector's lists have an unknown layout"),
            (Err(why), _) => references.give_up(&why.to_string()),
        }
        references
    }

    /// To be called after the warm-up, which may have made objects: counts from here on.
    pub(crate) fn begin(&mut self, calls: u32, subject: &mut impl Subject, control: &mut Control) {
        if !self.is_on() {
            return;
        }
        let new = hooks::totals();
        // Without a new block there is no new object.
        if !self.is_narrow && new.own.blocks + new.foreign.blocks > 0 {
            let tracked = subject.tracked_objects();
            self.add(&tracked, subject);
        }
        let begun = with_held(|held| {
            // SAFETY: the GIL is held, as in `hold`.
            let begun = unsafe { held.begin() };
            begun.map(|()| held.len() as u64)
        });
        match begun {
            Some(Ok(objects)) => self.objects = objects,
            Some(Err(why)) => self.give_up(&why.to_string()),
            None => {}
        }
        self.samples.push((calls, Vec::new()));
        self.check_counts(subject, control);
    }

    fn add(&mut self, tracked: &[usize], subject: &mut impl Subject) {
        let lasting = subject.named_objects();
        // SAFETY: live objects of the subject's, and the GIL is held.
        let added = with_held(|held| unsafe { held.add(tracked, &lasting) });
        if let Some(Err(why)) = added {
            self.give_up(&why.to_string());
        }
    }

    fn add_only(&mut self, chosen: &[usize], subject: &mut impl Subject) {
        self.is_narrow = true;
        let lasting = subject.named_objects();
        // SAFETY: live objects of the subject's, and the GIL is held.
        if let Some(Err(why)) = with_held(|held| unsafe { held.add_only(chosen, &lasting) }) {
            self.give_up(&why.to_string());
        }
    }

    /// After so many calls: puts into words what was found, and lets all objects die when they should. What calls have
    /// released too often gets its references back.
    pub(crate) fn let_go(&mut self, calls: u32, subject: &mut impl Subject) {
        if self.is_on() {
            let hidden = std::mem::take(&mut self.hidden).into_iter();
            let hidden: Vec<Description> = hidden.map(|object| subject.describe(object)).collect();
            let names = hidden.into_iter().filter(|of| !of.is_constant).map(|of| of.name);
            self.remarks.extend(kept_unseen(&names.collect::<Vec<_>>()));
            let mut names = Names::default();
            for found in &self.found {
                let mut finding = finding(found, subject);
                self.place(found, &mut finding, &mut names, subject);
                self.remember(found, &finding);
                self.findings.push(finding);
            }
        }
        if let Some(mut held) = take_held() {
            for found in self.found.iter().filter(|found| found.kind == Kind::OverRelease) {
                held.repair(found.object, (found.rate.blocks * f64::from(calls)).ceil() as i64);
            }
        }
    }

    pub(super) fn is_on(&mut self) -> bool {
        if self.is_on.0 && with_held(|_| ()).is_none() {
            self.give_up(LET_GO);
        }
        self.is_on.0
    }

    /// Says why nothing is looked at.
    fn give_up(&mut self, why: &str) {
        self.is_on.0 = false;
        drop(take_held());
        self.objects = 0;
        self.blind_spot = Some(format!("leaked references to objects that live on anyway ({why})"));
    }

    /// Notes the counts after so many calls.
    pub(crate) fn look(&mut self, calls: u32) {
        if !self.is_on() || self.samples.last().is_none_or(|(last, _)| *last >= calls) {
            return;
        }
        // SAFETY: the GIL is held, as in `hold`.
        match with_held(|held| unsafe { held.changes() }) {
            Some(Ok(changes)) => {
                let changes = changes.into_iter().map(|change| (change.object, change.by)).collect();
                self.samples.push((calls, changes));
            }
            Some(Err(why)) => self.give_up(&why.to_string()),
            None => {}
        }
    }

    /// The start of a closer look at what moved with the calls, if anything did.
    ///
    /// Where this look may acquit what leaks once in up to so many calls, all counts since the first are compared if the
    /// last ones do not show that.
    pub(crate) fn suspect(&mut self, acquits_up_to: u32) -> Option<CloseLook> {
        /// A second look is so much longer.
        const LONGER: f64 = 4.0;
        if !self.is_on() {
            return None;
        }
        if let Some(slowest) = self.unsure.iter().map(|(_, rate)| rate.abs()).reduce(f64::min) {
            let suspects = self.unsure.iter().map(|(object, _)| *object).collect();
            return Some(CloseLook::at(suspects, slowest / LONGER));
        }
        if self.is_narrow {
            return self.suspect_early();
        }
        let (calls, last) = self.samples.last()?;
        let lasts = self.samples.len().saturating_sub(3)..self.samples.len();
        let triple = match shows(&self.calls_of(lasts.clone())) < acquits_up_to {
            true => self.best_triple().to_vec(),
            false => lasts.collect(),
        };
        let suspicious = |(object, _): &&(usize, i64)| {
            let series = triple.iter().map(|at| &self.samples[*at]);
            let series: Vec<(u32, i64)> = series.map(|(calls, by)| (*calls, change_of(by, *object))).collect();
            !self.judged.contains(object) && is_suspicious(&series)
        };
        let mut suspects: Vec<(usize, i64)> = last.iter().filter(suspicious).copied().collect();
        suspects.sort_by_key(|(_, by)| -by.abs());
        suspects.truncate(MOST_SUSPECTS);
        let slowest = suspects.last()?.1.abs() as f64 / f64::from(calls - self.samples[0].0);
        Some(CloseLook::at(
            suspects.into_iter().map(|(object, _)| object).collect(),
            slowest,
        ))
    }

    /// What may have moved up, or down, in each of a few calls.
    fn moved_early(&self) -> Vec<usize> {
        let Some((_, last)) = self.samples.last() else {
            return Vec::new();
        };
        let keeps_step = |object: usize, by: i64| {
            self.samples.windows(2).all(|pair| {
                let [(from, before), (to, after)] = pair else {
                    return false;
                };
                let moved = change_of(after, object) - change_of(before, object);
                moved * by.signum() >= i64::from(to - from)
            })
        };
        let moved = last
            .iter()
            .filter(|(object, by)| !self.judged.contains(object) && keeps_step(*object, *by));
        moved.map(|(object, _)| *object).take(MOST_SUSPECTS).collect()
    }

    /// Whether a few more calls may show that what has moved does not do so in step with them.
    pub(crate) fn may_be_chance(&self) -> bool {
        self.is_narrow && !self.moved_early().is_empty()
    }

    /// That is to be followed over as few.
    fn suspect_early(&self) -> Option<CloseLook> {
        const WINDOWS: [u32; 2] = [6, 14];
        let suspects = self.moved_early();
        (!suspects.is_empty()).then(|| {
            let mut look = CloseLook::at(suspects, 1.0);
            look.windows = WINDOWS;
            look
        })
    }

    /// A reference that nobody holds must show, and one that is gone must not.
    fn check_counts(&mut self, subject: &mut impl Subject, control: &mut Control) {
        let planted = subject.plant_references(1);
        // In the many checks of a few objects it takes too long to go through all.
        let narrow = self.is_narrow;
        // SAFETY: the GIL is held, as in `hold`.
        let with = with_held(|held| unsafe {
            match narrow {
                true => Ok(held.changes_of_held()),
                false => held.changes(),
            }
        });
        // SAFETY: as above; the two objects are the subject's own.
        let counts = || with_held(|held| planted.map(|planted| planted.map(|object| unsafe { held.count(object) })));
        let counted = counts();
        subject.return_references();
        let back = counts();
        match with {
            Some(Ok(with)) => {
                let mut expected: Vec<usize> = planted.into_iter().flatten().collect();
                expected.sort_unstable();
                let shown: Vec<usize> = with
                    .iter()
                    .filter(|change| change.by == 1)
                    .map(|change| change.object)
                    .collect();
                let gone = (counted.flatten(), back.flatten());
                let is_gone = matches!(gone, (Some(with), Some(without)) if with == without.map(|count| count + 1));
                if shown != expected || shown.len() != with.len() || !is_gone {
                    missed(control, "a planted reference");
                }
            }
            Some(Err(why)) => self.give_up(&why.to_string()),
            None => {}
        }
    }

    /// How far a count had moved when the close look began.
    fn change_since_first(&self, object: usize, calls: u32) -> i64 {
        let sample = self.samples.iter().rev().find(|(at, _)| *at <= calls);
        sample.map_or(0, |(_, changes)| change_of(changes, object))
    }
}

fn change_of(changes: &[(usize, i64)], object: usize) -> i64 {
    let found = changes.binary_search_by_key(&object, |(of, _)| *of);
    found.map_or(0, |at| changes[at].1)
}

/// There was not enough time, or memory, for a close look.
pub(crate) struct TooShort;

/// Whether the object lives as long as the program anyway, as a type does that a module keeps in C, and an object that is
/// a variable in C itself. (A variable that points to any other object may do so for a while only.)
fn lives_on(object: usize, description: &Description, subject: &impl Subject) -> bool {
    description.is_permanent
        || statics::is_made_by_compiler(object)
        || description.is_type && statics::find(object, subject).is_some()
}

/// A remark on objects to which calls keep references where the collector does not look.
fn kept_unseen(names: &[String]) -> Option<String> {
    let names = match names {
        [] => return None,
        [one] => one.clone(),
        [one, two] => format!("{one} and {two}"),
        [one, two, three] => format!("{one}, {two} and {three}"),
        [one, two, others @ ..] => format!("{one}, {two} and {} other objects", others.len()),
    };
    Some(format!(
        "calls keep references to {names} in memory that the garbage collector does not look at"
    ))
}

fn missed(control: &mut Control, what: &str) {
    control.missed.push(what.to_owned());
}

fn finding(found: &Found, subject: &mut impl Subject) -> Finding {
    let Found { kind, rate, object, .. } = *found;
    let [_, before, after] = found.tallies;
    let description = subject.describe(found.object);
    let mut finding = Finding {
        kind,
        certainty: Certainty::Lost,
        severity: match kind == Kind::Reference && lives_on(object, &description, subject) {
            true => Severity::Warning,
            false => Severity::Error,
        },
        blocks_per_call: rate.blocks,
        bytes_per_call: 0.0,
        block_size: None,
        every: rate.every.map(u64::from),
        allocator: String::new(),
        via: None,
        objects_per_call: None,
        type_name: description.type_name,
        examples: vec![description.name],
        holder: None,
        in_cycle: false,
        earlier_owner: false,
        also: Vec::new(),
        one_of: false,
        kept_by: Vec::new(),
        stack_note: None,
        buffer_export: false,
        path: Vec::new(),
        references: Some(report::References {
            calls: u64::from(after.calls - before.calls),
            before: before.count,
            after: after.count,
            visible: after.visible - before.visible,
            words: after.words - before.words,
            balanced: None,
        }),
        stack: Vec::new(),
        message: String::new(),
    };
    finding.message = sentence(&finding);
    finding
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_objects_have_one_remark() {
        let names = |count: usize| ["a", "b", "c", "d"].map(str::to_owned)[..count].to_vec();
        let told = |count| {
            kept_unseen(&names(count))
                .map(|remark| remark.replace(" in memory that the garbage collector does not look at", ""))
        };
        assert_eq!(told(0), None);
        assert_eq!(told(1).as_deref(), Some("calls keep references to a"));
        assert_eq!(told(2).as_deref(), Some("calls keep references to a and b"));
        assert_eq!(told(3).as_deref(), Some("calls keep references to a, b and c"));
        assert_eq!(
            told(4).as_deref(),
            Some("calls keep references to a, b and 2 other objects")
        );
    }
}

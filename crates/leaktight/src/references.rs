//! References to objects that live on: counted over the calls, and looked at closely where a count moves with them.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use leaktight_hooks as hooks;
use leaktight_references::{Dying, Held, Runtime, Stopped, visible};
use leaktight_report::{self as report, Certainty, Control, Finding, Kind, Severity, sentence};
use leaktight_stacks as stacks;
use leaktight_verdict::Rate;
use leaktight_verdict::references::{Holding, Tally, is_suspicious, judge, windows};

use crate::budget::Budget;
use crate::statics;
use crate::subject::{Description, Subject};
use crate::words::words;

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
    /// Objects to which calls keep references where the collector does not look.
    hidden: Vec<usize>,
    pub findings: Vec<Finding>,
    pub remarks: Vec<String>,
    /// Why nothing, or not all, was looked at.
    pub blind_spot: Option<String>,
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

/// A close look at a few objects, over three moments.
pub(crate) struct CloseLook {
    suspects: Vec<usize>,
    moments: Vec<(u32, Vec<Tally>)>,
    planted: Option<[usize; 2]>,
    /// Calls of the two intervals.
    pub windows: [u32; 2],
}

impl CloseLook {
    fn at(suspects: Vec<usize>, slowest: f64) -> CloseLook {
        let (first, second) = windows(slowest);
        CloseLook {
            suspects,
            moments: Vec::new(),
            planted: None,
            windows: [first, second],
        }
    }
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
            for object in std::mem::take(&mut self.hidden) {
                let of = subject.describe(object);
                if !of.is_constant {
                    let name = of.name;
                    self.remarks.push(format!(
                        "calls keep references to {name} in memory that the garbage collector does not look at"
                    ));
                }
            }
            for found in &self.found {
                self.findings.push(finding(found, subject));
            }
        }
        if let Some(mut held) = take_held() {
            for found in self.found.iter().filter(|found| found.kind == Kind::OverRelease) {
                held.repair(found.object, (found.rate.blocks * f64::from(calls)).ceil() as i64);
            }
        }
    }

    fn is_on(&mut self) -> bool {
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
    pub(crate) fn suspect(&mut self) -> Option<CloseLook> {
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
        let suspicious = |(object, _): &&(usize, i64)| {
            let series: Vec<(u32, i64)> = self
                .samples
                .iter()
                .map(|(calls, by)| (*calls, change_of(by, *object)))
                .collect();
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

    /// What moved by the same number in each of a few calls, to be followed over as few.
    fn suspect_early(&self) -> Option<CloseLook> {
        const WINDOWS: [u32; 2] = [6, 14];
        let (calls, last) = self.samples.last()?;
        let calls = i64::from(calls - self.samples[0].0);
        let moved = last
            .iter()
            .filter(|(object, by)| by % calls == 0 && !self.judged.contains(object));
        let suspects: Vec<usize> = moved.map(|(object, _)| *object).take(MOST_SUSPECTS).collect();
        (!suspects.is_empty()).then(|| CloseLook {
            windows: WINDOWS,
            ..CloseLook::at(suspects, 1.0)
        })
    }

    /// Counts the references to the suspects after so many calls. From the first time on they are held.
    pub(crate) fn look_closely(
        &mut self,
        look: &mut CloseLook,
        calls: u32,
        budget: &Budget,
        subject: &mut impl Subject,
    ) -> Result<(), TooShort> {
        if !self.is_on() {
            return Err(TooShort);
        }
        let since = look.moments.last().map_or(0, |(last, _)| calls - last);
        look.planted = subject.plant_references(since).or(look.planted);
        let planted = look.planted.into_iter().flatten();
        let objects: Vec<usize> = look.suspects.iter().copied().chain(planted).collect();
        let tracked = subject.tracked_objects();
        let mut go_on = || budget.spent(0).is_none() && !subject.is_interrupted();
        // SAFETY: live objects of the subject's; the GIL is held, and nothing of the program's runs.
        let seen = with_held(|held| unsafe { visible(held, &objects, &tracked, &mut go_on) });
        drop(tracked);
        let seen = match seen {
            Some(Ok(seen)) => seen,
            Some(Err(Stopped::NoTime)) => return Err(TooShort),
            _ => {
                self.give_up("there is no memory for their counts");
                return Err(TooShort);
            }
        };
        // The others have died since.
        let objects: Vec<usize> = seen.iter().map(|seen| seen.object).collect();
        if look.moments.is_empty() {
            look.suspects.retain(|suspect| objects.contains(suspect));
            with_held(|held| {
                for object in &look.suspects {
                    // SAFETY: met a moment ago, and so alive; the GIL is held.
                    unsafe { held.keep(*object) };
                }
            });
        }
        match words(&objects) {
            Ok(words) => {
                // New stacks hold the code of their frames: that is our doing.
                let own = objects.iter().map(|object| stacks::references_to(*object) as i64);
                let tally = |((seen, words), own): ((&leaktight_references::Seen, i64), i64)| Tally {
                    calls,
                    count: seen.count - own,
                    visible: seen.visible,
                    words,
                };
                look.moments
                    .push((calls, seen.iter().zip(words).zip(own).map(tally).collect()));
                Ok(())
            }
            Err(why) => {
                self.give_up(&why.to_string());
                Err(TooShort)
            }
        }
    }

    /// Gives up a close look: nothing is said about its suspects.
    pub(crate) fn abandon(&mut self, look: &CloseLook, subject: &mut impl Subject) {
        subject.return_references();
        self.release(&look.suspects);
    }

    /// What became of the suspects' references.
    pub(crate) fn conclude(&mut self, look: CloseLook, subject: &mut impl Subject, control: &mut Control) {
        subject.return_references();
        let unsure = std::mem::take(&mut self.unsure);
        self.judged.extend(&look.suspects);
        let [first, second, third] = look.moments.as_slice() else {
            return;
        };
        let count = look.suspects.len();
        if [first, second, third].iter().any(|moment| moment.1.len() != count + 2) {
            self.release(&look.suspects);
            missed(control, "an object that was held");
            return;
        }
        let tallies = |at: usize| [first.1[at], second.1[at], third.1[at]];
        let holding = |at: usize, since: u32| {
            let [before, .., after] = tallies(at);
            let all = (third.0 - since, after.count - before.count);
            judge(&tallies(at), all)
        };
        let leaked =
            matches!(holding(count, first.0), Holding::Leaked(rate) if rate.every == Some(1) && rate.blocks == 1.0);
        if look.planted.is_none() || !leaked || holding(count + 1, first.0) != Holding::Seen {
            self.release(&look.suspects);
            missed(control, "a planted reference, or one like it that is held");
            return;
        }
        let since = self.samples[0].0;
        let mut innocent = Vec::new();
        for (at, object) in look.suspects.iter().enumerate() {
            let [before, _, after] = tallies(at);
            let all = self.change_since_first(*object, first.0) + after.count - before.count;
            let (kind, rate) = match judge(&tallies(at), (third.0 - since, all)) {
                Holding::Seen => {
                    innocent.push(*object);
                    continue;
                }
                Holding::Hidden => {
                    self.hidden.push(*object);
                    continue;
                }
                Holding::Leaked(rate) => (Kind::Reference, rate),
                Holding::Released(rate) => (Kind::OverRelease, rate),
            };
            let signed = if kind == Kind::Reference {
                rate.blocks
            } else {
                -rate.blocks
            };
            let before = unsure.iter().find(|(of, _)| of == object).map(|(_, rate)| *rate);
            match (rate.every, before) {
                (None, None) => {
                    self.unsure.push((*object, signed));
                    self.judged.remove(object);
                    continue;
                }
                (None, Some(before)) if (signed - before).abs() > before.abs() / 4.0 => {
                    innocent.push(*object);
                    continue;
                }
                _ => {}
            }
            self.found.push(Found {
                kind,
                object: *object,
                rate,
                tallies: tallies(at),
            });
        }
        self.release(&innocent);
    }

    /// These may die when they should, at once if that is now.
    fn release(&mut self, objects: &[usize]) {
        // SAFETY: the GIL is held, as in `hold`. What dies does so outside of the lock.
        drop::<Option<Dying>>(with_held(|held| unsafe { held.release(objects) }));
    }

    /// A reference that nobody holds must show, and one that is gone must not.
    fn check_counts(&mut self, subject: &mut impl Subject, control: &mut Control) {
        let planted = subject.plant_references(1);
        // SAFETY: the GIL is held, as in `hold`.
        let with = with_held(|held| unsafe { held.changes() });
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

/// Whether the object lives as long as the program anyway, as a type does that a module keeps in C.
fn lives_on(object: usize, description: &Description, subject: &impl Subject) -> bool {
    description.is_permanent || description.is_type && statics::find(object, subject).is_some()
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
        references: Some(report::References {
            calls: u64::from(after.calls - before.calls),
            before: before.count,
            after: after.count,
            visible: after.visible - before.visible,
            words: after.words - before.words,
        }),
        stack: Vec::new(),
        message: String::new(),
    };
    finding.message = sentence(&finding);
    finding
}

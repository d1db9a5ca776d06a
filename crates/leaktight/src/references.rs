//! References to objects that live on: counted over the calls, and looked at closely where a count moves with them.

use leaktight_liveset::MappedVec;
use leaktight_references::{Held, Runtime, visible};
use leaktight_report::{self as report, Certainty, Control, Finding, Kind, Severity, sentence};
use leaktight_stacks as stacks;
use leaktight_verdict::Rate;
use leaktight_verdict::references::{Holding, Tally, is_suspicious, judge, windows};

use crate::maps;
use crate::statics;
use crate::subject::{Description, Subject};
use crate::words::words;

/// So many objects are looked at closely at a time, those that moved most.
const MOST_SUSPECTS: usize = 64;

const IMMORTAL: &str = "leaked references to objects that this interpreter never frees (None, small integers, its own types); they do no harm";

/// Follows the counts of all objects that can be found.
#[derive(Default)]
pub(crate) struct References {
    held: Option<Held>,
    /// Only objects that the subject has chosen are.
    is_narrow: bool,
    /// Calls, and which counts were not as at first.
    samples: Vec<(u32, Vec<(usize, i64)>)>,
    judged: Vec<usize>,
    /// Objects with a rate that was not exact: beside other threads that may be chance, and needs a second look.
    unsure: Vec<(usize, f64)>,
    /// What is released too often, and how often in a call.
    released: Vec<(usize, f64)>,
    pub findings: Vec<Finding>,
    pub remarks: Vec<String>,
    /// Why nothing, or not all, was looked at.
    pub blind_spot: Option<String>,
    /// How many objects were.
    pub objects: u64,
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
    /// Holds every object before the first call, so that a reference released too often frees nothing.
    pub(crate) fn hold(subject: &mut impl Subject) -> References {
        let mut references = References::default();
        if !subject.is_python() {
            return references;
        }
        // SAFETY: a subject that says it is Python's holds the GIL.
        match unsafe { Runtime::find() } {
            Ok(runtime) => {
                references.blind_spot = runtime.has_immortal_objects().then(|| IMMORTAL.to_owned());
                references.held = Some(Held::new(runtime));
                match subject.chosen_objects() {
                    Some(chosen) => references.add_only(&chosen, subject),
                    None => references.add(subject, true),
                }
            }
            Err(why) => references.give_up(&why.to_string()),
        }
        references
    }

    /// To be called after the warm-up, which may have made objects: counts from here on.
    pub(crate) fn begin(&mut self, calls: u32, subject: &mut impl Subject, control: &mut Control) {
        if !self.is_narrow {
            self.add(subject, false);
        }
        let Some(held) = &mut self.held else { return };
        self.objects = held.len() as u64;
        // SAFETY: the GIL is held, as in `hold`.
        unsafe { held.begin() };
        self.samples.push((calls, Vec::new()));
        check_counts(held, subject, control);
    }

    fn add(&mut self, subject: &mut impl Subject, all: bool) {
        let Some(held) = &mut self.held else { return };
        let tracked = subject.tracked_objects(all);
        // SAFETY: live objects of the subject's, and the GIL is held.
        if let Err(why) = unsafe { held.add(&tracked, &subject.named_objects(), maps::is_alone()) } {
            self.give_up(&why.to_string());
        }
    }

    fn add_only(&mut self, chosen: &[usize], subject: &mut impl Subject) {
        self.is_narrow = true;
        let Some(held) = &mut self.held else { return };
        // SAFETY: live objects of the subject's, and the GIL is held.
        let added = unsafe {
            held.add_only(chosen)
                .and_then(|()| held.add_only(&subject.named_objects()))
        };
        if let Err(why) = added {
            self.give_up(&why.to_string());
        }
    }

    /// After so many calls: the objects die when they should from now on. What calls have released too often gets its
    /// references back.
    pub(crate) fn let_go(&mut self, calls: u32) {
        if let Some(mut held) = self.held.take() {
            for (object, per_call) in &self.released {
                held.repair(*object, (per_call * f64::from(calls)).ceil() as i64);
            }
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.held.is_some()
    }

    /// Says why nothing is looked at.
    pub(crate) fn give_up(&mut self, why: &str) {
        self.held = None;
        self.objects = 0;
        self.blind_spot = Some(format!("leaked references to objects that live on anyway ({why})"));
    }

    /// Notes the counts after so many calls.
    pub(crate) fn look(&mut self, calls: u32) {
        let Some(held) = &self.held else { return };
        if self.samples.last().is_some_and(|(last, _)| *last < calls) {
            // SAFETY: the GIL is held, as in `hold`.
            let changes = unsafe { held.changes() };
            let changes = changes.into_iter().map(|change| (change.object, change.by)).collect();
            self.samples.push((calls, changes));
        }
    }

    /// The start of a closer look at what moved with the calls, if anything did.
    pub(crate) fn suspect(&self) -> Option<CloseLook> {
        /// A second look is so much longer.
        const LONGER: f64 = 4.0;
        self.held.as_ref()?;
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

    /// Counts the references to the suspects after so many calls.
    pub(crate) fn look_closely(&mut self, look: &mut CloseLook, calls: u32, subject: &mut impl Subject) {
        let Some(held) = &self.held else { return };
        let since = look.moments.last().map_or(0, |(last, _)| calls - last);
        look.planted = subject.plant_references(since).or(look.planted);
        let mut objects = look.suspects.clone();
        objects.extend(look.planted.into_iter().flatten());
        let tracked = subject.tracked_objects(self.is_narrow);
        // SAFETY: what is held, live objects of the subject's, and the GIL is held.
        let seen = unsafe { visible(held, &objects, &tracked) }.map_err(std::io::Error::other);
        drop::<MappedVec<usize>>(tracked);
        match seen.and_then(|seen| Ok((seen, words(&objects)?))) {
            Ok((seen, words)) => {
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
            }
            Err(why) => self.give_up(&why.to_string()),
        }
    }

    /// What became of the suspects' references.
    pub(crate) fn conclude(&mut self, look: CloseLook, subject: &mut impl Subject, control: &mut Control) {
        subject.return_references();
        let unsure = std::mem::take(&mut self.unsure);
        self.judged.extend(&look.suspects);
        let [first, second, third] = look.moments.as_slice() else {
            return;
        };
        let tallies = |at: usize| [first.1[at], second.1[at], third.1[at]];
        let holding = |at: usize, since: u32| {
            let [before, .., after] = tallies(at);
            let all = (third.0 - since, after.count - before.count);
            judge(&tallies(at), all)
        };
        let count = look.suspects.len();
        let leaked =
            matches!(holding(count, first.0), Holding::Leaked(rate) if rate.every == Some(1) && rate.blocks == 1.0);
        if look.planted.is_none() || !leaked || holding(count + 1, first.0) != Holding::Seen {
            missed(control, "a planted reference, or one like it that is held");
            return;
        }
        let since = self.samples[0].0;
        for (at, object) in look.suspects.iter().enumerate() {
            let [before, _, after] = tallies(at);
            let all = self.change_since_first(*object, first.0) + after.count - before.count;
            let (kind, rate) = match judge(&tallies(at), (third.0 - since, all)) {
                Holding::Seen => continue,
                Holding::Hidden => {
                    let of = subject.describe(*object);
                    if !of.is_constant {
                        let name = of.name;
                        self.remarks.push(format!(
                            "calls keep references to {name} in memory that the garbage collector does not look at"
                        ));
                    }
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
                    self.judged.retain(|judged| judged != object);
                    continue;
                }
                (None, Some(before)) if (signed - before).abs() > before.abs() / 4.0 => continue,
                _ => {}
            }
            if kind == Kind::OverRelease {
                self.released.push((*object, rate.blocks));
            }
            self.findings.push(finding(kind, *object, rate, &tallies(at), subject));
        }
    }

    /// How far a count had moved when the close look began.
    fn change_since_first(&self, object: usize, calls: u32) -> i64 {
        let sample = self.samples.iter().rev().find(|(at, _)| *at <= calls);
        sample.map_or(0, |(_, changes)| change_of(changes, object))
    }
}

fn change_of(changes: &[(usize, i64)], object: usize) -> i64 {
    // In the order in which they are held, which is not that of addresses; there are few.
    changes.iter().find(|(of, _)| *of == object).map_or(0, |(_, by)| *by)
}

/// A reference that nobody holds must show, and one that is gone must not.
fn check_counts(held: &Held, subject: &mut impl Subject, control: &mut Control) {
    let planted = subject.plant_references(1);
    // SAFETY: the GIL is held, as in `hold`.
    let with = unsafe { held.changes() };
    subject.return_references();
    let by = |object: usize| {
        with.iter()
            .find(|change| change.object == object)
            .map_or(0, |change| change.by)
    };
    let shown = planted.is_some_and(|planted| planted.iter().all(|object| by(*object) == 1));
    // SAFETY: as above.
    let gone = unsafe { held.changes() }.is_empty();
    if !(shown && gone) {
        missed(control, "a planted reference");
    }
}

/// Whether the object lives as long as the program anyway, as a type does that a module keeps in C.
fn lives_on(object: usize, description: &Description, subject: &impl Subject) -> bool {
    description.is_permanent || description.is_type && statics::find(object, subject).is_some()
}

fn missed(control: &mut Control, what: &str) {
    control.missed.push(what.to_owned());
}

fn finding(kind: Kind, object: usize, rate: Rate, tallies: &[Tally; 3], subject: &mut impl Subject) -> Finding {
    let [_, before, after] = tallies;
    let description = subject.describe(object);
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

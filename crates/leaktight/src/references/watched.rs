//! The counts of objects that lose references, watched for the place that takes them.

use std::rc::Rc;

use leaktight_references::exporter;
use leaktight_report::{Finding, Kind};
use leaktight_stacks as stacks;

use super::{Found, References, with_held};
use crate::places::{Functions, MOST_WATCHED, Names, Suspect, Watched};
use crate::subject::Subject;

/// What was watched, which of the words it was, and why.
pub(super) type Place = (Rc<Watched>, usize, Suspect);

impl References {
    /// Objects with miscounted references whose counts were not watched yet: as many as can be at a time, those that matter
    /// most first.
    pub(crate) fn unwatched(&mut self) -> Option<Vec<Suspect>> {
        if !self.is_on() {
            return None;
        }
        let known = |found: &&Found| !self.places.iter().any(|(object, _)| *object == found.object);
        let mut left: Vec<&Found> = self.found.iter().filter(known).collect();
        left.sort_by_key(|found| found.kind != Kind::OverRelease);
        let suspects = left.into_iter().take(MOST_WATCHED);
        let suspects = suspects.map(|Found { kind, object, rate, .. }| {
            with_held(|held| Suspect {
                object: *object,
                count_bytes: held.count_bytes(),
                per_call: if *kind == Kind::Reference {
                    rate.blocks
                } else {
                    -rate.blocks
                },
                every: rate.every.unwrap_or((1.0 / rate.blocks).ceil() as u32),
            })
        });
        let suspects: Vec<Suspect> = suspects.collect::<Option<_>>()?;
        (!suspects.is_empty()).then_some(suspects)
    }

    /// Notes what came of watching them.
    pub(crate) fn watched(&mut self, suspects: &[Suspect], watched: Watched) {
        let watched = Rc::new(watched);
        for (at, suspect) in suspects.iter().enumerate() {
            self.places.push((suspect.object, Ok((watched.clone(), at, *suspect))));
        }
    }

    /// Notes why they were not.
    pub(crate) fn not_watched(&mut self, suspects: &[Suspect], why: &str) {
        let why = suspects.iter().map(|suspect| (suspect.object, Err(why.to_owned())));
        self.places.extend(why);
    }

    /// Says in a finding where the references come from.
    pub(super) fn place(&self, found: &Found, finding: &mut Finding, names: &mut Names, subject: &mut impl Subject) {
        let known = self.places.iter().find(|(object, _)| *object == found.object);
        match known.map(|(_, known)| known) {
            Some(Ok((watched, at, suspect))) => {
                watched
                    .taken(*at, suspect, functions(found.object, subject), names, subject)
                    .tell(finding);
            }
            Some(Err(why)) => finding.stack_note = Some(why.clone()),
            None => {}
        }
    }
}

/// Functions that may have to do with an object of a finding.
pub(super) fn functions(object: usize, subject: &impl Subject) -> Functions {
    Functions {
        deallocator: deallocator(object, subject),
        exporter: exporter(object),
    }
}

/// If an object is a type of a library's, the function of the library that frees its instances.
fn deallocator(object: usize, subject: &impl Subject) -> Option<usize> {
    // SAFETY: an object of a finding is alive, and the GIL is held.
    let all = with_held(|held| unsafe { held.deallocators(object) })?;
    let is_library = |at: &usize| stacks::object_at(*at as u64).is_some_and(|module| !subject.is_runtime(&module));
    all.into_iter().find(is_library)
}

//! Objects that an earlier check of this process has proved to lose references. Where these are seen being taken at the
//! same places as then, and not given back, that need not be proved again.
//!
//! Nobody can release what nobody holds, so such objects live on, and their addresses stay theirs.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use leaktight_report::{Finding, Frame, Kind};
use leaktight_verdict::Rate;
use leaktight_verdict::references::Tally;

use super::watched::functions;
use super::{Found, References, change_of, with_held};
use crate::places::{MOST_WATCHED, Names, Suspect, Watched};
use crate::subject::Subject;

/// By object: the native code that takes references which are lost.
static PROVED: Mutex<BTreeMap<usize, Vec<Vec<Frame>>>> = Mutex::new(BTreeMap::new());

/// Every check proves anew what it finds.
pub(crate) fn forget() {
    with_proved(BTreeMap::clear);
}

fn with_proved<T>(ask: impl FnOnce(&mut BTreeMap<usize, Vec<Vec<Frame>>>) -> T) -> T {
    ask(&mut PROVED.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The innermost frames of a stack, down to what Python runs.
fn native(stack: &[Frame]) -> Vec<Frame> {
    stack.iter().take_while(|frame| !frame.python).cloned().collect()
}

/// The native code of each place, if it is certain and there is some at each.
fn places<'a>(stacks: impl Iterator<Item = &'a Vec<Frame>>, one_of: bool) -> Option<Vec<Vec<Frame>>> {
    let places: Vec<Vec<Frame>> = stacks.map(|stack| native(stack)).collect();
    (!one_of && !places.is_empty() && places.iter().all(|place| !place.is_empty())).then_some(places)
}

impl References {
    /// Notes where references to an object were proved to be lost.
    pub(super) fn remember(&self, found: &Found, finding: &Finding) {
        let stacks = std::iter::once(&finding.stack).chain(&finding.also);
        if self.is_narrow
            && found.kind == Kind::Reference
            && let Some(new) = places(stacks, finding.one_of)
        {
            with_proved(|proved| {
                let known = proved.entry(found.object).or_default();
                known.extend(
                    new.into_iter()
                        .filter(|place| !known.contains(place))
                        .collect::<Vec<_>>(),
                );
            });
        }
    }

    /// All objects whose counts have moved in step with a few calls, if they are known to lose references.
    pub(crate) fn lost_before(&self) -> Option<Vec<Suspect>> {
        let moved = self.moved_early();
        let are_known = with_proved(|proved| moved.iter().all(|object| proved.contains_key(object)));
        if !self.is_narrow || moved.is_empty() || moved.len() > MOST_WATCHED || !are_known || !self.unsure.is_empty() {
            return None;
        }
        let count_bytes = with_held(|held| held.count_bytes())?;
        let suspects = moved.into_iter().map(|object| Suspect {
            object,
            count_bytes,
            per_call: self.step(object),
            every: 1,
        });
        let suspects: Vec<Suspect> = suspects.collect();
        suspects
            .iter()
            .all(|suspect| suspect.per_call > 0.0)
            .then_some(suspects)
    }

    /// Whether calls with the counts watched have shown all of these being lost at places that are known.
    pub(crate) fn lost_again(&mut self, suspects: &[Suspect], watched: Watched, subject: &mut impl Subject) -> bool {
        let mut names = Names::default();
        let mut is_known = |(at, suspect): (usize, &Suspect)| {
            let functions = functions(suspect.object, subject);
            let taken = watched.taken(at, suspect, functions, &mut names, subject);
            let places = places(taken.stacks.iter(), taken.one_of);
            places.is_some_and(|places| {
                with_proved(|proved| {
                    let known = proved.get(&suspect.object);
                    known.is_some_and(|known| places.iter().all(|place| known.contains(place)))
                })
            })
        };
        let are_known = suspects.iter().enumerate().all(&mut is_known);
        if are_known {
            let again: Vec<Found> = suspects.iter().map(|suspect| self.found_again(suspect)).collect();
            self.judged.extend(suspects.iter().map(|suspect| suspect.object));
            self.found.extend(again);
            self.watched(suspects, watched);
        }
        are_known
    }

    fn found_again(&self, suspect: &Suspect) -> Found {
        // SAFETY: what nobody holds lives on, and the GIL is held.
        let count = with_held(|held| unsafe { held.count(suspect.object) }).unwrap_or_default();
        let calls = self.samples.last().map_or(0, |(calls, _)| *calls);
        let since = self.samples.first().map_or(0, |(calls, _)| *calls);
        // What holds it was not looked for.
        let tally = |calls, count| Tally {
            calls,
            count,
            visible: 0,
            words: 0,
        };
        let first = tally(since, count - (suspect.per_call as i64) * i64::from(calls - since));
        Found {
            kind: Kind::Reference,
            object: suspect.object,
            rate: Rate {
                blocks: suspect.per_call,
                bytes: 0.0,
                every: Some(1),
            },
            tallies: [first, first, tally(calls, count)],
        }
    }

    /// By how much each call has moved a count that has moved in step with them.
    fn step(&self, object: usize) -> f64 {
        let [(first, _), .., (last, changes)] = self.samples.as_slice() else {
            return 0.0;
        };
        change_of(changes, object) as f64 / f64::from(last - first)
    }
}

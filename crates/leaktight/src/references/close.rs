//! The close look: a few objects, over two more rows of calls.

use leaktight_references::{Dying, Stopped, visible};
use leaktight_report::{Control, Kind};
use leaktight_stacks as stacks;
use leaktight_verdict::references::{Holding, Tally, judge, windows};

use super::{Found, References, TooShort, missed, with_held};
use crate::budget::Budget;
use crate::subject::Subject;
use crate::words::words;

/// A close look at a few objects, over three moments.
pub(crate) struct CloseLook {
    pub(super) suspects: Vec<usize>,
    moments: Vec<(u32, Vec<Tally>)>,
    planted: Option<[usize; 2]>,
    /// Calls of the two intervals.
    pub windows: [u32; 2],
    /// They are shorter than they should be, and say nothing where they show nothing.
    pub is_short: bool,
}

impl CloseLook {
    pub(super) fn at(suspects: Vec<usize>, slowest: f64) -> CloseLook {
        let (first, second) = windows(slowest);
        CloseLook {
            suspects,
            moments: Vec::new(),
            planted: None,
            windows: [first, second],
            is_short: false,
        }
    }
}

impl References {
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
        // The words of the first moment are compared with none. Where many tests are judged, that is much of the time.
        let words = match look.moments.is_empty() && self.is_narrow {
            true => Ok(vec![0; objects.len()]),
            false => words(&objects),
        };
        match words {
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

    /// What became of the suspects' references. Says no where that is not known of one that has moved.
    pub(crate) fn conclude(&mut self, look: CloseLook, subject: &mut impl Subject, control: &mut Control) -> bool {
        subject.return_references();
        let unsure = std::mem::take(&mut self.unsure);
        self.judged.extend(&look.suspects);
        let [first, second, third] = look.moments.as_slice() else {
            return false;
        };
        let count = look.suspects.len();
        if [first, second, third].iter().any(|moment| moment.1.len() != count + 2) {
            self.release(&look.suspects);
            missed(control, "an object that was held");
            return false;
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
            return false;
        }
        let since = self.samples[0].0;
        let (mut innocent, mut is_known) = (Vec::new(), true);
        for (at, object) in look.suspects.iter().enumerate() {
            let [before, _, after] = tallies(at);
            let all = self.change_since_first(*object, first.0) + after.count - before.count;
            let (kind, rate) = match judge(&tallies(at), (third.0 - since, all)) {
                Holding::Seen => {
                    // A count that has not moved on, or that has with nobody seen to hold the references, may be that of
                    // a rare leak.
                    let moved = after.count - before.count;
                    let earlier = self.change_since_first(*object, first.0);
                    let moves_on =
                        2 * moved.abs() * i64::from(first.0 - since) >= earlier.abs() * i64::from(third.0 - first.0);
                    if look.is_short && !(moves_on && moved == after.visible - before.visible) {
                        is_known = false;
                        self.judged.remove(object);
                    }
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
        is_known
    }

    /// These may die when they should, at once if that is now.
    pub(super) fn release(&mut self, objects: &[usize]) {
        // SAFETY: the GIL is held, as in `hold`. What dies does so outside of the lock.
        drop::<Option<Dying>>(with_held(|held| unsafe { held.release(objects) }));
    }
}

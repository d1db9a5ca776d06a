//! Whose names are that appeared while calls were made, and that they were not seen to make: a child process of theirs
//! may have, or a thread that was there before, or a system call that is not followed; or another program altogether.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use leaktight_hooks::{self as hooks, Mark};
use leaktight_report::Kind;

use super::{Resources, Thing};
use crate::sites::IDLE;
use crate::subject::Subject;

/// Things that are judged together: of one kind, and with names in one folder (by its number among all names), since
/// other programs have folders of their own.
pub(super) type Group = (Kind, Option<u32>);

/// What is known of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stance {
    /// They come in step with the calls, and none comes while nothing is called.
    Ours,
    /// They come in step with the calls.
    Unclear,
    /// They have nothing to do with the calls.
    Others,
}

/// The kinds that other programs make, too.
pub(super) const KINDS: [Kind; 2] = [Kind::File, Kind::Ipc];

/// Fewer births say nothing, and fewer than that are no proof.
const LEAST: usize = 4;
const LEAST_PROOF: usize = 8;
/// So many are awaited while nothing is called. Of events at random that two at most of them come has a chance of
/// 1 : 60,000.
const AWAITED: u32 = 16;
/// With fewer awaited, that none came says nothing.
const LEAST_AWAITED: f64 = 7.5;
const LONGEST: Duration = Duration::from_secs(1);
const SHORTEST: Duration = Duration::from_millis(20);

impl Resources {
    /// Judges the things that the calls were not seen to make, and lets some time pass for that.
    pub(super) fn tell_unseen(&mut self, calls: u32, subject: &mut impl Subject) {
        self.stances.clear();
        let mut groups: BTreeMap<Group, Vec<u32>> = BTreeMap::new();
        for thing in &self.unseen {
            let births = groups.entry(self.group_of(*thing)).or_default();
            let birth = self.known.get(thing).map(|mark| mark.birth);
            births.extend(birth.filter(|birth| *birth <= calls));
        }
        groups.retain(|_, births| keeps_step(births, self.first, calls));
        let calling = self.started.elapsed().saturating_sub(self.idle);
        let distance = |births: &Vec<u32>| calling / births.len() as u32;
        let Some(longest) = groups.values().map(distance).max() else {
            return;
        };
        let (waited, came) = self.while_idle((longest * AWAITED).clamp(SHORTEST, LONGEST), subject);
        hooks::leave_call(calls);
        for (group, births) in groups {
            let awaited = waited.as_secs_f64() / distance(&births).as_secs_f64();
            let came = came.iter().filter(|thing| self.group_of(**thing) == group).count();
            self.stances.push((group, judge(births.len(), awaited, came)));
        }
        self.disown();
        self.from_before
            .extend(came.into_iter().map(|thing| (thing, Mark::default())));
    }

    pub(super) fn group_of(&self, thing: Thing) -> Group {
        match thing {
            Thing::File(number) | Thing::Shared(number) => (thing.kind(), Some(self.names.folder_of(number))),
            thing => (thing.kind(), None),
        }
    }

    /// What is new after some time in which nothing was called, and how long that was.
    fn while_idle(&mut self, time: Duration, subject: &mut impl Subject) -> (Duration, Vec<Thing>) {
        hooks::leave_call(IDLE);
        let started = Instant::now();
        // What a child process of the last call still makes is no proof against it.
        subject.idle(SHORTEST);
        self.compare();
        let before = self.now(subject);
        let waited = Instant::now();
        subject.idle(time);
        let waited = waited.elapsed();
        self.compare();
        let mut after = self.now(subject);
        after.retain(|thing, mark| mark.is_none_or(|mark| mark.foreign) && !before.contains_key(thing));
        self.idle += started.elapsed();
        (waited, after.into_keys().collect())
    }
}

/// Whether as many came from each quarter of the calls as if every call, or one in so many, made some.
fn keeps_step(births: &[u32], first: u32, last: u32) -> bool {
    if births.len() < LEAST || last <= first {
        return false;
    }
    let mut quarters = [0.0; 4];
    for birth in births {
        let at = u64::from(birth.saturating_sub(first + 1)) * 4 / u64::from(last - first);
        quarters[(at as usize).min(3)] += 1.0;
    }
    let expected = births.len() as f64 / 4.0;
    quarters
        .iter()
        .all(|count| *count >= 1.0 && (count - expected).abs() <= expected / 8.0 + 1.0)
}

fn judge(births: usize, awaited: f64, came: usize) -> Stance {
    let came = came as f64;
    if came * 2.0 > awaited {
        Stance::Others
    } else if births >= LEAST_PROOF && awaited >= LEAST_AWAITED && came * 8.0 <= awaited {
        Stance::Ours
    } else {
        Stance::Unclear
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_step_with_the_calls_are_told_from_others() {
        let all: Vec<u32> = (3..=512).collect();
        assert!(keeps_step(&all, 2, 512));
        let third: Vec<u32> = (3..=512).step_by(3).collect();
        assert!(keeps_step(&third, 2, 512));
        assert!(keeps_step(&[100, 200, 300, 450], 2, 512));
        // Too few; all at once; a cache that is full; what has just begun.
        assert!(!keeps_step(&[100, 200, 300], 2, 512));
        assert!(!keeps_step(&[100; 40], 2, 512));
        assert!(!keeps_step(&all[..300], 2, 512));
        assert!(!keeps_step(&all[300..], 2, 512));
        // Some at random.
        assert!(!keeps_step(&[10, 20, 30, 200, 300, 310, 320, 330, 400, 500], 2, 512));
        assert!(!keeps_step(&[], 0, 0));
    }

    #[test]
    fn what_comes_while_nothing_is_called_is_others() {
        assert_eq!(judge(16, 16.0, 0), Stance::Ours);
        assert_eq!(judge(16, 16.0, 2), Stance::Ours);
        assert_eq!(judge(16, 16.0, 3), Stance::Unclear);
        assert_eq!(judge(16, 7.0, 0), Stance::Unclear);
        assert_eq!(judge(7, 16.0, 0), Stance::Unclear);
        assert_eq!(judge(16, 16.0, 16), Stance::Others);
    }
}

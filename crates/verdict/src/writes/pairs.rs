//! Pairs of a reference taken and one given back.

use std::cmp::Reverse;

use super::places::{Kinship, Places};
use super::{Change, Place};

/// One reference taken or given back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unit {
    pub call: u32,
    pub place: usize,
    is_up: bool,
    partner: Option<usize>,
}

pub(super) struct Paired {
    units: Vec<Unit>,
    examples: Vec<usize>,
}

/// Which pairs a pass may make.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Taken, then given back in the same call.
    SameCall,
    /// Given back in a later call, as by a generator, or by what replaces what an earlier call has stored.
    LaterCall,
    /// In any order: what a call gives back first may have been taken before all of them.
    Any,
}

/// Pairs what belongs together, the closest first.
pub(super) fn pair(log: &[Change], places: &Places) -> Paired {
    // One write does not change a count by more; where it seems so, others that were not seen have helped.
    const MOST: u64 = 64;
    let mut paired = Paired {
        units: Vec::new(),
        examples: vec![usize::MAX; places.len()],
    };
    for (at, change) in log.iter().enumerate() {
        let place = places.of_change(at);
        let example = &mut paired.examples[place];
        *example = at.min(*example);
        let unit = Unit {
            call: change.call,
            place,
            is_up: change.by > 0,
            partner: None,
        };
        let times = change.by.unsigned_abs().min(MOST) as usize;
        paired.units.extend(std::iter::repeat_n(unit, times));
    }
    for kinship in Kinship::CLOSEST_FIRST {
        paired.pass(places, kinship, Reach::SameCall);
        paired.pass(places, kinship, Reach::LaterCall);
    }
    for kinship in Kinship::CLOSEST_FIRST {
        paired.pass(places, kinship, Reach::Any);
    }
    paired
}

impl Paired {
    fn pass(&mut self, places: &Places, kinship: Kinship, reach: Reach) {
        // Downs and ups that wait for a partner, by place, the latest last.
        let mut waiting: [Vec<Vec<usize>>; 2] = [vec![Vec::new(); places.len()], vec![Vec::new(); places.len()]];
        for at in 0..self.units.len() {
            let unit = self.units[at];
            if unit.partner.is_some() {
                continue;
            }
            let [downs, ups] = &mut waiting;
            let (own, others) = if unit.is_up { (ups, downs) } else { (downs, ups) };
            let fits = |place: usize| {
                let last = *others[place].last()?;
                let is_near = reach != Reach::SameCall || self.units[last].call == unit.call;
                let is_kin = places.kinship(unit.place, place) == kinship;
                (is_near && is_kin).then_some((Reverse(places.distance(unit.place, place)), last))
            };
            let is_turn = !unit.is_up || reach == Reach::Any;
            let best = (0..places.len()).filter(|_| is_turn).filter_map(fits).max();
            if let Some((_, other)) = best {
                others[self.units[other].place].pop();
                self.units[other].partner = Some(at);
                self.units[at].partner = Some(other);
            } else {
                own[unit.place].push(at);
            }
        }
    }

    /// What is in no pair.
    pub fn left_over(&self, is_up: bool) -> impl Iterator<Item = &Unit> {
        self.units
            .iter()
            .filter(move |unit| unit.partner.is_none() && unit.is_up == is_up)
    }

    /// Pairs of what was taken and what was given back.
    pub fn pairs(&self) -> impl Iterator<Item = (&Unit, &Unit)> {
        let ups = self.units.iter().filter(|unit| unit.is_up);
        ups.filter_map(|unit| Some((unit, &self.units[unit.partner?])))
    }

    pub fn totals(&self, places: &Places) -> Vec<Place> {
        let mut totals: Vec<Place> = (0..places.len())
            .map(|place| Place {
                change: self.examples[place],
                up: 0,
                down: 0,
                left_over: 0,
            })
            .collect();
        for unit in &self.units {
            let place = &mut totals[unit.place];
            *(if unit.is_up { &mut place.up } else { &mut place.down }) += 1;
            place.left_over += u64::from(unit.partner.is_none());
        }
        totals
    }
}

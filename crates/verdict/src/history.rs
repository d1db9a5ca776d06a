//! What was alive at earlier looks.

use std::collections::HashMap;

use crate::site::Site;
use crate::trend::Amount;

/// The last few looks.
#[derive(Clone, Debug, Default)]
pub(crate) struct History(Vec<Look>);

/// How much was alive of each site, and of its peers.
#[derive(Clone, Debug)]
struct Look {
    calls: u32,
    sites: HashMap<usize, (Amount, Amount)>,
}

/// How a site has changed between two looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Growth {
    /// It has not grown.
    None,
    /// It has grown, or it is not known.
    Some,
    /// It has grown by at least half of what was born there since and is alive.
    AsBorn,
}

/// How fast a site grows, beside the interval before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speed {
    /// As fast or faster, or it is not known.
    Same,
    /// More slowly than chance allows.
    Less,
    /// So much more slowly that it will come to an end.
    Ending,
}

impl History {
    pub(crate) fn add(&mut self, calls: u32, sites: &[Site]) {
        /// The look before, the one before that, and two that came just after a regular one.
        const KEPT: usize = 4;
        let amounts = sites.iter().map(|site| (site.id, (site.births.total(), site.peers)));
        let sites = amounts.collect();
        self.0.push(Look { calls, sites });
        self.0.drain(..self.0.len().saturating_sub(KEPT));
    }

    /// The calls of the look that `calls` calls are compared with; 0 if there is none.
    pub(crate) fn calls_before(&self, calls: u32) -> u32 {
        self.before(calls).last().map_or(0, |look| look.calls)
    }

    /// How many bytes more a site holds than at the look before; all of them, if it is new.
    pub(crate) fn rise(&self, site: &Site, calls: u32) -> u64 {
        let known = self.before(calls).last().and_then(|look| look.sites.get(&site.id));
        let before = known.map_or(0, |(own, _)| own.bytes);
        site.births.total().bytes.saturating_sub(before)
    }

    /// How many blocks came between the two looks before at sites where hardly any have come since: entries of what is full
    /// now.
    pub(crate) fn filled(&self, sites: &[Site], calls: u32) -> u64 {
        let [.., first, second] = self.before(calls) else {
            return 0;
        };
        let blocks = |look: &Look, site: &Site| look.sites.get(&site.id).map_or(0, |(own, _)| own.blocks);
        let full = sites.iter().filter(|site| self.speed(site, calls) == Speed::Ending);
        full.map(|site| blocks(second, site).saturating_sub(blocks(first, site)))
            .sum()
    }

    /// Whether the site as a whole has grown since the look before, and with it the number of all blocks of
    /// its sizes. Its births alone do not tell: a free list hands a block on from owner to owner and
    /// from place to place, and the block keeps its birth.
    pub(crate) fn growth(&self, site: &Site, calls: u32) -> Growth {
        let Some(look) = self.before(calls).last() else {
            return Growth::Some;
        };
        let Some((before, peers)) = look.sites.get(&site.id) else {
            return Growth::Some;
        };
        let now = site.births.total();
        let born = site.births.between(look.calls + 1, calls + 1).blocks;
        let grown = |own: u64, own_before: u64, peers: u64, peers_before: u64| {
            own.saturating_sub(own_before).min(peers.saturating_sub(peers_before))
        };
        let blocks = grown(now.blocks, before.blocks, site.peers.blocks, peers.blocks);
        let bytes = grown(now.bytes, before.bytes, site.peers.bytes, peers.bytes);
        if blocks == 0 && bytes == 0 {
            Growth::None
        } else if blocks * 2 >= born {
            Growth::AsBorn
        } else {
            Growth::Some
        }
    }

    /// Whether the site grows more slowly than between the two looks before: a cache whose entries take each other's
    /// places does, long before it is full.
    pub(crate) fn speed(&self, site: &Site, calls: u32) -> Speed {
        /// Standard deviations of what is left behind at random. One leak in 700 goes so slowly by chance.
        const CHANCE: f64 = 3.0;
        /// Slower than the logarithm, which never ends and grows by as much in twice the calls.
        const ENDING: f64 = 0.35;
        let [.., first, second] = self.before(calls) else {
            return Speed::Same;
        };
        let blocks = |look: &Look| look.sites.get(&site.id).map(|(own, _)| own.blocks);
        let (Some(at_first), Some(at_second)) = (blocks(first), blocks(second)) else {
            return Speed::Same;
        };
        let before = at_second.saturating_sub(at_first) as f64;
        let after = site.births.total().blocks.saturating_sub(at_second) as f64;
        let times = f64::from(calls - second.calls) / f64::from(second.calls - first.calls);
        let (expected, chance) = (before * times, CHANCE * (after + before * times * times).sqrt());
        if after + chance >= expected {
            Speed::Same
        } else if after + chance >= ENDING * expected {
            Speed::Less
        } else {
            Speed::Ending
        }
    }

    /// The looks that `calls` calls can be compared with: after few further calls nothing has changed.
    fn before(&self, calls: u32) -> &[Look] {
        let is_apart = |look: &Look| look.calls <= calls - calls / 4;
        &self.0[..self.0.partition_point(is_apart)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(births: &[(u32, u64)], peers: u64) -> Site {
        let mut site = Site {
            id: 1,
            told: true,
            births: Default::default(),
            lost: Default::default(),
            peers: Amount::default(),
            scarce: false,
        };
        births.iter().for_each(|(birth, bytes)| site.births.add(*birth, *bytes));
        site.peers = Amount {
            blocks: peers,
            bytes: peers * 1000,
        };
        site
    }

    #[test]
    fn growth_is_what_was_born_after_the_look_before() {
        let mut history = History::default();
        history.add(100, &[site(&[(99, 8), (100, 8)], 50)]);
        let born = [(99, 8), (100, 8), (101, 8), (150, 8), (160, 8), (200, 8)];
        let growth = |births: &[(u32, u64)], peers| history.growth(&site(births, peers), 200);
        assert_eq!(growth(&born, 52), Growth::AsBorn);
        assert_eq!(growth(&born, 51), Growth::Some);
        assert_eq!(growth(&born, 50), Growth::None);
        assert_eq!(growth(&born[..2], 60), Growth::None);
        // One block that has become larger.
        assert_eq!(growth(&[(99, 8), (150, 16)], 60), Growth::Some);
        // What the last call left was born since, too.
        let three = [(99, 8), (100, 8), (101, 8), (150, 8), (200, 8)];
        assert_eq!(growth(&three, 51), Growth::Some);
        assert_eq!(growth(&three[1..], 51), Growth::Some);
    }

    fn blocks(count: u64) -> Site {
        site(&vec![(0, 8); count as usize], 0)
    }

    /// The third of three looks, a thousand calls apart but for the last, after so many calls.
    fn speed(counts: [u64; 3], calls: u32) -> Speed {
        let mut history = History::default();
        history.add(1000, &[blocks(counts[0])]);
        history.add(2000, &[blocks(counts[1])]);
        history.speed(&blocks(counts[2]), calls)
    }

    #[test]
    fn a_site_slows_down_by_more_than_three_deviations_of_chance() {
        // 20 before and 5 now: 25 blocks left behind at random are 5 more or less, so three times 5 are allowed for.
        assert_eq!(speed([100, 120, 125], 3000), Speed::Same);
        assert_eq!(speed([100, 120, 124], 3000), Speed::Less);
        // 1,000 before and 1,773 in twice the calls: the error of the 1,000 counts twice, 3 × √5,773 = 227.9.
        assert_eq!(speed([100, 1100, 1100 + 1773], 4000), Speed::Same);
        assert_eq!(speed([100, 1100, 1100 + 1772], 4000), Speed::Less);
        assert_eq!(speed([100, 100, 100], 3000), Speed::Same);
    }

    #[test]
    fn a_site_is_ending_below_0_35_of_its_speed() {
        // 480 before and 96 now: 96 and three times √576 are 168.
        assert_eq!(speed([100, 580, 676], 3000), Speed::Less);
        assert_eq!(speed([100, 580, 675], 3000), Speed::Ending);
        assert_eq!(speed([100, 1100, 1100 + 499], 4000), Speed::Less);
        assert_eq!(speed([100, 1100, 1100 + 498], 4000), Speed::Ending);
    }

    #[test]
    fn a_site_that_is_new_has_grown_and_not_slowed_down() {
        let mut history = History::default();
        assert_eq!(history.growth(&blocks(2), 1000), Growth::Some);
        history.add(1000, &[]);
        history.add(2000, &[blocks(600)]);
        assert_eq!(history.speed(&blocks(601), 3000), Speed::Same);
        assert_eq!(
            (history.rise(&blocks(601), 3000), history.rise(&blocks(601), 1500)),
            (8, 4808)
        );
        let other = Site { id: 2, ..blocks(2) };
        assert_eq!(history.growth(&other, 3000), Growth::Some);
        assert_eq!(history.rise(&other, 3000), 16);
    }

    #[test]
    fn looks_less_than_a_quarter_of_the_calls_apart_are_not_compared() {
        let mut history = History::default();
        history.add(300, &[blocks(1)]);
        assert_eq!((history.calls_before(398), history.calls_before(399)), (0, 300));
        history.add(1000, &[blocks(1)]);
        assert_eq!((history.calls_before(1200), history.calls_before(1400)), (300, 1000));
    }

    #[test]
    fn two_looks_remain_to_compare_with_behind_two_that_came_just_now() {
        let mut history = History::default();
        [(1000, 100), (2000, 600), (3990, 620), (3995, 620)]
            .into_iter()
            .for_each(|(calls, count)| history.add(calls, &[blocks(count)]));
        assert_eq!(history.speed(&blocks(620), 4000), Speed::Ending);
    }
}

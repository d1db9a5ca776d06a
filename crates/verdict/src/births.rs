//! Survivors by birth call.

use std::collections::BTreeMap;

use crate::trend::Amount;

/// The live blocks of one site, by the call in which they were born.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Births(BTreeMap<u32, Amount>);

/// How often a site leaks, and how much.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    /// Blocks per call.
    pub blocks: f64,
    /// Bytes per call.
    pub bytes: f64,
    /// Every so many calls, when the distance is always the same.
    pub every: Option<u32>,
}

/// How the births of a window lie in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Nobody is left.
    None,
    /// As many from each part of the window as its length lets expect, or not surely fewer in each than in the one before.
    InStep,
    /// Ever fewer.
    Falling,
    /// Too few to say, or ever more.
    Unclear,
}

impl Births {
    /// Adds one live block.
    pub fn add(&mut self, birth: u32, bytes: u64) {
        let amount = self.0.entry(birth).or_default();
        amount.blocks += 1;
        amount.bytes += bytes;
    }

    /// All blocks.
    pub fn total(&self) -> Amount {
        self.between(0, u32::MAX)
    }

    /// The youngest birth.
    pub fn last(&self) -> Option<u32> {
        self.0.keys().next_back().copied()
    }

    /// Adds what `other` has.
    pub fn join(&mut self, other: &Births) {
        self.join_until(other, u32::MAX);
    }

    /// Adds what `other` has of births before the given one.
    pub(crate) fn join_until(&mut self, other: &Births, until: u32) {
        for (birth, amount) in other.0.range(..until) {
            let sum = self.0.entry(*birth).or_default();
            sum.blocks += amount.blocks;
            sum.bytes += amount.bytes;
        }
    }

    /// The births, ascending, with what is alive of each.
    pub fn iter(&self) -> impl Iterator<Item = (u32, Amount)> + '_ {
        self.0.iter().map(|(birth, amount)| (*birth, *amount))
    }

    /// The blocks born in `[from, to)`.
    pub(crate) fn between(&self, from: u32, to: u32) -> Amount {
        let mut sum = Amount::default();
        for (_, amount) in self.0.range(from..to.max(from)) {
            sum.blocks += amount.blocks;
            sum.bytes += amount.bytes;
        }
        sum
    }

    /// How many calls of `[from, to)` left something.
    pub(crate) fn calls(&self, from: u32, to: u32) -> usize {
        self.0.range(from..to.max(from)).count()
    }

    /// Whether both halves of `[from, to)` left something, in at least `least` calls together.
    pub(crate) fn spread(&self, from: u32, to: u32, least: usize) -> bool {
        let middle = from + to.saturating_sub(from) / 2;
        let (early, late) = (self.calls(from, middle), self.calls(middle, to));
        early > 0 && late > 0 && early + late >= least
    }

    /// Compares the two octaves and the half before the last quarter of `calls`: a steady leak
    /// leaves survivors there in the ratio 1 : 2 : 2.
    pub(crate) fn pace(&self, calls: u32) -> Pace {
        let at = |eighths: u32| (u64::from(calls) * u64::from(eighths) / 8) as u32;
        let [a, b, c] = [(1, 2), (2, 4), (4, 6)].map(|(from, to)| self.calls(at(from), at(to)) as f64);
        if a + b + c == 0.0 {
            return Pace::None;
        }
        // Counts of rare events scatter by about their square root; two of those are allowed for. Beyond
        // that a step may fall to 0.7 of the one before it, the same margin as in the octave rule.
        let keeps_up = |before: f64, after: f64, expected: f64| {
            after + 2.0 * after.sqrt() >= 0.7 * expected * (before - 2.0 * before.sqrt())
        };
        // A cache whose keys become ever rarer slows down a little with each step. In standard deviations of chance: one in
        // each of two steps, and four from the first to the last, are none (1 in 30,000).
        let slowing = |before: f64, after: f64, expected: f64| {
            (expected * before - after) / (expected * expected * before + after).sqrt()
        };
        let slows = slowing(a, b, 2.0) >= 1.0 && slowing(b, c, 1.0) >= 1.0 && slowing(a, c, 2.0) >= 4.0;
        if !slows && a >= 1.0 && b >= 1.0 && c >= 1.0 && b + c >= 4.0 && keeps_up(a, b, 2.0) && keeps_up(b, c, 1.0) {
            Pace::InStep
        } else if c < 0.35 * 2.0 * a || c < 0.35 * b {
            Pace::Falling
        } else {
            Pace::Unclear
        }
    }

    /// The rate over the births in `[from, to)`: what came after the first of them, by the calls that
    /// this took. Exact for every strictly periodic leak, wherever the window starts.
    pub fn rate(&self, from: u32, to: u32) -> Rate {
        let births: Vec<(u32, Amount)> = self.0.range(from..to.max(from)).map(|(b, a)| (*b, *a)).collect();
        match births.as_slice() {
            [] => Rate::default(),
            [(_, only)] => {
                let calls = f64::from(to - from);
                Rate {
                    blocks: only.blocks as f64 / calls,
                    bytes: only.bytes as f64 / calls,
                    every: None,
                }
            }
            [(first, _), later @ ..] => {
                let calls = f64::from(later[later.len() - 1].0 - first);
                let gap = later[0].0 - first;
                let blocks: u64 = later.iter().map(|(_, amount)| amount.blocks).sum();
                let bytes: u64 = later.iter().map(|(_, amount)| amount.bytes).sum();
                Rate {
                    blocks: blocks as f64 / calls,
                    bytes: bytes as f64 / calls,
                    every: births
                        .windows(2)
                        .all(|pair| pair[1].0 - pair[0].0 == gap)
                        .then_some(gap),
                }
            }
        }
    }
}

/// One block of 16 bytes of each call.
#[cfg(test)]
pub(crate) fn births(calls: impl IntoIterator<Item = u32>) -> Births {
    let mut births = Births::default();
    calls.into_iter().for_each(|call| births.add(call, 16));
    births
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periodic_rates_are_exact_wherever_the_window_lies() {
        for period in [1, 2, 3, 10, 50, 300] {
            let births = births((1..5000).filter(|call| call % period == 0));
            for (from, to) in [(100, 4000), (123, 4321), (7, 1999)] {
                let rate = births.rate(from, to);
                assert_eq!(rate.blocks * f64::from(period), 1.0, "{period} {from}");
                assert_eq!(rate.every, Some(period));
            }
        }
    }

    #[test]
    fn several_blocks_per_call_count_all() {
        let rate = births((1..100).flat_map(|call| [call, call, call])).rate(10, 90);
        assert_eq!((rate.blocks, rate.bytes, rate.every), (3.0, 48.0, Some(1)));
    }

    #[test]
    fn births_are_joined_and_told_in_order() {
        let mut all = births([7, 3, 3]);
        all.join(&births([3, 9]));
        let blocks: Vec<(u32, u64, u64)> = all.iter().map(|(birth, sum)| (birth, sum.blocks, sum.bytes)).collect();
        assert_eq!(blocks, [(3, 3, 48), (7, 1, 16), (9, 1, 16)]);
        assert_eq!((all.last(), births([]).last()), (Some(9), None));
        let mut early = Births::default();
        early.join_until(&all, 7);
        assert_eq!(early, births([3, 3, 3]));
        assert_eq!(
            (all.between(3, 7).blocks, all.between(7, 9).blocks, all.calls(3, 9)),
            (3, 1, 2)
        );
    }

    #[test]
    fn paces() {
        assert_eq!(births([]).pace(4096), Pace::None);
        assert_eq!(births(1..=16_384).pace(16_384), Pace::InStep);
        assert_eq!(births((1..=16_384).step_by(300)).pace(16_384), Pace::InStep);
        assert_eq!(births(1..=4096).pace(16_384), Pace::Falling);
        assert_eq!(births(1..=10_000).pace(16_384), Pace::Unclear);
        assert_eq!(births(16_000..=16_384).pace(16_384), Pace::None);
    }

    /// So many calls of each part of 16,384 left something: the first call of the part, the last, and those between.
    fn pace(parts: [u32; 3]) -> Pace {
        let edges = [(2048, 4096), (4096, 8192), (8192, 12_288)];
        let calls = parts.iter().zip(edges).flat_map(|(count, (from, to))| {
            let last = (*count > 1).then_some(to - 1);
            (from..from + count.saturating_sub(1).max((*count).min(1))).chain(last)
        });
        births(calls).pace(16_384)
    }

    #[test]
    fn a_step_may_fall_to_seven_tenths_and_two_square_roots_of_chance() {
        // 100 let expect 80 at least, in twice the calls 160; 93 and two roots are 112.3.
        assert_eq!(pace([100, 93, 93]), Pace::InStep);
        assert_eq!(pace([100, 92, 92]), Pace::Unclear);
        assert_eq!(pace([50, 100, 43]), Pace::InStep);
        assert_eq!(pace([50, 100, 42]), Pace::Unclear);
        // Just as many as that: 1.4 times 120 are 168, and 0.7 times 2,400 are 1,680.
        assert_eq!(pace([144, 144, 144]), Pace::InStep);
        assert_eq!(pace([1000, 2500, 1600]), Pace::InStep);
    }

    #[test]
    fn what_slows_down_twice_by_more_than_chance_is_not_in_step() {
        // 600 expected and 480 came, then 370 of 480: 2.9, 3.8 and from the first to the last 5.8 standard deviations.
        assert_eq!(pace([300, 480, 370]), Pace::Unclear);
        // Once, by however many; twice, by little; and by chance.
        assert_eq!(pace([1000, 1500, 1500]), Pace::InStep);
        assert_eq!(pace([300, 500, 450]), Pace::InStep);
        assert_eq!(pace([30, 48, 37]), Pace::InStep);
    }

    #[test]
    fn what_falls_to_a_third_is_falling() {
        assert_eq!(pace([100, 92, 69]), Pace::Falling);
        assert_eq!(pace([100, 92, 70]), Pace::Unclear);
        assert_eq!(pace([10, 100, 34]), Pace::Falling);
        assert_eq!(pace([10, 100, 35]), Pace::Unclear);
    }

    #[test]
    fn a_few_births_are_in_step_where_no_part_is_empty() {
        assert_eq!(pace([1, 2, 2]), Pace::InStep);
        assert_eq!(pace([1, 1, 3]), Pace::InStep);
        assert_eq!(pace([1, 1, 2]), Pace::Unclear);
        assert_eq!(pace([0, 2, 2]), Pace::Unclear);
        assert_eq!(pace([1, 0, 4]), Pace::Unclear);
        assert_eq!(pace([0, 0, 5]), Pace::Unclear);
        assert_eq!(pace([1, 4, 0]), Pace::Falling);
        assert_eq!(pace([1, 1, 0]), Pace::Falling);
        assert_eq!(pace([0, 1, 0]), Pace::Falling);
        assert_eq!(pace([1, 0, 0]), Pace::Falling);
    }

    #[test]
    fn what_only_one_call_left_is_spread_over_the_window() {
        let rate = births([150, 150, 150]).rate(100, 200);
        assert_eq!((rate.blocks, rate.bytes, rate.every), (0.03, 0.48, None));
        assert_eq!(births([99, 200]).rate(100, 200), Rate::default());
    }

    #[test]
    fn uneven_distances_are_no_period() {
        let rate = births([100, 110, 121]).rate(0, 200);
        assert_eq!((rate.blocks, rate.every), (2.0 / 21.0, None));
    }
}

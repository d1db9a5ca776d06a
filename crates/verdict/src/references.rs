//! Whether references to an object that lives on are leaked, or released too often.
//!
//! What counts is the surplus: the references that an object has been given, less those that the garbage
//! collector can see. Correct code does not change it, but for references that it keeps where the collector does not
//! look. N of those need N words of memory, so where there are no such words, nobody can ever release
//! them: that is a proof.

use crate::births::Rate;

/// The references to one object after so many calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Calls until then.
    pub calls: u32,
    /// All references that it has been given.
    pub count: i64,
    /// Those that objects tell the collector of.
    pub visible: i64,
    /// Words of memory that could be a reference to it.
    pub words: i64,
}

/// What became of the references that calls took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Holding {
    /// There are no more than before, or the collector sees them.
    Seen,
    /// The collector does not see them, and there is memory that may hold them.
    Hidden,
    /// Nobody holds them.
    Leaked(Rate),
    /// So many were released that nobody had taken.
    Released(Rate),
}

/// So many calls that a change at this rate shows clearly in a first window, and the other one twice as clearly:
/// their lengths have no common measure, so that nothing periodic fits both.
pub fn windows(per_call: f64) -> (u32, u32) {
    const LEAST: f64 = 60.0;
    const MOST: f64 = 4096.0;
    let first = (8.0 / per_call.abs()).clamp(LEAST, MOST);
    (first as u32, (first * 2.35) as u32)
}

/// Whether an object is worth a closer look: its count has moved the same way, in step with the calls, in the last
/// two intervals. `samples` are numbers of calls, rising, and how far the count was from the first then.
pub fn is_suspicious(samples: &[(u32, i64)]) -> bool {
    /// In shorter intervals a few references come and go by chance.
    const LONG: u32 = 256;
    let [.., first, second, third] = samples else {
        return false;
    };
    let (calls, before) = (third.0 - second.0, second.0 - first.0);
    let (by, by_before) = (third.1 - second.1, second.1 - first.1);
    let least = if calls >= LONG && before >= LONG { 1 } else { 4 };
    by_before.abs() >= least && in_step((before, by_before), (calls, by))
}

/// Judges from three tallies, with calls of the length of [`windows`] between them. The calls until then, and by how
/// much the count rose over them, make the rate exact.
pub fn judge(tallies: &[Tally; 3], all: (u32, i64)) -> Holding {
    let [first, second, third] = tallies;
    let window = |from: &Tally, to: &Tally| {
        let surplus = (to.count - from.count) - (to.visible - from.visible);
        (to.calls - from.calls, surplus, to.count - from.count)
    };
    let (before, after) = (window(first, second), window(second, third));
    let (before_by, after_by) = ((before.0, before.1), (after.0, after.1));
    // What comes a few at a time may by chance come once in the first window where it comes twice as a rule: then both
    // are compared with the calls before them.
    let earlier = (
        all.0.saturating_sub(before.0 + after.0),
        all.1 - (third.count - first.count),
    );
    let keeps_step = in_step(before_by, after_by) || in_step(earlier, before_by) && in_step(earlier, after_by);
    if before.1.abs() < 2 || !keeps_step {
        return Holding::Seen;
    }
    let words = third.words - second.words;
    // Over all calls the count may have moved for other reasons too, such as what was dropped after the first of them.
    let lately = rate(&[before_by, after_by]);
    let rate = match lately.every == Some(1) || !in_step(after_by, all) {
        true => lately,
        false => rate(&[before_by, after_by, all]),
    };
    match after.1.is_positive() {
        true if words * 2 >= after.1 => Holding::Hidden,
        true => Holding::Leaked(rate),
        // References that were hidden may go, too. And where only more is seen than before, the count stands still.
        false if words * 2 <= after.1 || before.2 > before.1 / 2 || after.2 > after.1 / 2 => Holding::Seen,
        false => Holding::Released(rate),
    }
}

/// Whether two changes go the same way and in proportion to the calls in which they came.
fn in_step(first: (u32, i64), second: (u32, i64)) -> bool {
    const CHANCE: f64 = 2.0;
    let expected = first.1 as f64 * f64::from(second.0) / f64::from(first.0.max(1));
    second.1 != 0
        && first.1.signum() == second.1.signum()
        && (second.1 as f64 - expected).abs() <= CHANCE + expected.abs() / 2.0
}

/// References per call: a whole number, or one in a whole number of calls, where all intervals fit that and nothing
/// else.
fn rate(intervals: &[(u32, i64)]) -> Rate {
    let fits = |per_call: f64| {
        let fits = |(calls, by): &(u32, i64)| (by.abs() as f64 - f64::from(*calls) * per_call).abs() <= 1.0;
        intervals.iter().all(fits)
    };
    let longest = intervals
        .iter()
        .max_by_key(|(calls, _)| *calls)
        .copied()
        .unwrap_or_default();
    let all = (f64::from(longest.0), longest.1.abs() as f64);
    let (whole, distance) = ((all.1 / all.0).round(), (all.0 / all.1).round());
    let is_only = fits(1.0 / distance) && !fits(1.0 / (distance - 1.0)) && !fits(1.0 / (distance + 1.0));
    let (blocks, every) = if whole >= 1.0 && fits(whole) {
        (whole, Some(1))
    } else if is_only {
        (1.0 / distance, Some(distance as u32))
    } else {
        (all.1 / all.0, None)
    };
    Rate {
        blocks,
        bytes: 0.0,
        every,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tallies(count: impl Fn(i64) -> i64, visible: impl Fn(i64) -> i64, words: impl Fn(i64) -> i64) -> [Tally; 3] {
        [100, 160, 301].map(|calls| Tally {
            calls: calls as u32,
            count: 1000 + count(calls),
            visible: 10 + visible(calls),
            words: 12 + words(calls),
        })
    }

    fn over(tallies: [Tally; 3]) -> Holding {
        let [first, _, last] = &tallies;
        judge(&tallies, (last.calls - first.calls, last.count - first.count))
    }

    fn rates(holding: Holding) -> Option<(f64, Option<u32>)> {
        match holding {
            Holding::Leaked(rate) | Holding::Released(rate) => Some((rate.blocks, rate.every)),
            Holding::Seen | Holding::Hidden => None,
        }
    }

    #[test]
    fn references_that_nobody_holds_are_leaked_at_their_exact_rate() {
        let leak = |count: fn(i64) -> i64| over(tallies(count, |_| 0, |calls| calls % 2));
        assert_eq!(rates(leak(|calls| calls)), Some((1.0, Some(1))));
        assert_eq!(rates(leak(|calls| calls * 3)), Some((3.0, Some(1))));
        assert_eq!(rates(leak(|calls| calls / 10)), Some((0.1, Some(10))));
        assert!(matches!(
            leak(|calls| -calls),
            Holding::Released(Rate { blocks: 1.0, .. })
        ));
    }

    #[test]
    fn what_moved_before_the_close_look_does_not_blur_its_rate() {
        let leak = tallies(|calls| calls, |_| 0, |_| 0);
        assert_eq!(rates(judge(&leak, (299, -500))), Some((1.0, Some(1))));
        assert_eq!(rates(judge(&leak, (299, 2000))), Some((1.0, Some(1))));
        assert_eq!(rates(judge(&leak, (299, 303))), Some((1.0, Some(1))), "a few more");
    }

    #[test]
    fn what_is_stored_anywhere_is_not_leaked() {
        let stored = |visible: fn(i64) -> i64, words: fn(i64) -> i64| over(tallies(|calls| calls, visible, words));
        assert_eq!(stored(|calls| calls, |calls| calls), Holding::Seen);
        assert_eq!(stored(|_| 0, |calls| calls), Holding::Hidden);
        // A cache that was filled before, noise, and a count that jumps once.
        for count in [
            (|_| 64) as fn(i64) -> i64,
            |calls| calls % 3,
            |calls| if calls > 200 { 500 } else { 0 },
        ] {
            assert_eq!(over(tallies(count, |_| 0, |_| 0)), Holding::Seen);
        }
    }

    #[test]
    fn more_that_is_seen_and_a_count_that_stands_still_is_no_release() {
        assert_eq!(over(tallies(|_| 0, |calls| calls, |_| 0)), Holding::Seen);
        // An array in C that is used up.
        assert_eq!(over(tallies(|calls| -calls, |_| 0, |calls| -calls)), Holding::Seen);
    }

    #[test]
    fn references_are_released_where_half_of_them_are_missing_from_the_count() {
        // The surplus falls by 60 and by 140, the count by so many, and the collector sees the more for the rest.
        let released = |before: i64, after: i64| {
            let tallies =
                [(100, 0, 0), (160, before, 60), (301, before + after, 200)].map(|(calls, count, surplus)| Tally {
                    calls,
                    count,
                    visible: count + surplus,
                    words: 0,
                });
            matches!(over(tallies), Holding::Released(_))
        };
        assert!(released(-60, -140) && released(-30, -70));
        assert!(!released(-29, -70) && !released(-30, -69));
    }

    #[test]
    fn only_what_moves_with_the_calls_is_looked_at_closely() {
        assert!(is_suspicious(&[(2, 0), (16, 14), (64, 62)]));
        assert!(is_suspicious(&[(2, 0), (512, 1), (1024, 2), (2048, 4)]));
        assert!(!is_suspicious(&[(2, 0), (16, 14)]));
        assert!(!is_suspicious(&[(2, 0), (16, 1), (64, 3)]));
        assert!(!is_suspicious(&[(2, 0), (512, 64), (1024, 64), (2048, 64)]));
        assert!(!is_suspicious(&[(2, 0), (512, 5), (1024, -3), (2048, 2)]));
    }

    #[test]
    fn a_close_look_is_as_long_as_the_rate_needs() {
        assert_eq!((windows(1.0), windows(5.0)), ((60, 141), (60, 141)));
        assert_eq!((windows(0.1), windows(-0.1)), ((80, 188), (80, 188)));
        assert_eq!(windows(0.001), (4096, 9625));
    }

    #[test]
    fn four_references_are_worth_a_look_or_one_in_long_intervals() {
        assert!(is_suspicious(&[(2, 0), (258, 1), (514, 2)]));
        assert!(!is_suspicious(&[(3, 0), (258, 1), (514, 2)]));
        assert!(!is_suspicious(&[(2, 0), (258, 1), (513, 2)]));
        assert!(is_suspicious(&[(2, 5), (16, 9), (64, 23)]));
        assert!(is_suspicious(&[(2, 5), (16, 1), (64, -13)]));
        assert!(!is_suspicious(&[(2, 5), (16, 8), (64, 18)]));
    }

    #[test]
    fn in_step_is_the_same_way_give_or_take_a_half_and_two() {
        // Ten in 100 calls let expect 20 in 200.
        let steps = [7, 8, 32, 33].map(|by| in_step((100, 10), (200, by)));
        assert_eq!(steps, [false, true, true, false]);
        let steps = [-7, -8, -32, -33].map(|by| in_step((100, -10), (200, by)));
        assert_eq!(steps, [false, true, true, false]);
        assert!(!in_step((100, 1), (100, -1)) && in_step((100, 1), (100, 1)));
        assert!(!in_step((100, 1), (100, 0)) && !in_step((100, 0), (100, 0)));
    }

    #[test]
    fn a_rate_is_exact_where_nothing_else_fits() {
        let rate = |intervals: &[(u32, i64)]| {
            let rate = super::rate(intervals);
            (rate.blocks, rate.every)
        };
        assert_eq!(rate(&[(300, 30)]), (0.1, Some(10)));
        assert_eq!(rate(&[(300, -30)]), (0.1, Some(10)));
        assert_eq!(rate(&[(95, 10)]), (10.0 / 95.0, None), "every ninth call fits, too");
        assert_eq!(
            rate(&[(104, 10)]),
            (10.0 / 104.0, None),
            "every eleventh call fits, too"
        );
        assert_eq!(
            rate(&[(60, 2), (1000, 100)]),
            (0.1, None),
            "the shorter one does not fit"
        );
        assert_eq!(
            (rate(&[(100, 101)]), rate(&[(100, 102)])),
            ((1.0, Some(1)), (1.02, None))
        );
        assert_eq!(rate(&[(100, 150)]), (1.5, None));
        assert_eq!(rate(&[(100, 55)]), (0.55, None));
        assert_eq!(rate(&[(20, 40), (100, 200)]), (2.0, Some(1)));
    }

    #[test]
    fn all_calls_make_a_rare_rate_exact_where_they_are_in_step() {
        let leak = |by: [i64; 2], all| {
            let tallies = [(100, 0), (160, by[0]), (301, by[0] + by[1])].map(|(calls, count)| Tally {
                calls,
                count,
                visible: 0,
                words: 0,
            });
            rates(judge(&tallies, all))
        };
        assert_eq!(leak([3, 7], (2000, 100)), Some((0.05, Some(20))));
        assert_eq!(leak([3, 7], (2000, -5)), Some((7.0 / 141.0, None)));
        assert_eq!(leak([6, 14], (2000, -5)), Some((0.1, Some(10))));
    }

    #[test]
    fn a_first_window_with_few_of_them_is_compared_with_the_calls_before() {
        // Four in 245 calls, of which the first window has seen one.
        let leak = |earlier: (u32, i64)| {
            let tallies = [(5635, 92), (6124, 96), (7275, 116)].map(|(calls, count)| Tally {
                calls,
                count,
                visible: 0,
                words: 0,
            });
            judge(&tallies, (1640 + earlier.0, 24 + earlier.1))
        };
        assert!(matches!(leak((2048, 36)), Holding::Leaked(_)));
        assert_eq!(leak((2048, 0)), Holding::Seen);
        assert_eq!(leak((2048, 53)), Holding::Seen, "the first window is too slow for that");
        assert_eq!(leak((2048, 20)), Holding::Seen, "the second is too fast");
    }

    proptest::proptest! {
        #[test]
        fn any_figures_are_judged(figures: [(u16, i32, i32, i32); 3]) {
            let mut calls = 0;
            let tallies = figures.map(|(more, count, visible, words)| {
                calls += u32::from(more);
                Tally { calls, count: count.into(), visible: visible.into(), words: words.into() }
            });
            let _ = over(tallies);
        }

        #[test]
        fn every_rhythm_is_found_at_its_exact_rate(every in 1u32..512, times in 1i64..5, start in 0u32..5000) {
            let per_call = times as f64 / f64::from(every);
            let (first, second) = windows(per_call);
            let mut calls = start + 2048;
            let tallies = [0, first, second].map(|more| {
                calls += more;
                let count = i64::from(calls / every) * times;
                Tally { calls, count, visible: 0, words: 0 }
            });
            let all = (calls - start, tallies[2].count - i64::from(start / every) * times);
            let Holding::Leaked(rate) = judge(&tallies, all) else { panic!("{tallies:?}") };
            proptest::prop_assert!((rate.blocks - per_call).abs() <= per_call / 2.0, "{rate:?}");
            if times == 1 && every < 40 {
                proptest::prop_assert_eq!(rate.every, Some(every), "{:?}", tallies);
            }
        }
    }
}

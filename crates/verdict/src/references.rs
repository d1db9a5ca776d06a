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
    if before.1.abs() < 2 || !in_step((before.0, before.1), (after.0, after.1)) {
        return Holding::Seen;
    }
    let words = third.words - second.words;
    let (before_by, after_by) = ((before.0, before.1), (after.0, after.1));
    // Over all calls the count may have moved for other reasons too, such as what was dropped after the first of them.
    let lately = rate(&[before_by, after_by]);
    let rate = match lately.every == Some(1) || !in_step(after_by, all) {
        true => lately,
        false => rate(&[before_by, after_by, all]),
    };
    match after.1 > 0 {
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
    let is_only =
        distance > 1.0 && fits(1.0 / distance) && !fits(1.0 / (distance - 1.0)) && !fits(1.0 / (distance + 1.0));
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
    fn only_what_moves_with_the_calls_is_looked_at_closely() {
        assert!(is_suspicious(&[(2, 0), (16, 14), (64, 62)]));
        assert!(is_suspicious(&[(2, 0), (512, 1), (1024, 2), (2048, 4)]));
        assert!(!is_suspicious(&[(2, 0), (16, 14)]));
        assert!(!is_suspicious(&[(2, 0), (16, 1), (64, 3)]));
        assert!(!is_suspicious(&[(2, 0), (512, 64), (1024, 64), (2048, 64)]));
        assert!(!is_suspicious(&[(2, 0), (512, 5), (1024, -3), (2048, 2)]));
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

//! When things of which a process can have only so many are a leak.
//!
//! Descriptors, threads and child processes run out long before 16,384 calls, so growth is judged earlier
//! than that of memory. The price: a pool that is still being filled after [`CONFIRM`] calls is
//! taken for a leak.

use crate::births::Births;

/// Steady growth is called a leak from so many calls on,
pub(crate) const CONFIRM: u32 = 512;
/// and from so many calls or things on when there can be no further call, or the period is short. Pools and rings of 64
/// are common; and of 256 descriptors, the lowest limit in use, half are gone after some 120.
pub(crate) const CONFIRM_WHEN_EXHAUSTED: u32 = 112;

/// How the survivors that were born in a window lie in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spread {
    /// As many from each third.
    Even,
    /// None from the last third, or ever fewer: it has stopped, or will.
    Ending,
    /// Too few to say.
    Unclear,
}

pub(crate) fn spread(births: &Births, from: u32, to: u32) -> Spread {
    let at = |thirds: u32| from + ((u64::from(to - from) * u64::from(thirds)) / 3) as u32;
    let [first, second, third] = [0, 1, 2].map(|part| births.calls(at(part), at(part + 1)) as f64);
    // Counts of rare events scatter by about their square root; two of those are allowed for.
    let keeps_up = |before: f64, after: f64| after + 2.0 * after.sqrt() >= 0.7 * (before - 2.0 * before.sqrt());
    if third == 0.0 || !keeps_up(first, third) || !keeps_up(second, third) {
        Spread::Ending
    } else if first >= 1.0 && second >= 1.0 && first + second + third >= 4.0 {
        Spread::Even
    } else {
        Spread::Unclear
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::births::births;

    #[test]
    fn steady_growth_is_even_and_a_pool_that_is_full_is_not() {
        assert_eq!(spread(&births(1..=512), 64, 448), Spread::Even);
        assert_eq!(spread(&births((3..=512).step_by(3)), 64, 448), Spread::Even);
        assert_eq!(spread(&births((1..=2048).step_by(300)), 256, 1792), Spread::Even);
        assert_eq!(spread(&births(1..=200), 64, 448), Spread::Ending);
        assert_eq!(spread(&births([100]), 64, 448), Spread::Ending);
        assert_eq!(spread(&births([100, 420]), 64, 448), Spread::Unclear);
    }

    /// So many calls of each third left something: the first call of the third, the last, and those between.
    fn thirds(parts: [u32; 3]) -> Spread {
        let (from, third) = (700, 3000);
        let calls = parts.iter().zip(0..).flat_map(|(count, part)| {
            let first = from + part * third;
            let last = (*count > 1).then_some(first + third - 1);
            (first..first + count.saturating_sub(1).max((*count).min(1))).chain(last)
        });
        spread(&births(calls), from, from + 3 * third)
    }

    #[test]
    fn the_last_third_may_fall_to_seven_tenths_and_two_square_roots_of_chance() {
        // 100 let expect 80 at least, so 56; 43 and two roots are 56.1.
        assert_eq!(thirds([100, 1, 43]), Spread::Even);
        assert_eq!(thirds([100, 1, 42]), Spread::Ending);
        assert_eq!(thirds([1, 100, 43]), Spread::Even);
        assert_eq!(thirds([1, 100, 42]), Spread::Ending);
        // Just as many as that: 0.7 times 2,400 are 1,680.
        assert_eq!(thirds([2500, 1, 1600]), Spread::Even);
    }

    #[test]
    fn a_few_are_even_where_no_third_is_empty() {
        assert_eq!(thirds([1, 1, 2]), Spread::Even);
        assert_eq!(thirds([2, 1, 1]), Spread::Even);
        assert_eq!(thirds([1, 2, 1]), Spread::Even);
        assert_eq!(thirds([1, 1, 1]), Spread::Unclear);
        assert_eq!(thirds([0, 2, 2]), Spread::Unclear);
        assert_eq!(thirds([2, 0, 2]), Spread::Unclear);
        assert_eq!(thirds([2, 2, 0]), Spread::Ending);
    }
}

//! The quick look at many subjects of which few leak.

use crate::births::Births;

/// The fewest calls that can be looked at.
pub(crate) const LEAST_CALLS: u32 = 2;

/// Whether one of `calls` left nothing of what is alive now: not the first, which warms up, nor the last, of which
/// something may still be in use. A leak at every call leaves something of each. Of two calls the first must have left
/// nothing.
pub(crate) fn is_quiet(births: &Births, calls: u32) -> bool {
    match calls {
        0..LEAST_CALLS => false,
        2 => births.calls(1, 2) == 0,
        _ => births.calls(2, calls) < calls as usize - 2,
    }
}

/// The totals before the first few calls, and after each of them: a buffer that grows is one block however large it gets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Climb(Vec<u64>);

impl Climb {
    /// Notes the next total.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.0.push(bytes);
    }

    /// Whether all calls but one have added something: a buffer that grows by an eighth more than it needs has room for
    /// the eighth or ninth of the same size. Of more than two the first two warm up.
    pub(crate) fn goes_on(&self) -> bool {
        let totals = match self.0.as_slice() {
            [_, _, later @ ..] if later.len() > 1 => later,
            few => few,
        };
        let rises = totals.windows(2).filter(|pair| pair[1] > pair[0]).count();
        totals.last() > totals.first() && rises + 2 >= totals.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::births::births;

    #[test]
    fn totals_that_rise_with_all_calls_but_one_go_on() {
        let goes_on = |totals: &[u64]| {
            let mut climb = Climb::default();
            totals.iter().for_each(|total| climb.add(*total));
            climb.goes_on()
        };
        let warm = |totals: &[u64]| goes_on(&[&[0, 5], totals].concat());
        assert!(warm(&[5, 6, 7, 8]) && warm(&[5, 6, 6, 7]) && warm(&[5, 5, 6, 7]));
        assert!(!warm(&[5, 6, 6, 6]) && !warm(&[5, 6, 6, 7, 7]) && !warm(&[5, 5]));
        assert!(!warm(&[5, 6, 7, 5]), "back where it was");
    }

    #[test]
    fn totals_that_rise_with_one_of_two_calls_may_go_on() {
        let goes_on = |totals: [u64; 3]| {
            let mut climb = Climb::default();
            totals.iter().for_each(|total| climb.add(*total));
            climb.goes_on()
        };
        assert!(goes_on([5, 6, 7]) && goes_on([5, 6, 6]) && goes_on([5, 5, 6]));
        assert!(!goes_on([5, 5, 5]) && !goes_on([5, 6, 5]) && !goes_on([5, 4, 5]));
    }

    #[test]
    fn only_what_is_left_by_every_call_is_suspicious() {
        assert!(!is_quiet(&births(1..=5), 5));
        assert!(!is_quiet(&births(2..=4), 5));
        assert!(is_quiet(&births([]), 5));
        assert!(is_quiet(&births([1, 5]), 5), "warm-up, and what is in use");
        assert!(is_quiet(&births([3, 4, 5]), 5), "the newest few");
        assert!(!is_quiet(&births([]), 1), "too few calls to say anything");
    }

    #[test]
    fn two_calls_are_quiet_if_the_first_left_nothing() {
        assert!(is_quiet(&births([2]), 2));
        assert!(!is_quiet(&births([1]), 2) && !is_quiet(&births([1, 2]), 2));
    }
}

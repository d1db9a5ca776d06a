//! The quick look at many subjects of which few leak.

use crate::births::Births;

/// The fewest calls of which two can be compared: not the first, which warms up, nor the last, which may
/// still be in use.
pub(crate) const LEAST_CALLS: u32 = 4;

/// Whether some call between the first and the last of `calls` left nothing of what is alive now. A leak at
/// every call leaves something of each.
pub(crate) fn is_quiet(births: &Births, calls: u32) -> bool {
    calls >= LEAST_CALLS && births.calls(2, calls) < calls as usize - 2
}

/// The totals after the first few calls: a buffer that grows is one block however large it gets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Climb {
    calls: u32,
    first: u64,
    last: u64,
    rises: u32,
}

impl Climb {
    /// Notes the total after the next call.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.rises += u32::from(self.calls > 0 && bytes > self.last);
        if self.calls == 0 {
            self.first = bytes;
        }
        (self.calls, self.last) = (self.calls + 1, bytes);
    }

    /// Whether all calls but one have added something: a buffer that grows by an eighth more than it needs has room for
    /// the eighth or ninth of the same size.
    pub(crate) fn goes_on(&self) -> bool {
        self.calls >= LEAST_CALLS - 1 && self.last > self.first && self.rises + 2 >= self.calls
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
        assert!(goes_on(&[5, 6, 7, 8]) && goes_on(&[5, 6, 6, 7]) && goes_on(&[5, 5, 6, 7]));
        assert!(!goes_on(&[5, 6, 6, 6]) && !goes_on(&[5, 6, 6, 7, 7]));
        assert!(!goes_on(&[5, 6, 7, 5]), "back where it was");
        assert!(goes_on(&[5, 6, 7]) && !goes_on(&[5, 6]), "too few");
    }

    #[test]
    fn only_what_is_left_by_every_call_is_suspicious() {
        assert!(!is_quiet(&births(1..=5), 5));
        assert!(!is_quiet(&births(2..=4), 5));
        assert!(is_quiet(&births([]), 5));
        assert!(is_quiet(&births([1, 5]), 5), "warm-up, and what is in use");
        assert!(is_quiet(&births([3, 4, 5]), 5), "the newest few");
        assert!(!is_quiet(&births([]), 3), "too few calls to say anything");
    }
}

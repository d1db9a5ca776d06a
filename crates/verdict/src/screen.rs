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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::births::births;

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

//! When to count and when to look.

use crate::rules::Rules;

/// Looks before the first that may say "clean": leaks at every call show by the second, at every tenth
/// or fiftieth by the later ones.
const EARLY: [u32; 5] = [16, 64, 160, 512, 1024];

/// The call after which to look next.
pub(crate) fn next(rules: &Rules, calls: u32) -> u32 {
    let early = EARLY.into_iter().filter(|look| *look < rules.clean_at());
    let early = rules.screens().chain(early);
    let late = (0..u32::BITS).map_while(|doublings| rules.clean_at().checked_mul(1 << doublings));
    let next = early.chain(late).find(|look| *look > calls).unwrap_or(u32::MAX);
    next.min(rules.max_calls)
}

/// Whether the totals are wanted after this call: four times in each of the first octaves, eight
/// times from call 512 and sixteen times from call 2,048 on, at uneven distances so that no periodic
/// function hides between them.
pub(crate) fn wants_checkpoint(call: u32) -> bool {
    let octave = call.max(1).ilog2();
    let slots = match octave {
        0..=8 => 2,
        9..=10 => 3,
        _ => 4,
    };
    if octave < slots {
        return true;
    }
    let (place, step) = (call - (1 << octave), 1u32 << (octave - slots));
    let (slot, within) = (place / step, place % step);
    // Golden-ratio steps through the slot.
    within == ((u64::from(slot.wrapping_mul(2_654_435_769) >> 8) * u64::from(step)) >> 24) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(rules: &Rules) -> Vec<u32> {
        let looks = std::iter::successors(Some(next(rules, 0)), |look| Some(next(rules, *look)));
        // Not for ever, should one not lie ahead.
        looks.take(32).take_while(|look| *look < rules.max_calls).collect()
    }

    #[test]
    fn looks_double_once_they_can_acquit() {
        let rules = Rules::default();
        let before = [16, 64, 160, 512, 1024, 2048, 4096, 8192, 16_384, 32_768];
        assert_eq!(looks(&rules), before);
        assert_eq!(next(&rules, 32_768), 65_536);
        assert_eq!(next(&rules, 70_000), 65_536);
        let limited = Rules {
            max_calls: 100,
            ..rules
        };
        assert_eq!((next(&limited, 64), next(&limited, 100)), (100, 100));
    }

    #[test]
    fn a_short_period_has_fewer_early_looks_and_a_screening_a_few_more() {
        let rules = |first| Rules {
            period: 16,
            max_calls: 1000,
            screen: Some(first),
            ..Rules::default()
        };
        assert_eq!(looks(&rules(2)), [2, 4, 8, 16, 64, 128, 256, 512]);
        assert_eq!(looks(&rules(4)), [4, 8, 16, 64, 128, 256, 512]);
        assert_eq!(looks(&rules(9)), [9, 18, 64, 128, 256, 512]);
    }
}

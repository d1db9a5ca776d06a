//! When to count and when to look.

use crate::rules::Rules;

/// Looks before the first that may say "clean": leaks at every call show by the second, at every tenth
/// or fiftieth by the later ones.
const EARLY: [u32; 5] = [16, 64, 160, 512, 1024];

/// The call after which to look next.
pub(crate) fn next(rules: &Rules, calls: u32) -> u32 {
    let early = EARLY.into_iter().filter(|look| *look < rules.clean_at());
    let early = rules.screens().into_iter().flatten().chain(early);
    let late = std::iter::successors(Some(rules.clean_at()), |look| look.checked_mul(2));
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

//! When lost blocks are a proof.

use crate::births::Births;

/// Whether blocks to which nothing points prove a leak: lost ones must have been born in several
/// calls, in the earlier and in the later half of the window, none of them among the newest.
///
/// One lost block proves little, since a pointer can be kept where no scan finds it: encoded, in the
/// kernel, in device memory. What is kept so and bounded does not go on for ever.
pub fn is_proof(lost: &Births, from: u32, to: u32) -> bool {
    const CALLS: usize = 4;
    lost.spread(from, to, CALLS)
}

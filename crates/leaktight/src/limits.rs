//! Growth that will come to an end, because whoever holds it says so.

use leaktight_liveset::Block;
use leaktight_verdict::{Births, Certainty, SiteFinding};

use crate::subject::{Capacity, Subject};

/// The cache that holds the youngest objects of every one of these places, if it is not full, and if it got an entry
/// for at least every second call that left something: a list that is one entry of a cache grows without end.
pub(crate) fn limit<S: Subject>(members: &[(SiteFinding, Vec<Block>)], subject: &mut S) -> Option<Capacity> {
    const TRIES: usize = 3;
    let mut cache = None;
    for (found, blocks) in members {
        if found.certainty == Certainty::Lost {
            return None;
        }
        for block in blocks.iter().rev().take(TRIES) {
            // What is no object and does not grow itself is a part of objects that were made in the same line.
            if found.rate.blocks > 0.0 && subject.type_name(block).is_none() {
                continue;
            }
            let holder = subject.capacity(block)?;
            let mut births = Births::default();
            blocks.iter().for_each(|block| births.add(block.birth, 0));
            if holder.entries >= holder.most || holder.entries * 2 < births.iter().count() as u64 {
                return None;
            }
            cache = Some(holder);
        }
    }
    cache
}

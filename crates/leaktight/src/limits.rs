//! Growth that will come to an end, because whoever holds it says so.

use leaktight_verdict::{Births, Certainty};

use crate::groups::Group;
use crate::subject::{Capacity, Subject};

/// The cache that holds the youngest objects of the group, if it is not full, and if it got an entry for at least every
/// second call that left something: a list that is one entry of a cache grows without end.
pub(crate) fn limit<S: Subject>(group: &Group, subject: &mut S) -> Option<Capacity> {
    /// An entry may be several objects.
    const TRIES: usize = 9;
    if group.members.iter().any(|found| found.certainty == Certainty::Lost) {
        return None;
    }
    let mut births = Births::default();
    group.blocks.iter().for_each(|block| births.add(block.birth, 0));
    let left = births.iter().count() as u64;
    let (mut cache, mut held, mut tried) = (None, 0, 0);
    for block in group.blocks.iter().rev().take(TRIES) {
        // What is no object is a part of objects that were made in the same line.
        if subject.type_name(block).is_none() {
            continue;
        }
        tried += 1;
        let Some(holder) = subject.capacity(block) else {
            continue;
        };
        if holder.entries >= holder.most || holder.entries * 2 < left {
            return None;
        }
        held += 1;
        cache = Some(holder);
    }
    // Of an entry not every part can be seen from the cache.
    cache.filter(|_| held * 2 >= tried)
}

//! Growth that will come to an end, because whoever holds it says so.

use std::collections::HashMap;

use leaktight_verdict::{Births, Certainty};

use crate::groups::Group;
use crate::subject::{Capacity, Subject};

/// The cache that holds the youngest objects of the group, if it is not full, and if it got an entry for at least every
/// second call that left something: a list that is one entry of a cache grows without end.
pub(crate) fn limit<S: Subject>(group: &Group, subject: &mut S) -> Option<Capacity> {
    /// Several entries, each of several objects.
    const YOUNGEST: usize = 24;
    if group.members.iter().any(|found| found.certainty == Certainty::Lost) {
        return None;
    }
    let mut births = Births::default();
    group.blocks.iter().for_each(|block| births.add(block.birth, 0));
    let left = births.iter().count() as u64;
    let mut cache = None;
    // Of each type that is left behind some object must be seen in the cache, though not every part of an entry can be.
    let mut seen: HashMap<String, bool> = HashMap::new();
    for block in group.blocks.iter().rev().take(YOUNGEST) {
        let Some(name) = subject.type_name(block) else {
            // What is no object is a part of objects that were made in the same line.
            continue;
        };
        let is_seen = seen.entry(name).or_default();
        if *is_seen {
            continue;
        }
        let Some(holder) = subject.capacity(block) else {
            continue;
        };
        if holder.entries >= holder.most || holder.entries * 2 < left {
            return None;
        }
        *is_seen = true;
        cache = Some(holder);
    }
    cache.filter(|_| seen.values().all(|is_seen| *is_seen))
}

//! What holds blocks that grow, in words: the nearest that has a name. The whole way is `path`'s.

use leaktight_liveset::Block;
use leaktight_report::counted;

use crate::groups::Group;
use crate::reach::Reach;
use crate::statics;
use crate::subject::Subject;

/// So many blocks of a group tell what all are.
pub(crate) const ENOUGH: usize = 200;
/// So many are asked for.
const TRIES: usize = 8;

/// What holds the blocks: of objects whoever the runtime says refers to them, of other blocks the static
/// data of a module or else the object that points there. The youngest are asked first; a stale
/// word may lead nowhere, so several are. What is owned by another of them is not held by anybody else.
pub(crate) fn holder<S: Subject>(group: &Group, reach: Option<&Reach>, subject: &mut S) -> Option<String> {
    let (objects, others) = heads(group, subject);
    let root = |block: &Block| reach?.root_of(block.address);
    let of_object = |block: &Block, subject: &mut S| subject.holder(block, root(block).unwrap_or(0));
    let of_other = |block: &Block, subject: &mut S| {
        let root = root(block).unwrap_or(0);
        let found = statics::holder(root, subject).or_else(|| subject.holder(block, root));
        // A stale word may have been found first.
        found.or_else(|| statics::holder(statics::find(block.address, subject)?, subject))
    };
    let found = objects
        .into_iter()
        .take(TRIES)
        .find_map(|block| of_object(block, subject));
    let found = found.or_else(|| group.arrays.iter().find_map(|block| of_other(block, subject)));
    let found = found.or_else(|| {
        others
            .into_iter()
            .take(TRIES)
            .find_map(|block| of_other(block, subject))
    });
    match (found, group.arrays.is_empty()) {
        (found, true) => found,
        (Some(found), false) => Some(format!(
            "{found}, which grows by {} per call",
            counted(group.growth, "byte")
        )),
        (None, false) => Some(format!(
            "a block that grows by {} per call",
            counted(group.growth, "byte")
        )),
    }
}

/// The blocks to which a path may lead, what tells most first: objects, others, what gets longer and holds them.
pub(crate) fn asked<'a, S: Subject>(group: &'a Group, subject: &mut S) -> Vec<&'a Block> {
    let (objects, others) = heads(group, subject);
    objects.into_iter().chain(others).chain(&group.arrays).collect()
}

/// The youngest that no other of the group owns: objects, and others.
fn heads<'a, S: Subject>(group: &'a Group, subject: &mut S) -> (Vec<&'a Block>, Vec<&'a Block>) {
    let youngest = group.blocks.iter().rev().filter(|block| group.is_head(block));
    youngest
        .take(ENOUGH)
        .partition(|block| subject.type_name(block).is_some())
}

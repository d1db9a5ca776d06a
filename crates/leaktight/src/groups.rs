//! Which sites are one finding: what was left behind by one mistake.
//!
//! These belong together: sites with the same visible frames; what belongs to an object, and the object; the array that
//! gets longer, and what is put into it; and all that the initialisation of a module makes.

use std::collections::{HashMap, HashSet};

use leaktight_liveset::{Block, Family};
use leaktight_report::Frame;
use leaktight_stacks as stacks;
use leaktight_verdict::{Births, Certainty, Rate, SiteFinding};

use crate::origin::{Origin, Origins};
use crate::owners::{Owners, Survivor};
use crate::sites::{Sites, Survey};
use crate::subject::Subject;

/// One mistake.
pub(crate) struct Group {
    pub origin: Origin,
    /// The site of the head is the first.
    pub members: Vec<SiteFinding>,
    /// By birth.
    pub blocks: Vec<Block>,
    /// The family of most blocks of the head.
    family: Option<Family>,
    /// Addresses of blocks that no other of the leak owns, and of those that lie in a circle.
    heads: HashSet<usize>,
    circular: HashSet<usize>,
    /// Blocks that point to those of the group and only get longer.
    pub arrays: Vec<Block>,
    /// By so many bytes per call.
    pub growth: f64,
    /// How many places there are in the initialisation of a module.
    places: usize,
}

/// The findings of memory, those first that own others.
pub(crate) fn groups<S: Subject>(
    findings: &[SiteFinding],
    survey: &Survey,
    sites: &Sites,
    subject: &mut S,
) -> Vec<Group> {
    let findings: Vec<SiteFinding> = findings
        .iter()
        .filter(|found| sites.place(found.site).kind.is_none())
        .copied()
        .collect();
    if findings.is_empty() {
        return Vec::new();
    }
    let mut blocks = survey.blocks_of(findings.iter().map(|found| found.site));
    let survivors = findings.iter().flat_map(|found| {
        let grows = grows_in_bytes(found);
        let survivor = move |block: &Block| Survivor {
            block: *block,
            site: found.site,
            grows,
        };
        blocks[&found.site].iter().map(survivor)
    });
    let owners = Owners::find(survivors.collect(), subject);
    let typed: HashSet<usize> = findings
        .iter()
        .map(|found| found.site)
        .filter(|site| {
            blocks[site]
                .last()
                .is_some_and(|block| subject.type_name(block).is_some())
        })
        .collect();
    // In a circle of several sites an object tells more than a block.
    let head_of_site = owners.of_sites(&|site| usize::from(!typed.contains(&site)));
    let head_of = |site: usize| follow(&head_of_site, site);

    let mut groups: Vec<Group> = Vec::new();
    let mut group_of_site: HashMap<usize, usize> = HashMap::new();
    let mut origins = Origins::new();
    let (leading, led): (Vec<SiteFinding>, Vec<SiteFinding>) =
        findings.iter().partition(|found| head_of(found.site) == found.site);
    for found in leading {
        let mut group = Group::new(found, blocks.remove(&found.site).unwrap_or_default(), &owners);
        group.origin = origin(&group, sites.place(found.site).foreign, &mut origins, subject);
        let at = match groups.iter_mut().position(|other| other.is_like(&group)) {
            Some(at) => {
                groups[at].join(group);
                at
            }
            None => {
                groups.push(group);
                groups.len() - 1
            }
        };
        group_of_site.insert(found.site, at);
    }
    for found in led {
        let group = Group::new(found, blocks.remove(&found.site).unwrap_or_default(), &owners);
        if let Some(at) = group_of_site.get(&head_of(found.site)).copied() {
            group_of_site.insert(found.site, at);
            groups[at].join(group);
        }
    }
    let groups = with_arrays(groups, &group_of_site, &owners);
    let mut groups = one_for_each_module(groups);
    groups
        .iter_mut()
        .for_each(|group| group.blocks.sort_by_key(|block| block.birth));
    groups
}

/// The owner of a site's owner, and so on. Majorities may point in a circle; there the lowest number is the head.
fn follow(owner_of_site: &HashMap<usize, usize>, site: usize) -> usize {
    let mut chain = vec![site];
    loop {
        let last = chain[chain.len() - 1];
        let next = owner_of_site.get(&last).copied().unwrap_or(last);
        if let Some(start) = chain.iter().position(|known| *known == next) {
            return chain[start..].iter().copied().min().unwrap_or(site);
        }
        chain.push(next);
    }
}

fn origin<S: Subject>(group: &Group, foreign: bool, origins: &mut Origins, subject: &mut S) -> Origin {
    let stack = group.blocks.first().and_then(|block| stacks::stack(block.stack));
    let mut origin = origins.of(&stack.unwrap_or_default(), subject);
    if foreign && origin.frames.is_empty() {
        origin.via.get_or_insert("another thread".to_owned());
    }
    origin
}

/// A list that grows, and what is in it, is one leak: the growth of its array is told with what it holds.
fn with_arrays(mut groups: Vec<Group>, group_of_site: &HashMap<usize, usize>, owners: &Owners) -> Vec<Group> {
    let mut held: HashMap<(usize, usize), usize> = HashMap::new();
    for ((array, site), count) in &owners.arrays {
        if let (Some(array), Some(of)) = (group_of_site.get(array), group_of_site.get(site)) {
            *held.entry((*array, *of)).or_default() += count;
        }
    }
    let mut merged: HashSet<usize> = HashSet::new();
    for array in 0..groups.len() {
        let most = held
            .iter()
            // Not of itself, as in a chain of blocks, nor of what is told with another already.
            .filter(|((of, what), _)| *of == array && *what != array && !merged.contains(what))
            .max_by_key(|(_, count)| **count);
        let Some(((_, of), _)) = most.filter(|_| groups[array].grows()) else {
            continue;
        };
        let blocks = std::mem::take(&mut groups[array].blocks);
        let growth: f64 = groups[array].members.iter().map(|found| found.rate.bytes).sum();
        groups[*of].arrays.extend(blocks);
        groups[*of].growth += growth;
        merged.insert(array);
    }
    let left = groups.into_iter().enumerate().filter(|(at, _)| !merged.contains(at));
    left.map(|(_, group)| group).collect()
}

/// A module that is initialised again in each call leaves everything behind that it has made: one mistake.
fn one_for_each_module(groups: Vec<Group>) -> Vec<Group> {
    let mut joined: Vec<Group> = Vec::new();
    for mut group in groups {
        let same = joined.iter_mut().find(|other| other.is_of_same_module(&group));
        let Some(other) = same else {
            joined.push(group);
            continue;
        };
        if other.places == 1 {
            other.origin.narrow_to_module();
        }
        other.places += group.places;
        other.origin.module = other.origin.module.take().or(group.origin.module.take());
        other.growth += group.growth;
        other.arrays.append(&mut group.arrays);
        other.join(group);
    }
    joined
}

impl Group {
    fn new(found: SiteFinding, blocks: Vec<Block>, owners: &Owners) -> Group {
        let addresses = |is: &dyn Fn(usize) -> bool| {
            let addresses = blocks.iter().map(|block| block.address);
            addresses.filter(|address| is(*address)).collect()
        };
        Group {
            origin: Origin::default(),
            members: vec![found],
            family: main_family(&blocks),
            heads: addresses(&|address| owners.is_root(address)),
            circular: addresses(&|address| owners.is_circular(address)),
            blocks,
            arrays: Vec::new(),
            growth: 0.0,
            places: 1,
        }
    }

    fn join(&mut self, other: Group) {
        self.members.extend(other.members);
        self.blocks.extend(other.blocks);
        self.heads.extend(other.heads);
        self.circular.extend(other.circular);
    }

    /// Whether both have the same visible frames: an object and the table that it allocates in the same line, say.
    fn is_like(&self, other: &Group) -> bool {
        self.origin.frames == other.origin.frames && self.grows() == other.grows()
    }

    /// The frames outside of the initialisation of a module.
    fn outside_of_module(&self) -> Option<&[Frame]> {
        self.origin.frames.get(self.origin.module_at?..)
    }

    /// Whether both are made while the same module is initialised. Its name may be known of one only.
    fn is_of_same_module(&self, other: &Group) -> bool {
        let (one, two) = (&self.origin.module, &other.origin.module);
        let outside = self.outside_of_module();
        outside.is_some()
            && outside == other.outside_of_module()
            && self.grows() == other.grows()
            && (one.is_none() || two.is_none() || one == two)
    }

    /// It is one block that gets longer.
    pub(crate) fn grows(&self) -> bool {
        grows_in_bytes(&self.members[0])
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.members.iter().any(|found| found.certainty == Certainty::Lost)
    }

    /// Whether the block is known to have no owner among the others.
    pub(crate) fn is_head(&self, block: &Block) -> bool {
        self.heads.contains(&block.address)
    }

    /// Whether the block reaches itself through others.
    pub(crate) fn is_circular(&self, block: &Block) -> bool {
        self.circular.contains(&block.address)
    }

    /// Whether it is what several places make.
    pub(crate) fn is_mixed(&self) -> bool {
        self.places > 1
    }

    pub(crate) fn main_family(&self) -> Option<Family> {
        self.family
    }

    /// The rate of so many of the blocks, all taken together: a site that was seen under two stacks, or
    /// by two threads, leaks once.
    pub(crate) fn rate<'a>(&self, blocks: impl Iterator<Item = &'a Block>) -> Rate {
        if self.grows() {
            return self.members[0].rate;
        }
        let windows = || self.members.iter().map(|found| found.births);
        let from = windows().map(|(from, _)| from).max().unwrap_or(0);
        let to = windows().map(|(_, to)| to).min().unwrap_or(0);
        let mut births = Births::default();
        blocks.for_each(|block| births.add(block.birth, block.size as u64));
        births.rate(from, to)
    }

    /// What else there is to say, to follow the finding's sentence.
    pub(crate) fn cause(&self) -> String {
        let module = self
            .origin
            .module
            .as_ref()
            .map_or("a module".to_owned(), |module| format!("`{module}`"));
        match self.places {
            1 => String::new(),
            places => {
                format!(
                    "; this is what {places} places in the initialisation of {module} make, which runs again and again"
                )
            }
        }
    }
}

fn grows_in_bytes(found: &SiteFinding) -> bool {
    found.rate.blocks == 0.0
}

/// The family of most blocks.
fn main_family(blocks: &[Block]) -> Option<Family> {
    let mut counts: HashMap<Family, usize> = HashMap::new();
    for block in blocks {
        *counts.entry(block.family).or_default() += 1;
    }
    counts
        .into_iter()
        .max_by_key(|(family, count)| (*count, *family))
        .map(|(family, _)| family)
}

//! What calls have left behind beside the findings, with what holds it.

use std::collections::HashSet;

use leaktight_liveset::{Block, Family};
use leaktight_report::Kept;
use leaktight_verdict::{Certainty, Rate, SiteFinding};

use crate::groups::{Group, groups};
use crate::holder::{ENOUGH, asked};
use crate::path::Paths;
use crate::sites::{Sites, Survey};
use crate::subject::Subject;

/// The survivors at other places than these, the largest first. What is owned by something else that was left behind is
/// told with that.
pub(crate) fn kept<S: Subject>(
    found: &[SiteFinding],
    survey: &Survey,
    sites: &Sites,
    paths: &Paths<'_>,
    subject: &mut S,
) -> Vec<Kept> {
    let told: HashSet<usize> = found.iter().map(|found| found.site).collect();
    let others = survey.sites.iter().filter(|site| !told.contains(&site.id));
    let others: Vec<SiteFinding> = others
        .filter(|site| site.births.iter().next().is_some())
        .map(|site| SiteFinding {
            site: site.id,
            certainty: Certainty::Growing,
            // Blocks, and none that gets longer.
            rate: Rate {
                blocks: 1.0,
                bytes: 0.0,
                every: None,
            },
            births: (0, u32::MAX),
        })
        .collect();
    let mut kept: Vec<Kept> = groups(&others, survey, sites, subject)
        .iter()
        .map(|group| of_group(group, paths, subject))
        .collect();
    kept.sort_by_key(|kept| std::cmp::Reverse(kept.bytes));
    kept
}

fn of_group<S: Subject>(group: &Group, paths: &Paths<'_>, subject: &mut S) -> Kept {
    // An object tells more than the table of the dict that it is in.
    let youngest = group.blocks.iter().rev().take(ENOUGH);
    let objects: Vec<&Block> = youngest.filter(|block| subject.type_name(block).is_some()).collect();
    let names: HashSet<String> = objects.iter().filter_map(|block| subject.type_name(block)).collect();
    let asked = match objects.is_empty() {
        true => asked(group, subject),
        false => objects,
    };
    Kept {
        blocks: group.blocks.len() as u64,
        bytes: group.blocks.iter().map(|block| block.size as u64).sum(),
        allocator: group.main_family().map_or("", Family::name).to_owned(),
        type_name: Some(names)
            .filter(|names| names.len() == 1)
            .and_then(|names| names.into_iter().next()),
        path: paths.to_any(asked.into_iter(), subject),
        stack: group.origin.frames.clone(),
    }
}

//! From what the judge found to the report.

use std::collections::HashSet;
use std::time::Duration;

use leaktight_liveset::{Block, Family};
use leaktight_report::{
    Certainty, Control, Environment, Finding, Kind, Look, Report, Severity, Verdict, counted, figure, integer, sentence,
};
use leaktight_stacks as stacks;
use leaktight_verdict as verdict;
use leaktight_verdict::{Outcome, RESIDENT, Reason, SiteFinding};

use crate::budget::Spent;
use crate::groups::{Group, groups};
use crate::reach::Reach;
use crate::references::References;
use crate::resources::Resources;
use crate::sites::{Sites, Survey};
use crate::statics;
use crate::subject::Subject;
use crate::touched::Touched;

/// Everything that one run saw.
pub(crate) struct Seen {
    pub outcome: Outcome,
    pub spent: Option<Spent>,
    pub survey: Survey,
    pub reach: Option<Reach>,
    pub control: Control,
    pub calls: u64,
    pub elapsed: Duration,
    pub looks: Vec<Look>,
    pub remarks: Vec<String>,
    pub blind_spots: Vec<String>,
    pub references: References,
}

/// So many blocks of a site tell what all are.
const ENOUGH: usize = 200;

pub(crate) fn report<S: Subject>(
    mut seen: Seen,
    sites: &mut Sites,
    resources: &Resources,
    touched: &Touched,
    subject: &mut S,
) -> Report {
    if !seen.outcome.findings.is_empty() {
        subject.before_naming();
    }
    let resident = seen.outcome.findings.iter().find(|found| found.site == RESIDENT);
    let resident = resident.map(|found| touched_pages(found, touched));
    seen.outcome.findings.retain(|found| found.site != RESIDENT);
    let groups = groups(&seen.outcome.findings, &seen.survey, sites, subject);
    let mut findings: Vec<Finding> = groups
        .iter()
        .map(|group| finding(group, seen.reach.as_ref(), subject))
        .collect();
    findings.sort_by(|a, b| b.bytes_per_call.total_cmp(&a.bytes_per_call));
    findings.extend(resident);
    // What runs out comes first.
    findings.splice(0..0, resources.findings(&seen.outcome.findings, sites, subject));
    let mut references = std::mem::take(&mut seen.references);
    // What is freed while in use comes before all that is not freed.
    references
        .findings
        .sort_by_key(|finding| (finding.kind != Kind::OverRelease, finding.severity as u8));
    let convicts = !references.findings.is_empty();
    findings.splice(0..0, references.findings);
    findings.sort_by_key(|finding| finding.severity as u8);
    let mut remarks = seen.remarks;
    remarks.extend(references.remarks);
    remarks.extend(resources.remarks(subject));
    let mut blind_spots = seen.blind_spots;
    if stacks::full() {
        blind_spots.push("some call stacks, for which the tracker had no memory".to_owned());
    }
    blind_spots.extend(private_allocators());
    // Some are not seen, or all of them.
    let not_done: Vec<String> = references
        .blind_spot
        .iter()
        .filter(|_| references.objects == 0)
        .cloned()
        .collect();
    blind_spots.extend(references.blind_spot);
    blind_spots.extend(subject.blind_spots());
    if convicts {
        seen.outcome.verdict = verdict::Verdict::Leak;
        seen.outcome.reason = Reason::Findings;
    }
    let (verdict, reason) = if !seen.control.passed() && seen.outcome.verdict != verdict::Verdict::Leak {
        let reason = "planted leaks were missed, so nothing can be said about this call".to_owned();
        (Verdict::Indeterminate, reason)
    } else {
        (
            word(seen.outcome.verdict),
            reason(&seen.outcome, &findings, seen.calls, seen.spent),
        )
    };
    Report {
        subject: subject.name(),
        verdict,
        reason,
        findings,
        calls: seen.calls,
        period: if seen.control.passed() {
            u64::from(seen.outcome.period)
        } else {
            0
        },
        objects: references.objects,
        seconds: seen.elapsed.as_secs_f64(),
        looks: seen.looks,
        control: seen.control,
        blind_spots,
        not_done,
        remarks,
        environment: environment(subject),
    }
}

/// A finding of pages that become resident although nobody allocates them.
fn touched_pages(found: &SiteFinding, touched: &Touched) -> Finding {
    let bytes = found.rate.bytes;
    Finding {
        kind: Kind::Memory,
        certainty: Certainty::Growing,
        severity: Severity::Error,
        blocks_per_call: 0.0,
        bytes_per_call: bytes,
        block_size: None,
        every: None,
        allocator: "mmap".to_owned(),
        via: None,
        type_name: None,
        objects_per_call: None,
        examples: Vec::new(),
        holder: touched.name(),
        in_cycle: false,
        earlier_owner: false,
        references: None,
        stack: Vec::new(),
        message: format!(
            "a call makes {} more bytes resident in memory that was mapped before; no allocation explains it, so \
             it is written by hand or by an allocator of a library's own",
            figure(bytes)
        ),
    }
}

fn finding<S: Subject>(group: &Group, reach: Option<&Reach>, subject: &mut S) -> Finding {
    let blocks = &group.blocks;
    let lost = group.is_lost();
    let rate = group.rate(blocks.iter());
    let size = blocks.first().map(|block| block.size as u64);
    let kind = kind_of(group, subject);
    let mut finding = Finding {
        kind: Kind::Memory,
        certainty: if lost { Certainty::Lost } else { Certainty::Growing },
        severity: Severity::Error,
        blocks_per_call: rate.blocks,
        bytes_per_call: rate.bytes,
        block_size: size.filter(|size| blocks.iter().all(|block| block.size as u64 == *size)),
        every: rate.every.map(u64::from),
        allocator: group.main_family().map_or("", Family::name).to_owned(),
        via: group.origin.via.clone(),
        objects_per_call: kind.type_name.as_deref().map(|name| {
            let objects = blocks
                .iter()
                .filter(|block| subject.type_name(block).as_deref() == Some(name));
            group.rate(objects).blocks
        }),
        type_name: kind.type_name,
        examples: Vec::new(),
        holder: if lost { None } else { holder(group, reach, subject) },
        in_cycle: kind.in_cycle,
        earlier_owner: kind.earlier_owner,
        references: None,
        stack: group.origin.frames.clone(),
        message: String::new(),
    };
    finding.message = sentence(&finding) + &group.cause();
    finding
}

/// What kind of objects were leaked.
#[derive(Default)]
struct ObjectKind {
    type_name: Option<String>,
    in_cycle: bool,
    earlier_owner: bool,
}

/// The type of the objects that were leaked themselves, rather than dragged along by others of the same
/// finding. Where that does not tell, the type that all typed blocks share.
fn kind_of<S: Subject>(group: &Group, subject: &mut S) -> ObjectKind {
    let mut kind = ObjectKind::default();
    if group.is_mixed() {
        return kind;
    }
    let (mut heads, mut all) = (HashSet::new(), HashSet::new());
    // The youngest are those of which is known who owns them.
    for block in group.blocks.iter().rev().take(ENOUGH) {
        if let Some(name) = subject.type_name(block) {
            if group.is_head(block) {
                kind.earlier_owner |= subject.may_be_handed_on(&name);
                kind.in_cycle |= group.is_circular(block) && subject.list_links(block).is_none();
                heads.insert(name.clone());
            }
            all.insert(name);
        }
    }
    kind.type_name = [heads, all]
        .into_iter()
        .find(|names| names.len() == 1)
        .and_then(|names| names.into_iter().next());
    kind
}

/// What holds the blocks: of objects whoever the runtime says refers to them, of other blocks the static
/// data of a module or else the object that points there. The youngest are asked first; a stale
/// word may lead nowhere, so several are. What is owned by another of them is not held by anybody else.
fn holder<S: Subject>(group: &Group, reach: Option<&Reach>, subject: &mut S) -> Option<String> {
    const TRIES: usize = 8;
    let heads: Vec<&Block> = group
        .blocks
        .iter()
        .rev()
        .filter(|block| group.is_head(block))
        .take(ENOUGH)
        .collect();
    let (objects, others): (Vec<&Block>, Vec<&Block>) =
        heads.into_iter().partition(|block| subject.type_name(block).is_some());
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

fn word(verdict: verdict::Verdict) -> Verdict {
    match verdict {
        verdict::Verdict::Clean => Verdict::Clean,
        verdict::Verdict::Leak => Verdict::Leak,
        verdict::Verdict::Bounded => Verdict::Bounded,
        verdict::Verdict::Indeterminate => Verdict::Indeterminate,
    }
}

fn reason(outcome: &Outcome, findings: &[Finding], calls: u64, spent: Option<Spent>) -> String {
    let calls = counted(calls as f64, "call");
    let ended = match spent {
        Some(Spent::Time) => "the time budget was used up",
        Some(Spent::Memory) => "the memory budget was used up",
        Some(Spent::Descriptors) => "half of the descriptors that this process may have were open",
        None => "no more calls were allowed",
    };
    match (&outcome.reason, findings) {
        (Reason::NothingGrows, _) => "no call left anything behind".to_owned(),
        (Reason::Findings, [one]) => one.message.clone(),
        (Reason::Findings, many) if many.iter().all(|finding| finding.kind == Kind::Memory) => {
            let bytes: f64 = many.iter().map(|finding| finding.bytes_per_call).sum();
            format!(
                "{} places leak, {} per call together",
                many.len(),
                counted(bytes, "byte")
            )
        }
        (Reason::Findings, many) => {
            format!("{} leaks; the first: {}", many.len(), many[0].message)
        }
        (
            Reason::Stopped {
                blocks,
                bytes,
                scarce,
                last_call,
            },
            _,
        ) => {
            let memory = format!(
                "{} ({})",
                counted(*blocks as f64, "block"),
                counted(*bytes as f64, "byte")
            );
            let memory = (*blocks > 0).then_some(memory);
            let others = (*scarce > 0).then(|| format!("{} descriptors, threads or the like", integer(*scarce)));
            let kept: Vec<String> = memory.into_iter().chain(others).collect();
            format!(
                "it kept {}, the last of them from call {}, and has stopped growing: a cache, not a leak",
                kept.join(" and "),
                integer(u64::from(*last_call)),
            )
        }
        (Reason::StillGrowing, [first, ..]) if first.kind != Kind::Memory => {
            format!(
                "after {calls}, when {ended}, it could not be told whether this goes on: {}",
                first.message
            )
        }
        (Reason::StillGrowing, _) => {
            format!("memory was still growing after {calls}, when {ended}; it is held, so it may be a cache or a leak")
        }
        (Reason::TooFewCalls, _) => format!("after {calls} {ended}; so few calls say nothing"),
    }
}

fn environment<S: Subject>(subject: &S) -> Environment {
    Environment {
        runtime: subject.runtime(),
        libc: libc_version(),
        platform: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        leaktight: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn libc_version() -> String {
    // SAFETY: looks a name up; the function found returns a static string (gnu_get_libc_version(3)).
    unsafe {
        let function = libc::dlsym(libc::RTLD_DEFAULT, c"gnu_get_libc_version".as_ptr());
        if function.is_null() {
            return "musl".to_owned();
        }
        let version: extern "C" fn() -> *const libc::c_char = std::mem::transmute(function);
        format!("glibc {}", std::ffi::CStr::from_ptr(version()).to_string_lossy())
    }
}

/// Allocators inside other libraries, which do not ask malloc for each block. Those that are statically linked
/// and stripped are not found.
fn private_allocators() -> impl Iterator<Item = String> {
    leaktight_heap::private_allocators().into_iter().map(|(name, path)| {
        let file = path.rsplit('/').next().unwrap_or_default();
        format!("what {file} takes from its own {name}")
    })
}

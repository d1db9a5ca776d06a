//! From what the judge found to the report.

use std::collections::HashSet;
use std::time::Duration;

use leaktight_liveset::{Block, Family};
use leaktight_report::{
    Certainty, Control, Environment, Finding, Kind, Look, Report, Severity, Verdict, counted, sentence,
};
use leaktight_stacks as stacks;
use leaktight_verdict as verdict;
use leaktight_verdict::{Judge, Outcome, Reason, SiteFinding, WITNESS};

use crate::budget::Spent;
use crate::groups::{Group, groups};
use crate::limits::limit;
use crate::reach::Reach;
use crate::reason::{of_cache, reason};
use crate::references::References;
use crate::resources::Resources;
use crate::sites::{Sites, Survey};
use crate::statics;
use crate::subject::Subject;
use crate::witnesses::{Witness, Witnesses};

/// Everything that one run saw.
pub(crate) struct Seen {
    pub judge: Judge,
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
    /// Reference counts moved, and there were too few calls to find out why.
    pub unfollowed: bool,
}

const UNFOLLOWED: &str =
    "the reference counts of some objects moved with the calls; there were too few calls to find out why";

/// So many blocks of a site tell what all are.
const ENOUGH: usize = 200;

pub(crate) fn report<S: Subject>(
    mut seen: Seen,
    sites: &mut Sites,
    resources: &Resources,
    witnesses: &Witnesses,
    subject: &mut S,
) -> Report {
    if !seen.outcome.findings.is_empty() {
        subject.before_naming();
    }
    let is_witnessed = |found: &SiteFinding| found.site >= WITNESS;
    let witnessed = seen.outcome.findings.iter().filter(|found| is_witnessed(found));
    let witnessed: Vec<Finding> = witnessed.map(|found| unexplained(found, witnesses)).collect();
    seen.outcome.findings.retain(|found| !is_witnessed(found));
    let (mut groups, mut caches) = (groups(&seen.outcome.findings, &seen.survey, sites, subject), Vec::new());
    groups.retain(|group| {
        let limit = limit(group, subject);
        let goes_on = limit.is_none();
        caches.extend(limit);
        goes_on
    });
    let mut findings: Vec<Finding> = groups
        .iter()
        .map(|group| finding(group, seen.reach.as_ref(), subject))
        .collect();
    findings.sort_by(|a, b| b.bytes_per_call.total_cmp(&a.bytes_per_call));
    findings.extend(witnessed);
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
    if findings.is_empty() && !caches.is_empty() {
        seen.outcome = seen.judge.within_bounds(seen.calls as u32);
    } else {
        remarks.extend(caches.iter().map(of_cache));
    }
    let is_fine = !matches!(
        seen.outcome.verdict,
        verdict::Verdict::Leak | verdict::Verdict::Indeterminate
    );
    if seen.unfollowed && !is_fine {
        remarks.push(UNFOLLOWED.to_owned());
    }
    let doubt = (seen.unfollowed && is_fine).then(|| UNFOLLOWED.to_owned());
    let says_nothing = !seen.control.passed() || doubt.is_some();
    let (verdict, reason) = if !seen.control.passed() && seen.outcome.verdict != verdict::Verdict::Leak {
        let reason = "planted leaks were missed, so nothing can be said about this call".to_owned();
        (Verdict::Indeterminate, reason)
    } else if let Some(doubt) = doubt {
        (Verdict::Indeterminate, doubt)
    } else {
        (
            word(seen.outcome.verdict),
            reason(&seen.outcome, &findings, &caches, seen.calls, seen.spent),
        )
    };
    Report {
        subject: subject.name(),
        verdict,
        reason,
        findings,
        calls: seen.calls,
        period: if says_nothing {
            0
        } else {
            u64::from(seen.outcome.period)
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

/// A finding of memory that somebody else counts and no block explains.
fn unexplained(found: &SiteFinding, witnesses: &Witnesses) -> Finding {
    let bytes = found.rate.bytes;
    let grown = counted(bytes.round(), "byte");
    let way = "by a way that is not seen here";
    let (allocator, holder, message) = match witnesses.who(found.site - WITNESS) {
        Witness::Resident(place) => {
            let message = format!(
                "a call makes {grown} more resident in memory that was mapped before; no allocation explains it, so it is \
                 written by hand or by an allocator of a library's own"
            );
            ("mmap".to_owned(), place, message)
        }
        Witness::Mapped => {
            let message =
                format!("a call takes {grown} from the kernel {way}, such as a system call of a library's own");
            ("mmap".to_owned(), None, message)
        }
        Witness::Malloc => {
            let message = format!("a call takes {grown} from malloc {way}, such as a copy of malloc's address");
            ("malloc".to_owned(), None, message)
        }
        Witness::Private(name, file) => {
            let file = file.rsplit('/').next().unwrap_or_default();
            let message = format!("a call leaves {grown} in {file}'s own {name}, which counts them itself");
            (name.clone(), Some(format!("the {name} in {file}")), message)
        }
    };
    Finding {
        kind: Kind::Memory,
        certainty: Certainty::Growing,
        severity: Severity::Error,
        blocks_per_call: 0.0,
        bytes_per_call: bytes,
        block_size: None,
        every: None,
        allocator,
        via: None,
        type_name: None,
        objects_per_call: None,
        examples: Vec::new(),
        holder,
        in_cycle: false,
        earlier_owner: false,
        references: None,
        stack: Vec::new(),
        message,
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

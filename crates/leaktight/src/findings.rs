//! From what the judge found to the report.

use std::collections::HashSet;
use std::time::Duration;

use leaktight_liveset::{Block, Family};
use leaktight_references::exporter;
use leaktight_report::{
    Certainty, Control, Environment, Finding, Kind, Look, Report, Severity, Verdict, counted, sentence,
};
use leaktight_stacks as stacks;
use leaktight_verdict as verdict;
use leaktight_verdict::{Births, Judge, Kept, Outcome, Reason, SiteFinding, WITNESS};

use crate::budget::Spent;
use crate::checks::Checks;
use crate::groups::{Group, groups};
use crate::holder::{ENOUGH, asked, holder};
use crate::kept::kept;
use crate::limits::limit;
use crate::makers::Wanted;
use crate::path::Paths;
use crate::reach::Reach;
use crate::reason::{HowFar, of_cache, reason};
use crate::references::References;
use crate::resources::Resources;
use crate::sites::{Sites, Survey};
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
    /// Reference counts moved, and there were too few calls, or too little time, to find out why.
    pub unfollowed: bool,
    pub checks: Checks,
    /// What is left behind is to be told with what holds it, whatever the verdict.
    pub wants_holders: bool,
}

const UNFOLLOWED: &str = "the reference counts of some objects moved with the calls; there were too few calls, or too little time, to find out why";

pub(crate) fn report<S: Subject>(
    mut seen: Seen,
    sites: &mut Sites,
    resources: &Resources,
    witnesses: &Witnesses,
    subject: &mut S,
) -> (Report, Vec<(Finding, Wanted)>) {
    if !seen.outcome.findings.is_empty() || seen.wants_holders {
        subject.before_naming();
    }
    let is_witnessed = |found: &SiteFinding| found.site >= WITNESS;
    let witnessed = seen.outcome.findings.iter().filter(|found| is_witnessed(found));
    let witnessed: Vec<Finding> = witnessed.map(|found| unexplained(found, witnesses)).collect();
    seen.outcome.findings.retain(|found| !is_witnessed(found));
    let paths = Paths::new(seen.reach.as_ref());
    let kept = match seen.wants_holders {
        true => kept(&seen.outcome.findings, &seen.survey, sites, &paths, subject),
        false => Vec::new(),
    };
    let (mut groups, mut caches) = (groups(&seen.outcome.findings, &seen.survey, sites, subject), Vec::new());
    groups.retain(|group| {
        let limit = limit(group, subject);
        let goes_on = limit.is_none();
        caches.extend(limit);
        goes_on
    });
    let mut findings: Vec<Finding> = groups
        .iter()
        .map(|group| finding(group, &paths, seen.reach.as_ref(), subject))
        .collect();
    let unsure = groups
        .iter()
        .zip(&findings)
        .filter(|(_, finding)| finding.type_name.is_some());
    let mut unsure: Vec<(Finding, Wanted)> = unsure
        .filter_map(|(group, finding)| Some((finding.clone(), wanted(group, finding, subject)?)))
        .collect();
    findings.sort_by(|a, b| b.bytes_per_call.total_cmp(&a.bytes_per_call));
    findings.extend(witnessed);
    // What runs out comes first.
    findings.splice(0..0, resources.findings(&seen.outcome.findings, sites, subject));
    let mut references = std::mem::take(&mut seen.references);
    references.tell_how_rare(seen.outcome.period);
    // Where no references could be seen that is said by itself.
    let period = match references.period(seen.outcome.period) {
        0 => seen.outcome.period,
        period => period,
    };
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
    blind_spots.extend(references.too_rare);
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
    // Who asks for this alone must not take it for a pass.
    let in_vain = not_done
        .first()
        .filter(|_| is_fine && seen.checks == Checks::REFERENCES);
    let says_nothing = !seen.control.passed() || doubt.is_some() || in_vain.is_some();
    let (verdict, reason) = if !seen.control.passed() && seen.outcome.verdict != verdict::Verdict::Leak {
        let reason = "planted leaks were missed, so nothing can be said about this call".to_owned();
        (Verdict::Indeterminate, reason)
    } else if let Some(what) = in_vain {
        (
            Verdict::Indeterminate,
            format!("what was asked for cannot be seen here: {what}"),
        )
    } else if let Some(doubt) = doubt {
        (Verdict::Indeterminate, doubt)
    } else if seen.outcome.verdict == verdict::Verdict::Leak && findings.is_empty() {
        // Whoever asks for findings must not take it for a pass.
        let reason = "memory grows in step with the calls, but no block could be told that does".to_owned();
        (Verdict::Indeterminate, reason)
    } else {
        let how_far = HowFar {
            calls: seen.calls,
            spent: seen.spent,
            left: left(&seen.survey, seen.checks, resources, sites),
            checks: seen.checks,
        };
        (
            word(seen.outcome.verdict),
            reason(&seen.outcome, &findings, &caches, &how_far),
        )
    };
    // What is released too often is no longer held.
    if findings.iter().any(|finding| finding.kind == Kind::OverRelease) {
        unsure.clear();
    }
    let report = Report {
        subject: subject.name(),
        verdict,
        reason,
        findings,
        calls: seen.calls,
        period: if says_nothing { 0 } else { u64::from(period) },
        objects: references.objects,
        seconds: seen.elapsed.as_secs_f64(),
        looks: seen.looks,
        control: seen.control,
        blind_spots,
        not_done,
        kept,
        remarks,
        environment: environment(subject),
    };
    (report, unsure)
}

/// How to know an object of the kind that was leaked when its memory is allocated.
fn wanted<S: Subject>(group: &Group, finding: &Finding, subject: &mut S) -> Option<Wanted> {
    let is_such = |block: &&Block| group.is_head(block) && subject.type_name(block) == finding.type_name;
    let blocks: Vec<Block> = group
        .blocks
        .iter()
        .rev()
        .take(ENOUGH)
        .filter(is_such)
        .copied()
        .collect();
    let first = blocks.first()?;
    let (offset, count_bytes) = subject.reference_count(first)?;
    let stacks: HashSet<u32> = blocks
        .iter()
        .map(|block| block.stack)
        .filter(|stack| *stack != 0)
        .collect();
    Some(Wanted {
        stacks: stacks.into_iter().collect(),
        size: first.size,
        offset,
        count_bytes,
        exporter: exporter(first.address + offset),
    })
}

/// What calls have left behind at the end, in step with them or not.
fn left(survey: &Survey, checks: Checks, resources: &Resources, sites: &mut Sites) -> Kept {
    let (mut blocks, mut scarce) = (Births::default(), Births::default());
    if checks.memory {
        survey.sites.iter().for_each(|site| blocks.join(&site.births));
    }
    resources.sites(sites).iter().for_each(|site| scarce.join(&site.births));
    Kept::of(&blocks, &scarce)
}

/// A finding of memory that somebody else counts and no block explains.
fn unexplained(found: &SiteFinding, witnesses: &Witnesses) -> Finding {
    let bytes = found.rate.bytes;
    let (allocator, holder, message) = witnessed(witnesses.who(found.site - WITNESS), bytes);
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
        also: Vec::new(),
        one_of: false,
        kept_by: Vec::new(),
        stack_note: None,
        buffer_export: false,
        path: Vec::new(),
        stack: Vec::new(),
        message,
    }
}

/// Who handed the bytes out, what holds them, and the finding in one sentence.
fn witnessed(witness: Witness, bytes_per_call: f64) -> (String, Option<String>, String) {
    let bytes = counted(bytes_per_call.round(), "byte");
    match witness {
        Witness::Resident(place) => {
            let message = format!(
                "on average a call puts {bytes} to use that were reserved before: the kernel counts them, but nothing was \
                 allocated; a library may hand them out by an allocator of its own, and a buffer that is being filled \
                 looks the same"
            );
            (String::new(), place, message)
        }
        Witness::Mapped => {
            let message = format!(
                "on average a call takes {bytes} from the kernel: the kernel counts them, but no function that is watched \
                 was called, so a library makes system calls of its own"
            );
            (String::new(), None, message)
        }
        Witness::Malloc => {
            let message = format!(
                "on average a call leaves {bytes} in malloc: malloc counts them itself, but the calls were not seen, so a \
                 library calls it by a pointer that was copied before the check"
            );
            ("malloc".to_owned(), None, message)
        }
        Witness::Private(name, file) => {
            let file = file.rsplit('/').next().unwrap_or_default();
            let message = format!(
                "on average a call leaves {bytes} in the {name} of {file}: it counts them itself, but which function asked \
                 for them is not seen"
            );
            (name, None, message)
        }
    }
}

fn finding<S: Subject>(group: &Group, paths: &Paths<'_>, reach: Option<&Reach>, subject: &mut S) -> Finding {
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
        block_size: size.filter(|size| match group.grows() {
            true => blocks.len() == 1,
            false => blocks.iter().all(|block| block.size as u64 == *size),
        }),
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
        also: Vec::new(),
        one_of: false,
        kept_by: Vec::new(),
        stack_note: None,
        buffer_export: false,
        path: if lost {
            Vec::new()
        } else {
            paths.to_any(asked(group, subject).into_iter(), subject)
        },
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
                kind.in_cycle |= group.is_circular(block) && !subject.is_collected(block);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_others_count_is_told_in_sentences_that_say_who_does() {
        let told = |witness| witnessed(witness, 4096.4);
        let (allocator, holder, message) =
            told(Witness::Resident(Some("a region of 64 MiB of anonymous memory".into())));
        assert_eq!((allocator.as_str(), holder.is_some()), ("", true));
        assert_eq!(
            message,
            "on average a call puts 4,096 bytes to use that were reserved before: the kernel counts them, but nothing was \
             allocated; a library may hand them out by an allocator of its own, and a buffer that is being filled looks the \
             same"
        );
        assert_eq!(
            told(Witness::Mapped).2,
            "on average a call takes 4,096 bytes from the kernel: the kernel counts them, but no function that is watched \
             was called, so a library makes system calls of its own"
        );
        assert_eq!(
            told(Witness::Malloc).2,
            "on average a call leaves 4,096 bytes in malloc: malloc counts them itself, but the calls were not seen, so a \
             library calls it by a pointer that was copied before the check"
        );
        assert_eq!(
            told(Witness::Private("jemalloc".into(), "/usr/lib/libarrow.so".into())),
            (
                "jemalloc".into(),
                None,
                "on average a call leaves 4,096 bytes in the jemalloc of libarrow.so: it counts them itself, but which \
                 function asked for them is not seen"
                    .into()
            )
        );
    }
}

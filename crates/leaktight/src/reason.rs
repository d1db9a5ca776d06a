//! Why the verdict is what it is, in one sentence.

use leaktight_report::{Finding, Kind, counted, integer};
use leaktight_verdict::{Kept, Outcome, Reason};

use crate::budget::Spent;
use crate::subject::Capacity;

/// The reason for the outcome of so many calls, which ended because something was spent or because no further call
/// was allowed or needed.
pub(crate) fn reason(
    outcome: &Outcome,
    findings: &[Finding],
    caches: &[Capacity],
    calls: u64,
    spent: Option<Spent>,
) -> String {
    let stopped = match spent {
        Some(Spent::Time) => "stopped by the time budget",
        Some(Spent::Memory) => "stopped by the memory budget",
        Some(Spent::Descriptors) => "stopped with half of the descriptors open that this process may have,",
        None => "stopped by the limit on calls",
    };
    let made = counted(calls as f64, "call");
    if let ([], [cache, ..]) = (findings, caches) {
        let growth = of_cache(cache);
        return match &outcome.reason {
            Reason::StoppedEarly { needed } => {
                format!(
                    "{stopped} after {} of {} calls; {growth}",
                    integer(calls),
                    integer(u64::from(*needed))
                )
            }
            _ => format!("{growth}: a cache, not a leak"),
        };
    }
    match (&outcome.reason, findings) {
        (Reason::NothingGrows, _) => "no call left anything behind".to_owned(),
        (Reason::Findings, [one]) => one.message.clone(),
        (Reason::Findings, many) if are_all_memory(many) => format!("{} leak, {}", places(many), together(many)),
        (Reason::Findings, many) => format!("{} leaks; the first: {}", many.len(), many[0].message),
        (Reason::Stopped(kept), _) => {
            format!(
                "it kept {}, and has stopped growing: a cache, not a leak",
                in_words(kept)
            )
        }
        (Reason::Slows(kept), _) => {
            format!(
                "it kept {}, and grows ever more slowly: a cache, not a leak",
                in_words(kept)
            )
        }
        (Reason::StillGrowing, [first, ..]) if !are_all_memory(findings) => {
            format!(
                "{stopped} after {made}, so it could not be told whether this goes on: {}",
                first.message
            )
        }
        (Reason::StillGrowing, findings) => {
            let growth = match findings {
                [] => "memory grows".to_owned(),
                [one] => one.message.clone(),
                many => format!("{} grow, {}", places(many), together(many)),
            };
            let entries = integer(entries(findings, calls));
            format!("{stopped} after {made}: {growth}; a cache of more than {entries} entries looks the same")
        }
        (Reason::StoppedEarly { needed }, _) => format!(
            "{stopped} after {} of {} calls; nothing stayed behind up to a period of {}",
            integer(calls),
            integer(u64::from(*needed)),
            integer(u64::from(outcome.period)),
        ),
        (Reason::TooFewCalls, _) => format!("{stopped} after {made}; so few calls say nothing"),
    }
}

/// Why growth in a cache is none without end.
pub(crate) fn of_cache(cache: &Capacity) -> String {
    let (entries, most) = (integer(cache.entries), integer(cache.most));
    format!(
        "memory grows, held by {}, which has {entries} of at most {most} entries",
        cache.name
    )
}

fn are_all_memory(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.kind == Kind::Memory)
}

fn places(findings: &[Finding]) -> String {
    counted(findings.len() as f64, "place")
}

fn together(findings: &[Finding]) -> String {
    let bytes: f64 = findings.iter().map(|finding| finding.bytes_per_call).sum();
    format!("{} per call together", counted(bytes, "byte"))
}

/// How many entries a cache has at most that so many calls have filled: one for each call that left something.
fn entries(findings: &[Finding], calls: u64) -> u64 {
    let per_call = |finding: &Finding| match (finding.every, finding.blocks_per_call) {
        (Some(every), _) => 1.0 / every as f64,
        // One block that grows does not tell.
        (None, blocks) if blocks > 0.0 => blocks.min(1.0),
        (None, _) => 1.0,
    };
    let most = findings.iter().map(per_call).fold(0.0, f64::max);
    (calls as f64 * most) as u64
}

fn in_words(kept: &Kept) -> String {
    let memory = || {
        let (blocks, bytes) = (counted(kept.blocks as f64, "block"), counted(kept.bytes as f64, "byte"));
        format!("{blocks} ({bytes})")
    };
    let memory = (kept.blocks > 0).then(memory);
    let others = (kept.scarce > 0).then(|| format!("{} descriptors, threads or the like", integer(kept.scarce)));
    let all: Vec<String> = memory.into_iter().chain(others).collect();
    let last = integer(u64::from(kept.last_call));
    format!("{}, the last of them from call {last}", all.join(" and "))
}

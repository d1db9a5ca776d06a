//! Why the verdict is what it is, in one sentence.

use leaktight_report::{Finding, Kind, counted, integer};
use leaktight_verdict::{Kept, Outcome, Reason};

use crate::budget::Spent;
use crate::checks::Checks;
use crate::subject::Capacity;

/// What was done for an outcome.
pub(crate) struct HowFar {
    pub calls: u64,
    /// Why the calls ended, unless no further one was allowed or needed.
    pub spent: Option<Spent>,
    /// What they have left behind.
    pub left: Kept,
    pub checks: Checks,
}

/// Why it is a leak.
pub(crate) fn of_findings(findings: &[Finding]) -> String {
    match findings {
        [one] => one.message.clone(),
        many if are_all_memory(many) => format!("{} leak, {}", places(many), together(many)),
        many => format!("{} leaks; the first: {}", many.len(), many[0].message),
    }
}

/// The reason for the outcome.
pub(crate) fn reason(outcome: &Outcome, findings: &[Finding], caches: &[Capacity], how_far: &HowFar) -> String {
    let HowFar {
        calls,
        spent,
        ref left,
        checks,
    } = *how_far;
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
        (Reason::NothingGrows, _) => nothing_grows(left, checks),
        (Reason::Findings, _) => of_findings(findings),
        (Reason::Stopped(kept), _) => {
            format!(
                "it kept {} and has stopped growing: a cache, not a leak",
                in_words(kept)
            )
        }
        (Reason::Slows(kept), _) => {
            format!(
                "it kept {} and grows ever more slowly: a cache, not a leak",
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
            let cache = match entries(findings, calls) {
                Some(entries) => format!("a cache of more than {} entries", integer(entries)),
                None => "a cache that is not full yet".to_owned(),
            };
            format!("{stopped} after {made}: {growth}; {cache} looks the same")
        }
        (Reason::StoppedEarly { needed }, _) => {
            let (calls, needed) = (integer(calls), integer(u64::from(*needed)));
            let how_far = match outcome.period {
                0 => String::new(),
                period => format!(", up to a period of {}", integer(u64::from(period))),
            };
            format!("{stopped} after {calls} of {needed} calls; nothing stayed behind in step with them{how_far}")
        }
        (Reason::TooFewCalls, _) => format!("{stopped} after {made}; so few calls say nothing"),
    }
}

/// Buffers and the like may be there still, as long as they do not become more.
fn nothing_grows(left: &Kept, checks: Checks) -> String {
    let nothing = match (left.blocks, left.scarce) {
        (0, 0) => "no call after the warm-up left anything behind".to_owned(),
        (1, 0) | (0, 1) => format!(
            "nothing stayed behind in step with the calls; {} is left",
            in_words(left)
        ),
        _ => format!(
            "nothing stayed behind in step with the calls; {} are left",
            in_words(left)
        ),
    };
    match checks.some() {
        Some(names) => format!("{nothing} (looked at: {names})"),
        None => nothing,
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

/// How many entries a cache has at most that so many calls have filled: one for each call that left something. `None`
/// where blocks do not come one by one: an entry may be several, and one block that grows does not tell.
fn entries(findings: &[Finding], calls: u64) -> Option<u64> {
    let every: Option<Vec<u64>> = findings.iter().map(|finding| finding.every).collect();
    every?.into_iter().min().map(|every| calls / every)
}

fn in_words(kept: &Kept) -> String {
    let memory = || {
        let (blocks, bytes) = (counted(kept.blocks as f64, "block"), counted(kept.bytes as f64, "byte"));
        format!("{blocks} ({bytes})")
    };
    let memory = (kept.blocks > 0).then(memory);
    let others = match kept.scarce {
        0 => None,
        1 => Some("1 descriptor, thread or the like".to_owned()),
        many => Some(format!("{} descriptors, threads or the like", integer(many))),
    };
    let all: Vec<String> = memory.into_iter().chain(others).collect();
    let last = integer(u64::from(kept.last_call));
    let of_them = if kept.blocks + kept.scarce == 1 {
        ""
    } else {
        "the last of them "
    };
    format!("{}, {of_them}from call {last},", all.join(" and "))
}

//! A finding in one sentence.

use crate::words::{article, counted, figure, integer, is_one, is_zero, ordinal};
use crate::{Certainty, Finding, Kind};

/// The finding in one sentence that is complete in itself and has no final period, such as
/// `every call loses 1 block of 48 bytes: nothing points to it any more`.
///
/// The engine puts it into [`Finding::message`]; the sentence reads every other field except
/// `message`, `severity`, `allocator`, `via` and `stack`.
#[must_use]
pub fn sentence(finding: &Finding) -> String {
    let toll = Toll::of(finding);
    let who = toll.who();
    let held = held(finding, toll.count);
    match (finding.kind, finding.certainty) {
        (Kind::Memory, Certainty::Lost) => lost_memory(finding, &toll),
        (Kind::Memory, Certainty::Growing) => growing_memory(finding, &toll),
        (Kind::Reference, Certainty::Lost) => format!(
            "{who} adds {} that nobody holds: a Py_DECREF is missing",
            references(finding, toll.count, "to")
        ),
        (Kind::Reference, Certainty::Growing) => {
            let held = held.unwrap_or_else(|| holder_not_found(toll.count));
            format!("{who} adds {}; {held}", references(finding, toll.count, "to"))
        }
        (Kind::OverRelease, _) => format!(
            "{who} releases {} that it does not own: a Py_INCREF is missing, and the object can be freed while in use",
            references(finding, toll.count, "to")
        ),
        (Kind::Fd, _) => {
            let left = format!("{who} leaves {} open", counted(toll.count, "file descriptor"));
            join(left + &examples(finding), held)
        }
        (Kind::Thread, _) => {
            let left = format!("{who} leaves {} behind", counted(toll.count, "thread"));
            join(left + &examples(finding), held)
        }
        (Kind::Child, _) => {
            let left = format!("{who} leaves {} behind", counted(toll.count, "child process"));
            join(left + &examples(finding), held)
        }
        (Kind::File, _) => {
            let left = format!("{who} leaves {} behind", counted(toll.count, "temporary file"));
            join(left + &examples(finding), held)
        }
        (Kind::Ipc, _) => {
            let left = format!("{who} leaves {} behind", counted(toll.count, "IPC object"));
            join(left + &examples(finding), held)
        }
        (Kind::Garbage, _) => {
            let objects = match &finding.type_name {
                Some(name) => counted(toll.count, &format!("`{name}` object")),
                None => counted(toll.count, "object"),
            };
            let left = format!("{who} leaves {objects} that the garbage collector cannot free");
            join(left + &examples(finding), held)
        }
    }
}

/// `: /dev/null`; of several `, such as /tmp/a`.
fn examples(finding: &Finding) -> String {
    match finding.examples.as_slice() {
        [] => String::new(),
        [one] => format!(": {one}"),
        [first, ..] => format!(", such as {first}"),
    }
}

/// What a finding costs, counted at the calls that leak if these are known, else per call.
pub(crate) struct Toll {
    /// Calls from one leak to the next, if that is exact.
    pub(crate) every: Option<u64>,
    /// Things left behind each time.
    pub(crate) count: f64,
    /// Bytes left behind each time.
    pub(crate) bytes: f64,
}

impl Toll {
    pub(crate) fn of(finding: &Finding) -> Toll {
        let every = finding.every.filter(|&calls| calls > 0);
        let calls = every.unwrap_or(1) as f64;
        let count = finding.blocks_per_call * calls;
        // Whoever measures a count that falls may give it with its sign; the kind says it already.
        let count = if finding.kind == Kind::OverRelease {
            count.abs()
        } else {
            count
        };
        Toll {
            every,
            count,
            bytes: finding.bytes_per_call * calls,
        }
    }

    /// Who leaks, as the subject of a sentence.
    fn who(&self) -> String {
        match self.every {
            Some(1) => "every call".into(),
            Some(calls) => format!("every {} call", ordinal(calls)),
            None => "on average a call".into(),
        }
    }

    /// When it leaks, at the end of a sentence.
    fn when(&self) -> String {
        match self.every {
            Some(1) => "per call".into(),
            Some(calls) => format!("every {} call", ordinal(calls)),
            None => "per call on average".into(),
        }
    }
}

fn lost_memory(finding: &Finding, toll: &Toll) -> String {
    let it = if is_one(toll.count) { "it" } else { "them" };
    let what = if is_zero(toll.count) {
        counted(toll.bytes, "byte")
    } else {
        blocks(finding, toll, " in all")
    };
    format!("{} loses {what}: nothing points to {it} any more", toll.who())
}

fn growing_memory(finding: &Finding, toll: &Toll) -> String {
    if is_zero(toll.count) {
        let held = held(finding, 1.0).unwrap_or_else(|| holder_not_found(1.0));
        let bytes = counted(toll.bytes, "byte");
        return format!("one block grows by {bytes} {}; {held}", toll.when());
    }
    let held = held(finding, toll.count).unwrap_or_else(|| holder_not_found(toll.count));
    format!("memory grows by {} {}; {held}", blocks(finding, toll, ""), toll.when())
}

/// `1 block of 48 bytes`, `2 blocks, 96 bytes`, ``1 `dict` (232 bytes)``. When blocks differ in
/// size only their sum is known; `in_all` says so where the sentence leaves it open.
fn blocks(finding: &Finding, toll: &Toll, in_all: &str) -> String {
    let one = is_one(toll.count);
    let sum_known = toll.bytes.is_finite() && !is_zero(toll.bytes);
    let each = match finding.block_size {
        Some(1) => Some("1 byte".into()),
        Some(size) => Some(format!("{} bytes", integer(size))),
        None => (one && sum_known).then(|| counted(toll.bytes, "byte")),
    };
    let sum = sum_known.then(|| format!("{}{in_all}", counted(toll.bytes, "byte")));

    let Some(name) = &finding.type_name else {
        let blocks = counted(toll.count, "block");
        return match (each, sum) {
            (Some(each), _) => format!("{blocks} of {each}"),
            (None, Some(sum)) => format!("{blocks}, {sum}"),
            (None, None) => blocks,
        };
    };
    let count = finding
        .objects_per_call
        .map_or(toll.count, |count| count * toll.every.map_or(1.0, |calls| calls as f64));
    let objects = if is_one(count) {
        format!("1 `{name}`")
    } else {
        format!("{} `{name}` objects", figure(count))
    };
    if count != toll.count {
        let blocks = counted(toll.count, "block");
        return match sum_known {
            true => format!("{objects} ({blocks}, {})", counted(toll.bytes, "byte")),
            false => format!("{objects} ({blocks})"),
        };
    }
    match (each, sum) {
        (Some(each), _) if one => format!("{objects} ({each})"),
        (Some(each), _) => format!("{objects} ({each} each)"),
        (None, Some(sum)) => format!("{objects} ({sum})"),
        (None, None) => objects,
    }
}

/// ``1 reference to the `str` 'timeout' (argument 1)``, or, where only the type is known, ``1 reference to a `dict`
/// object``.
fn references(finding: &Finding, count: f64, preposition: &str) -> String {
    if let [object] = finding.examples.as_slice() {
        return format!("{} {preposition} {object}", counted(count, "reference"));
    }
    let objects = match (&finding.type_name, is_one(count)) {
        (Some(name), true) => format!("{} `{name}` object", article(name)),
        (Some(name), false) => format!("`{name}` objects"),
        (None, true) => "an object".into(),
        (None, false) => "objects".into(),
    };
    format!("{} {preposition} {objects}", counted(count, "reference"))
}

fn held(finding: &Finding, count: f64) -> Option<String> {
    let they_are = if is_one(count) { "it is" } else { "they are" };
    finding
        .holder
        .as_ref()
        .map(|holder| format!("{they_are} still held by {holder}"))
}

fn holder_not_found(count: f64) -> String {
    let them = if is_one(count) { "it" } else { "them" };
    format!("what still holds {them} was not found")
}

fn join(sentence: String, held: Option<String>) -> String {
    match held {
        Some(held) => format!("{sentence}; {held}"),
        None => sentence,
    }
}

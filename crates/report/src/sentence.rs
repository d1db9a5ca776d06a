//! A finding in one sentence.

use crate::words::{article, counted, integer, is_one, is_zero, ordinal, plural};
use crate::{Certainty, Finding, Kind, words};

/// The finding in one sentence that is complete in itself and has no final period, such as
/// `every call loses 1 block of 48 bytes: nothing points to it any more`.
///
/// The engine puts it into [`Finding::message`]; the sentence reads every other field except
/// `message`, `severity`, `allocator`, `via` and `stack`.
#[must_use]
pub fn sentence(finding: &Finding) -> String {
    let toll = Toll::of(finding);
    let held = held(finding, toll.count);
    match (finding.kind, finding.certainty) {
        (Kind::Memory, Certainty::Lost) => lost_memory(finding, &toll),
        (Kind::Memory, Certainty::Growing) => growing_memory(finding, &toll),
        (Kind::Reference, Certainty::Lost) => format!(
            "{} {} that nobody holds: {}",
            toll.who("add"),
            references(finding, toll.count, "to"),
            match finding.buffer_export {
                true => "a buffer of it is exported and never released, a PyBuffer_Release is missing",
                false => "a Py_DECREF is missing",
            }
        ),
        (Kind::Reference, Certainty::Growing) => {
            let held = held.unwrap_or_else(|| holder_not_found(toll.count));
            format!("{} {}; {held}", toll.who("add"), references(finding, toll.count, "to"))
        }
        (Kind::OverRelease, _) => format!(
            "{} {} that it does not own: a Py_INCREF is missing, and the object can be freed while in use",
            toll.who("release"),
            references(finding, toll.count, "to")
        ),
        (Kind::Fd, _) => {
            let left = format!("{} {} open", toll.who("leave"), counted(toll.count, "file descriptor"));
            join(left + &examples(finding), held)
        }
        (Kind::Thread, _) => {
            let left = format!("{} {} behind", toll.who("leave"), counted(toll.count, "thread"));
            join(left + &examples(finding), held)
        }
        (Kind::Child, _) => {
            let left = format!("{} {} behind", toll.who("leave"), counted(toll.count, "child process"));
            join(left + &examples(finding), held)
        }
        (Kind::File, _) => {
            let left = format!("{} {} behind", toll.who("leave"), counted(toll.count, "temporary file"));
            join(left + &examples(finding), held)
        }
        (Kind::Ipc, _) => {
            let left = format!("{} {} behind", toll.who("leave"), counted(toll.count, "IPC object"));
            join(left + &examples(finding), held)
        }
        (Kind::Garbage, _) => {
            let objects = match &finding.type_name {
                Some(name) => counted(toll.count, &words::noun(name)),
                None => counted(toll.count, "object"),
            };
            let left = format!("{} {objects} that the garbage collector cannot free", toll.who("leave"));
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

/// What a finding costs, counted at the calls that leak if these are known, else over so many calls that there is at
/// least one thing.
pub(crate) struct Toll {
    /// The calls that all this is left behind in.
    pub(crate) calls: u64,
    /// Whether that happens just once in so many calls.
    exact: bool,
    /// Things left behind in these calls.
    pub(crate) count: f64,
    /// Bytes left behind in these calls.
    pub(crate) bytes: f64,
}

impl Toll {
    pub(crate) fn of(finding: &Finding) -> Toll {
        let every = finding.every.filter(|&calls| calls > 0);
        let calls = every.unwrap_or_else(|| calls_for_one(finding.blocks_per_call));
        let count = finding.blocks_per_call * calls as f64;
        // Whoever measures a count that falls may give it with its sign; the kind says it already.
        let count = if finding.kind == Kind::OverRelease {
            count.abs()
        } else {
            count
        };
        Toll {
            calls,
            exact: every.is_some(),
            count,
            bytes: finding.bytes_per_call * calls as f64,
        }
    }

    /// Who does it, as the subject of a sentence, and the verb.
    fn who(&self, verb: &str) -> String {
        match (self.exact, self.calls) {
            (true, 1) => format!("every call {verb}s"),
            (true, calls) => format!("every {} call {verb}s", ordinal(calls)),
            (false, 1) => format!("on average a call {verb}s"),
            (false, calls) => format!("on average {} calls {verb}", integer(calls)),
        }
    }

    /// When it leaks, at the end of a sentence.
    fn when(&self) -> String {
        match (self.exact, self.calls) {
            (true, 1) => "per call".into(),
            (true, calls) => format!("every {} call", ordinal(calls)),
            (false, 1) => "per call on average".into(),
            (false, calls) => format!("per {} calls on average", integer(calls)),
        }
    }

    /// `per call`, `in 10 calls`.
    pub(crate) fn over(&self) -> String {
        match self.calls {
            1 => "per call".into(),
            calls => format!("in {} calls", integer(calls)),
        }
    }
}

/// 1, 10, 100 …: the first such number of calls that leaves a whole thing behind.
fn calls_for_one(per_call: f64) -> u64 {
    const MOST: u64 = 1_000_000_000;
    let mut calls = 1;
    while per_call.abs() * (calls as f64) < 1.0 && !is_one(per_call * calls as f64) && calls < MOST {
        calls *= 10;
    }
    if calls < MOST { calls } else { 1 }
}

fn lost_memory(finding: &Finding, toll: &Toll) -> String {
    let it = if is_one(toll.count) { "it" } else { "them" };
    let what = if is_zero(toll.count) {
        counted(toll.bytes, "byte")
    } else {
        blocks(finding, toll, " in all")
    };
    let cause = match (&finding.type_name, finding.in_cycle) {
        (None, _) => String::new(),
        (Some(_), false) => {
            let them = if is_one(objects(finding, toll)) { "it" } else { "them" };
            match finding.buffer_export {
                true => format!("; a buffer of {them} is exported and never released, a PyBuffer_Release is missing"),
                false => format!("; a Py_DECREF is missing in what received {them}"),
            }
        }
        (Some(_), true) => "; a cycle that the types do not let the garbage collector see".into(),
    };
    format!("{} {what}: nothing points to {it} any more{cause}", toll.who("lose"))
}

fn growing_memory(finding: &Finding, toll: &Toll) -> String {
    if is_zero(toll.count) {
        let blocks = if finding.block_size.is_some() { 1.0 } else { 2.0 };
        let held = held(finding, blocks).unwrap_or_else(|| holder_not_found(blocks));
        let (bytes, when) = (counted(toll.bytes, "byte"), toll.when());
        return match finding.block_size {
            Some(_) => format!("one block grows by {bytes} {when}; {held}"),
            None => format!("memory grows by {bytes} {when}, in few blocks that become larger; {held}"),
        };
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
    let count = objects(finding, toll);
    let objects = words::objects(count, name);
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

/// How many objects the finding leaves behind in the calls of its toll.
fn objects(finding: &Finding, toll: &Toll) -> f64 {
    let count = finding.objects_per_call.map(|count| count * toll.calls as f64);
    count.unwrap_or(toll.count)
}

/// ``1 reference to the `str` 'timeout' (argument 1)``, or, where only the type is known, ``1 reference to a `dict`
/// object``.
fn references(finding: &Finding, count: f64, preposition: &str) -> String {
    if let [object] = finding.examples.as_slice() {
        return format!("{} {preposition} {object}", counted(count, "reference"));
    }
    let objects = match (&finding.type_name, is_one(count)) {
        (Some(name), true) => format!("{} {}", article(name), words::noun(name)),
        (Some(name), false) => plural(2, &words::noun(name)),
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

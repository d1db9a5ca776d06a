//! A finding in figures, on one line.

use crate::sentence::Toll;
use crate::words::{counted, figure, in_words, integer, is_zero};
use crate::{Certainty, Finding, Kind};

/// `48 B per call  malloc via strdup, 1 block per call, lost`. What counts most comes first: bytes
/// for memory, else the number of things.
pub(crate) fn facts(finding: &Finding) -> String {
    let (noun, detail) = match finding.kind {
        Kind::Memory => ("block", None),
        Kind::Reference => ("reference", None),
        Kind::OverRelease => ("reference", Some("released too often")),
        Kind::Fd => ("file descriptor", None),
        Kind::Thread => ("thread", None),
        Kind::Child => ("child process", None),
        Kind::File => ("temporary file", None),
        Kind::Ipc => ("IPC object", None),
        Kind::Garbage => ("object", Some("that cannot be collected")),
    };
    let count = count(finding, noun);
    let bytes = (!is_zero(finding.bytes_per_call)).then(|| format!("{} B per call", figure(finding.bytes_per_call)));
    let (first, last) = match (finding.kind, bytes) {
        (Kind::Memory, Some(bytes)) => (bytes, count),
        (_, bytes) => (count.unwrap_or_else(|| counted(0.0, noun)), bytes),
    };
    let certainty = match (finding.kind, finding.certainty) {
        (Kind::OverRelease, _) => None,
        (Kind::Reference, Certainty::Lost) => Some("held by nobody".to_owned()),
        (_, Certainty::Lost) => Some("lost".to_owned()),
        (_, Certainty::Growing) => Some("growing".to_owned()),
    };
    let rest = [origin(finding), detail.map(str::to_owned), last, certainty];
    let rest: Vec<String> = rest.into_iter().flatten().collect();
    format!("{first}  {}", rest.join(", "))
}

/// `1 block per call`, `1 block of 232 B in 10 calls`; `None` if only the bytes are counted.
fn count(finding: &Finding, noun: &str) -> Option<String> {
    let toll = Toll::of(finding);
    if finding.kind == Kind::Memory && is_zero(toll.count) {
        return finding.block_size.map(|_| "in one block".to_owned());
    }
    let size = match finding.block_size.map(integer) {
        // The bytes per call say it already.
        Some(size) if size == figure(finding.bytes_per_call) => String::new(),
        Some(size) => format!(" of {size} B"),
        None => String::new(),
    };
    let things = counted(toll.count, noun) + &size;
    Some(format!("{things} {}", toll.over()))
}

/// `dict from PyObject_Malloc via PyDict_New`, as far as it is known.
fn origin(finding: &Finding) -> Option<String> {
    let counts_references = matches!(finding.kind, Kind::Reference | Kind::OverRelease);
    let object = match finding.type_name.as_deref().unwrap_or_default() {
        "" => None,
        name if counts_references => Some(format!("to {}", finding.examples.first().map_or(name, String::as_str))),
        name => Some(in_words(name).unwrap_or(name).to_owned()),
    };
    // In memory's own line a bare allocator explains itself.
    let bare = finding.kind == Kind::Memory && object.is_none();
    let allocator = match finding.allocator.as_str() {
        "" => None,
        allocator if bare => Some(allocator.to_owned()),
        allocator => Some(format!("from {allocator}")),
    };
    let via = match finding.via.as_deref().unwrap_or_default() {
        via if via.is_empty() || via == finding.allocator => None,
        via => Some(format!("via {via}")),
    };
    let known: Vec<String> = [object, allocator, via].into_iter().flatten().collect();
    Some(known.join(" ")).filter(|origin| !origin.is_empty())
}

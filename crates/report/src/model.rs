//! The report as data. `SCHEMA.md` describes the same fields as JSON; change both together.

use serde::{Deserialize, Serialize};

/// What one leak check found out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What was called, on one line, such as `zoo.parse_header(b"x: y")`.
    pub subject: String,
    /// The answer.
    pub verdict: Verdict,
    /// One plain sentence that explains the verdict.
    pub reason: String,
    /// What leaks, the most important first.
    pub findings: Vec<Finding>,
    /// Calls of the subject in all, warm-up included.
    pub calls: u64,
    /// The check rules out a leak that happens once in up to this many calls; 0: it rules out
    /// nothing.
    pub period: u64,
    /// Objects of the runtime whose reference counts were compared; 0: none.
    #[serde(default)]
    pub objects: u64,
    /// Wall time of the whole check in seconds.
    #[serde(with = "figure")]
    pub seconds: f64,
    /// What was alive of the memory of the calls when it was looked. The first look is the end of the
    /// warm-up.
    #[serde(default)]
    pub looks: Vec<Look>,
    /// Whether the instrument was shown to work in this process.
    pub control: Control,
    /// What could not be seen here, such as an allocator private to one library.
    pub blind_spots: Vec<String>,
    /// Those of the blind spots that were asked for: parts of the check that could not be done here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_done: Vec<String>,
    /// What else calls have left behind, and what holds it, the largest first. Empty unless it was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<Kept>,
    /// What else the reader should know; never part of the verdict.
    pub remarks: Vec<String>,
    /// Where the check ran.
    pub environment: Environment,
}

/// The memory that calls had left behind at one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// Calls up to then, warm-up included.
    pub calls: u64,
    /// Live blocks.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many of these bytes are mappings.
    pub mapped: u64,
}

/// The answer of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Nothing accumulates, up to [`Report::period`].
    Clean,
    /// At least one [`Finding`] is a leak.
    Leak,
    /// Memory grew and then stopped growing: a cache.
    Bounded,
    /// The check could not decide; [`Report::reason`] says why.
    Indeterminate,
}

/// One leak: one place in the program that leaves something behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// What is left behind.
    pub kind: Kind,
    /// How sure the finding is.
    pub certainty: Certainty,
    /// Whether it should fail a test.
    pub severity: Severity,
    /// Things of this [`Kind`] per call, as an average over all calls: blocks for
    /// [`Kind::Memory`], references, descriptors, threads or objects for the others.
    #[serde(with = "figure")]
    pub blocks_per_call: f64,
    /// Bytes per call, as an average over all calls; 0 where bytes mean nothing.
    #[serde(with = "figure")]
    pub bytes_per_call: f64,
    /// Bytes of each block, when all are alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_size: Option<u64>,
    /// The leak happens exactly once in so many calls; 1: in every call. `None`: not at a fixed
    /// distance, or not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<u64>,
    /// The function that handed the memory out, such as `malloc`, `PyObject_Malloc` or `mmap`.
    /// Empty where there is none.
    pub allocator: String,
    /// The library function that the innermost frame of [`Finding::stack`] called, such as
    /// `strdup` or `PyList_New`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// The Python type of the leaked objects, when known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub type_name: Option<String>,
    /// Objects of that type per call, as an average over all calls. An object may consist of several
    /// blocks, or drag others along.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objects_per_call: Option<f64>,
    /// Some of the things themselves, where they have names: `/dev/null`, `TCP 127.0.0.1:80`,
    /// `Thread-7 (worker)`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<String>,
    /// What still points to the blocks, worded so that it can follow "held by".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// How the blocks are reached from a root of the program: a module, static data, a thread's stack. From there to one of
    /// the blocks, which is the last step. Empty when no root is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub path: Vec<Step>,
    /// The objects refer to each other in a cycle, and their types do not let the garbage collector see it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_cycle: bool,
    /// Memory of such objects goes from one owner to the next without the allocator being asked, so the stack may be
    /// an earlier owner's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub earlier_owner: bool,
    /// The references are those of buffers that were exported (`PyObject_GetBuffer`) and never released.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub buffer_export: bool,
    /// For [`Kind::Reference`] and [`Kind::OverRelease`]: how the references were counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub references: Option<References>,
    /// Where it happened, innermost frame first. Of objects: where they were made, which need not be where they were
    /// lost. Of references: where they were taken, or for [`Kind::OverRelease`] given back; the likeliest place, if there
    /// are several.
    pub stack: Vec<Frame>,
    /// The stacks of further places, the likeliest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<Vec<Frame>>,
    /// Only one of these places is where it happened, and which one is not known; otherwise each is one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub one_of: bool,
    /// Of objects: where references to them are taken and never given back, if that is not where they were made. The
    /// likeliest place first; several: one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept_by: Vec<Vec<Frame>>,
    /// Why there is no stack, worded to follow "because".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack_note: Option<String>,
    /// The finding in one sentence that is complete in itself; [`sentence`](crate::sentence)
    /// writes it.
    pub message: String,
}

/// One step of the way from a root to a block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Step {
    /// What the step before calls it: ``attribute `rows` ``, `item 3`; of the first step the root. Empty: it has no name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What is there: `a list of 3 items`, `a block of 48 bytes`. Empty where the name says it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub what: String,
}

/// Blocks that calls have left behind, at one place, and that are part of no finding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// Live blocks.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The function that handed the memory out.
    pub allocator: String,
    /// The Python type of the objects, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub type_name: Option<String>,
    /// As [`Finding::path`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub path: Vec<Step>,
    /// Where they were allocated, innermost frame first.
    pub stack: Vec<Frame>,
}

/// The references to one object before and after some calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct References {
    /// The calls between.
    pub calls: u64,
    /// Reference count before.
    pub before: i64,
    /// Reference count after.
    pub after: i64,
    /// By how much the references rose that the garbage collector can see.
    pub visible: i64,
    /// By how much the words of memory rose that could be a reference.
    pub words: i64,
    /// So many other places take references and give them back. `None`: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balanced: Option<u64>,
}

/// What a finding counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Blocks of memory.
    Memory,
    /// References to Python objects that were taken and never given back.
    Reference,
    /// References to Python objects that were given back without having been taken.
    OverRelease,
    /// Open file descriptors.
    Fd,
    /// Threads that run, or that have ended and were not joined.
    Thread,
    /// Child processes that run, or that have ended and were not waited for.
    Child,
    /// Names in a folder for temporary files: of files, folders, links, sockets.
    File,
    /// Shared memory, semaphores and message queues, by name (POSIX) or without one (System V).
    Ipc,
    /// Python objects in reference cycles that the collector cannot free.
    Garbage,
}

/// How sure a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Certainty {
    /// Nothing refers to it any more: a proof.
    Lost,
    /// It grew for as long as the check ran, though something may still refer to it.
    Growing,
}

/// What a finding means for a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The test should fail.
    Error,
    /// Worth reading, no reason to fail.
    Warning,
}

/// One line of a call stack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Frame {
    /// The function, demangled; `None` where there is no symbol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// The source file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The line in the source file, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The object file or the Python module.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// Bytes from the start of the module, when there is no symbol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The text of the source line, trimmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Whether this is a Python frame; otherwise it is native code.
    pub python: bool,
    /// Whether the compiler put this function into the one that called it.
    pub inlined: bool,
}

/// The positive control: leaks of known size, planted to see whether they are caught.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Control {
    /// Leaks planted.
    pub planted: u32,
    /// Of these, leaks caught at their exact size.
    pub caught: u32,
    /// What the missed ones were.
    pub missed: Vec<String>,
}

impl Control {
    /// Whether the instrument was checked and missed nothing. Where this is false no result may
    /// be called clean.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.planted > 0 && self.caught >= self.planted && self.missed.is_empty()
    }
}

/// Where a check ran.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Environment {
    /// The language runtime and its version, such as `CPython 3.11.7`.
    pub runtime: String,
    /// The C library and its version, such as `glibc 2.36`.
    pub libc: String,
    /// Processor and system, such as `x86_64-linux`.
    pub platform: String,
    /// The version of Leaktight that made the report.
    pub leaktight: String,
}

/// JSON has no NaN and no infinity (RFC 8259, section 6): such a figure is written as `null`, and
/// `null` is read as NaN, so that one odd figure does not make a whole report unreadable.
mod figure {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(figure: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        Some(*figure).filter(|figure| figure.is_finite()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
    }
}

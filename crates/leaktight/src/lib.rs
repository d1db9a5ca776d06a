//! Finds native memory leaks in what you call.
//!
//! [`check`] calls a closure again and again, counts exactly which blocks each call left behind,
//! and says whether that is a leak, where it was allocated, and whether anything still points to it:
//!
//! ```
//! let report = leaktight::check(|| drop(vec![0u8; 100]));
//! assert_eq!(report.verdict, leaktight::Verdict::Clean, "{report}");
//! ```
//!
//! It sees what goes through `malloc`, `mmap` and their families, in Rust and in C, without
//! recompiling anything. Inside other languages' runtimes the same engine ([`Check::run`]) is given a
//! [`Subject`] that knows how to call, how to settle and how to name objects there.
//!
//! [`heap_info`], [`heap_trim`] and [`allocators`] are what the allocators of the process say of themselves.
//!
//! The way of the data: the subject is called, `hooks` notes allocations in the live set, `run`
//! hands survivors by site and birth to the verdict's judge, `reach` finds out what is lost, `resources`
//! looks after descriptors, threads and the like, `references` after objects that cannot die, and `findings` turns what the judge found
//! into a report, with its `reason`. To miscounted references `places` adds who took them.

mod budget;
mod check;
mod checks;
mod control;
mod findings;
mod groups;
mod holder;
mod kept;
mod limits;
mod makers;
mod names;
mod namespaces;
mod origin;
mod owners;
mod path;
mod places;
mod reach;
mod reason;
mod references;
mod resources;
mod room;
mod run;
mod scan;
mod session;
mod sites;
mod statics;
mod subject;
mod witnesses;
mod words;

pub use check::{Check, Error, check};
pub use checks::Checks;
pub use leaktight_heap::{Allocator, Error as HeapError, HeapInfo, Statistics, allocators, heap_info, heap_trim};
pub use leaktight_hooks::{Options, PatchCount, Threads, is_alive, live_blocks, unless_freed, unwatched, watched};
pub use leaktight_liveset::{Block, Family, MappedVec};
pub use leaktight_memory::own_thread;
pub use leaktight_references::Frozen;
pub use leaktight_report::{
    Certainty, Control, Environment, Finding, Frame, Kept, Kind, Look, Report, Severity, Step, Style, Verdict, counted,
    figure, integer, sentence,
};
pub use leaktight_stacks::{FrameMismatch, Interpreter, PythonFrame};
pub use places::watchpoints;
pub use references::let_go_of_objects;
pub use session::{keep_hooks, what_is_patched};
pub use subject::{Capacity, Description, Planted, Subject, Way};

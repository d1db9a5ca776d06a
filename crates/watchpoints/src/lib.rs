//! Who writes to a word of memory.
//!
//! The processor has debug registers that trap after a write to an address. A [`Watch`] sets them for up to four words
//! on the calling thread, notes each write with its stack, and clears them. What the words mean, and the writes, is
//! the caller's business.
//!
//! ```text
//! Watch::start ──▶ perf events, or a helper that traces us ──▶ the processor
//!                                                                 │ SIGTRAP, in the thread that wrote
//!               Log ◀── memory of our own ◀── handler ◀───────────┘
//! ```
//!
//! There are two ways to set the registers ([`Way`]): `perf_event_open` (Linux 5.13), and, where that is forbidden, a
//! helper that attaches to its parent by ptrace, writes the registers and lets go; they stay set. Either way SIGTRAP
//! has one handler in a process, so there is one `Watch` at a time, and none where somebody else handles that signal.
//!
//! Here live signals, system calls, and memory that the handler writes to. No function that may be hooked is called,
//! and no allocator. Linux on x86-64 and aarch64; on another processor everything is refused ([`Refusal::Processor`]).
//! What is told of a write is the same on both, though aarch64 traps before it.
//!
//! # What is not seen
//!
//! Writes by other threads, by the kernel (`read` into the word), and by processes that share the memory. They show
//! only as a difference: the next write that is seen starts from another value than the last one left.

mod helper;
mod kernel;
mod log;
mod noter;
mod perf;
mod refusal;
mod setting;
mod signal;
mod step;
mod watch;

#[cfg(target_arch = "aarch64")]
#[path = "aarch64.rs"]
mod processor;
#[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
#[path = "other.rs"]
mod processor;
#[cfg(target_arch = "x86_64")]
#[path = "x86_64.rs"]
mod processor;

pub use log::{Log, Write};
pub use noter::{Capture, Interrupted};
pub use refusal::Refusal;
pub use watch::{MOST_WORDS, Options, Watch, Way, Width, Word, watched};

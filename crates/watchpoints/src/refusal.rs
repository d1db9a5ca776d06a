//! Why nothing is watched.

use std::io::Error;

use crate::watch::MOST_WORDS;

/// Why words cannot be watched. Nothing is left changed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// No word, or more than [`MOST_WORDS`].
    Count(usize),
    /// The address is no multiple of the word's length, or nothing is mapped there.
    Address(usize),
    /// Not on this processor.
    Processor,
    /// Somebody watches already, in this thread or another.
    Busy,
    /// The process with this number traces the calling thread, and would get the traps: a debugger, or strace.
    Traced(u32),
    /// Somebody handles SIGTRAP, or has blocked it and one is waiting.
    Handled,
    /// Debug registers are set already, by a debugger or by other perf events.
    InUse,
    /// There are no debug registers here, or the system does not give them.
    NoRegisters(Error),
    /// Registers can be set, but a write raises no trap, as under some hypervisors and emulators.
    NoTrap,
    /// The system forbids both ways; where only one was to be tried, the other is `None`.
    Forbidden {
        /// What `perf_event_open` was answered.
        perf: Option<Error>,
        /// What a helper was answered that attached by ptrace, or that could not be started.
        ptrace: Option<Error>,
    },
    /// No memory for the log.
    OutOfMemory,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Count(count) => write!(f, "{count} words are to be watched, and 1 to {MOST_WORDS} can be"),
            Refusal::Address(address) => write!(f, "{address:#x} is not the address of a word"),
            Refusal::Processor => f.write_str("this processor is not supported"),
            Refusal::Busy => f.write_str("the process watches other words already"),
            Refusal::Traced(by) => write!(f, "process {by} traces this one, such as a debugger"),
            Refusal::Handled => f.write_str("somebody else handles SIGTRAP"),
            Refusal::InUse => f.write_str("the debug registers are in use"),
            Refusal::NoRegisters(why) => write!(f, "the system gives no debug registers: {why}"),
            Refusal::NoTrap => f.write_str("debug registers have no effect here, as in some virtual machines"),
            Refusal::Forbidden { perf, ptrace } => {
                f.write_str("the system forbids it: ")?;
                let ways = [("perf_event_open", perf), ("ptrace", ptrace)];
                let told = ways.iter().filter_map(|(way, why)| Some((way, why.as_ref()?)));
                for (at, (way, why)) in told.enumerate() {
                    write!(f, "{}{way}: {why}", if at > 0 { "; " } else { "" })?;
                }
                Ok(())
            }
            Refusal::OutOfMemory => f.write_str("no memory left for the log of writes"),
        }
    }
}

impl std::error::Error for Refusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Refusal::NoRegisters(why) => Some(why),
            Refusal::Forbidden { perf, ptrace } => Some(ptrace.as_ref().or(perf.as_ref())?),
            _ => None,
        }
    }
}

//! Standing in front of a function at its entry: whoever calls it, by whatever pointer, comes to the hook first.
//!
//! A detour replaces the first instructions of a function by a jump to a hook, and keeps a copy of them, the
//! *trampoline*, through which the hook calls the original. [`prepare`] writes trampolines and changes nothing that
//! runs; [`put_in`] and [`take_out`] change the entries, by one aligned store of eight bytes each, which processors
//! fetch as a whole (AMD64 Architecture Programmer's Manual, volume 2, 7.6.1). Before the first of these stores no
//! other thread may be *between* the replaced instructions: `others` sees to that.
//!
//! Trampolines are never unmapped: a thread may be in one for as long as it likes.
//!
//! Here live machine code, page protections and the other threads; which functions, and what for, is the hooks'
//! business. x86-64 Linux; on another processor everything is refused, and the caller goes another way.

mod entry;
mod near;
mod others;
#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(not(target_arch = "x86_64"))]
mod x86_64 {
    //! No other processor yet.
    use crate::{Function, Refusal};

    pub(crate) const LONGEST: usize = 0;

    pub(crate) fn trampoline(_: Function, _: usize, _: usize) -> Result<(Vec<u8>, usize), Refusal> {
        Err(Refusal::Processor)
    }

    pub(crate) fn jump(_: usize, _: usize) -> Option<[u8; 5]> {
        None
    }
}

pub use entry::{Detour, Function, Refusal, prepare, put_in, take_out};

//! No other processor yet.
//!
//! aarch64 has watchpoints, too: by perf, and by ptrace with `PTRACE_SETREGSET` and `NT_ARM_HW_WATCH`, where the debugged
//! thread must step over the instruction itself. But the trap comes *before* the write (Arm Architecture Reference
//! Manual, D2.10.5), so the handler cannot read the new value: each write would be completed by the next trap, or
//! by the end.

use std::ffi::c_int;

use crate::kernel::Errno;
use crate::watch::Word;

pub(crate) const SUPPORTED: bool = false;

#[derive(Clone, Copy)]
pub(crate) struct Registers;

impl Registers {
    pub(crate) const CLEAR: Registers = Registers;

    pub(crate) fn new(_: &[Word]) -> Registers {
        Registers
    }

    pub(crate) fn write(&self, _: c_int) -> Result<(), Errno> {
        Err(libc::ENOSYS)
    }
}

pub(crate) fn registers(_: &libc::ucontext_t) -> [usize; 3] {
    [0; 3]
}

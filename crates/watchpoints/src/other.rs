//! No other processor yet.

use std::ffi::c_int;

use crate::kernel::Errno;
use crate::step::Next;
use crate::watch::Word;

pub(crate) const SUPPORTED: bool = false;
pub(crate) const TRAPS_BEFORE: bool = false;

#[derive(Clone, Copy)]
pub(crate) struct Registers;

impl Registers {
    pub(crate) const CLEAR: Registers = Registers;

    pub(crate) fn new(_: &[Word]) -> Registers {
        Registers
    }

    pub(crate) fn at(_: usize) -> Registers {
        Registers
    }

    pub(crate) fn write(&self, _: c_int) -> Result<(), Errno> {
        Err(libc::ENOSYS)
    }
}

pub(crate) fn registers(_: &libc::ucontext_t) -> [usize; 4] {
    [0; 4]
}

pub(crate) fn next(_: usize) -> Next {
    Next::Done
}

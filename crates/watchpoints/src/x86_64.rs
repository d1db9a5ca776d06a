//! The debug registers of x86-64 (AMD64 Architecture Programmer's Manual, volume 2, 13.1.1): DR0 to DR3 hold addresses,
//! DR7 says what they are for. The trap comes after the instruction that wrote, so the program counter stands behind
//! it, and the new value is in memory.

use std::ffi::c_int;
use std::mem::offset_of;

use crate::kernel::{Errno, call};
use crate::step::Next;
use crate::watch::{MOST_WORDS, Width, Word};

/// Whether this file knows how.
pub(crate) const SUPPORTED: bool = true;

/// Whether a trap comes before the write.
pub(crate) const TRAPS_BEFORE: bool = false;

/// What goes into the registers.
#[derive(Clone, Copy)]
pub(crate) struct Registers {
    addresses: [usize; MOST_WORDS],
    control: usize,
}

impl Registers {
    /// All clear.
    pub(crate) const CLEAR: Registers = Registers {
        addresses: [0; MOST_WORDS],
        control: 0,
    };

    /// Traps after writes to these words, at most [`MOST_WORDS`].
    pub(crate) fn new(words: &[Word]) -> Registers {
        const WRITES: usize = 0b01;
        let mut registers = Registers::CLEAR;
        for (at, word) in words.iter().enumerate() {
            let length = match word.width {
                Width::Four => 0b11,
                Width::Eight => 0b10,
            };
            registers.addresses[at] = word.address;
            registers.control |= 1 << (2 * at) | (length << 2 | WRITES) << (16 + 4 * at);
        }
        registers
    }

    /// No step ever ends.
    pub(crate) fn at(_: usize) -> Registers {
        Registers::CLEAR
    }

    /// Writes them into a stopped thread that the caller traces. `EBUSY` where others are set already.
    pub(crate) fn write(&self, thread: c_int) -> Result<(), Errno> {
        const CONTROL: usize = 7;
        if self.control == 0 {
            return poke(thread, CONTROL, 0);
        }
        if peek(thread, CONTROL)? != 0 {
            return Err(libc::EBUSY);
        }
        let count = self.addresses.iter().take_while(|address| **address != 0).count();
        for (at, address) in self.addresses[..count].iter().enumerate() {
            poke(thread, at, *address)?;
        }
        poke(thread, CONTROL, self.control)
    }
}

/// Where a debug register lies in `struct user` (sys/user.h).
fn offset(register: usize) -> usize {
    offset_of!(libc::user, u_debugreg) + register * size_of::<usize>()
}

fn peek(thread: c_int, register: usize) -> Result<usize, Errno> {
    let mut value = 0usize;
    let arguments = [
        libc::PTRACE_PEEKUSER as usize,
        thread as usize,
        offset(register),
        &raw mut value as usize,
        0,
        0,
    ];
    // SAFETY: the system call itself, unlike libc's function, stores what it reads at its fourth argument (ptrace(2)).
    unsafe { call(libc::SYS_ptrace, arguments) }?;
    Ok(value)
}

fn poke(thread: c_int, register: usize, value: usize) -> Result<(), Errno> {
    let arguments = [
        libc::PTRACE_POKEUSER as usize,
        thread as usize,
        offset(register),
        value,
        0,
        0,
    ];
    // SAFETY: sets a debug register of a traced thread, whose handler for the traps is in place.
    unsafe { call(libc::SYS_ptrace, arguments) }.map(drop)
}

/// Program counter, stack pointer and frame pointer; there is no link register.
pub(crate) fn registers(context: &libc::ucontext_t) -> [usize; 4] {
    let [pc, sp, fp] = [libc::REG_RIP, libc::REG_RSP, libc::REG_RBP];
    let register = |register: c_int| context.uc_mcontext.gregs[register as usize] as usize;
    [register(pc), register(sp), register(fp), 0]
}

/// Where the write ends that a trap at this address tells of.
pub(crate) fn next(_program_counter: usize) -> Next {
    Next::Done
}

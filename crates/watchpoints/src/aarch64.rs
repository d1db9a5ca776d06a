//! The debug registers of aarch64 (Arm Architecture Reference Manual, D2.10): watchpoints for the words, and a breakpoint
//! for the end of a step. The trap comes *before* the instruction that writes, so each write is stepped over
//! ([`step`](crate::step)).

use std::ffi::c_int;

use crate::kernel::{self, Errno, call};
use crate::step::Next;
use crate::watch::{MOST_WORDS, Width, Word};

/// Whether this file knows how.
pub(crate) const SUPPORTED: bool = true;

/// Whether a trap comes before the write.
pub(crate) const TRAPS_BEFORE: bool = true;

/// What goes into the registers.
#[derive(Clone, Copy)]
pub(crate) struct Registers {
    watchpoints: [Register; MOST_WORDS],
    breakpoint: Register,
}

/// One of `dbg_regs` in `struct user_hwdebug_state` (asm/ptrace.h).
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Register {
    address: u64,
    control: u32,
    unused: u32,
}

impl Register {
    const CLEAR: Register = Register {
        address: 0,
        control: 0,
        unused: 0,
    };

    /// `bytes`: a bit for each byte from the address on (DBGWCR<n>_EL1.BAS).
    fn new(address: usize, bytes: u32, kind: u32) -> Register {
        const ENABLED: u32 = 1;
        const IN_USER_MODE: u32 = 0b10 << 1;
        Register {
            address: address as u64,
            control: bytes << 5 | kind << 3 | IN_USER_MODE | ENABLED,
            unused: 0,
        }
    }

    fn is_enabled(&self) -> bool {
        self.control & 1 != 0
    }
}

impl Registers {
    /// All clear.
    pub(crate) const CLEAR: Registers = Registers {
        watchpoints: [Register::CLEAR; MOST_WORDS],
        breakpoint: Register::CLEAR,
    };

    /// Traps before writes to these words, at most [`MOST_WORDS`].
    pub(crate) fn new(words: &[Word]) -> Registers {
        const WRITES: u32 = 0b10;
        let mut registers = Registers::CLEAR;
        for (register, word) in registers.watchpoints.iter_mut().zip(words) {
            let bytes = match word.width {
                Width::Four => 0x0f,
                Width::Eight => 0xff,
            };
            *register = Register::new(word.address, bytes, WRITES);
        }
        registers
    }

    /// Traps before the instruction at this address, and at no write.
    pub(crate) fn at(address: usize) -> Registers {
        const EXECUTES: u32 = 0b00;
        const INSTRUCTION: u32 = 0x0f;
        Registers {
            breakpoint: Register::new(address, INSTRUCTION, EXECUTES),
            ..Registers::CLEAR
        }
    }

    /// Writes them into a stopped thread that the caller traces. `EBUSY` where others watch already.
    pub(crate) fn write(&self, thread: c_int) -> Result<(), Errno> {
        let watches = self.watchpoints[0].is_enabled();
        if watches && Set::of(thread, WATCHPOINTS)?.enabled() > 0 {
            return Err(libc::EBUSY);
        }
        // The first that is set tells the kernel to keep a register for the thread, so none is that need not be.
        let count = self
            .watchpoints
            .iter()
            .take_while(|register| register.is_enabled())
            .count();
        Set::replace(thread, WATCHPOINTS, &self.watchpoints[..count])?;
        let count = usize::from(self.breakpoint.is_enabled());
        Set::replace(thread, BREAKPOINTS, &[self.breakpoint][..count])
    }
}

/// `NT_ARM_HW_BREAK` and `NT_ARM_HW_WATCH` (linux/elf.h).
const BREAKPOINTS: usize = 0x402;
const WATCHPOINTS: usize = 0x403;

/// `struct user_hwdebug_state`.
#[repr(C)]
struct Set {
    info: u32,
    unused: u32,
    registers: [Register; 16],
}

impl Set {
    fn of(thread: c_int, which: usize) -> Result<Set, Errno> {
        let mut set = Set {
            info: 0,
            unused: 0,
            registers: [Register::CLEAR; 16],
        };
        set.exchange(libc::PTRACE_GETREGSET, thread, which, size_of::<Set>())?;
        Ok(set)
    }

    /// Up to the last one that is enabled.
    fn enabled(&self) -> usize {
        let last = self.registers.iter().rposition(Register::is_enabled);
        last.map_or(0, |last| last + 1)
    }

    /// Sets these registers, and clears the others.
    fn replace(thread: c_int, which: usize, registers: &[Register]) -> Result<(), Errno> {
        let mut set = Set::of(thread, which)?;
        let count = set.enabled().max(registers.len());
        set.registers = [Register::CLEAR; 16];
        set.registers[..registers.len()].copy_from_slice(registers);
        if count == 0 {
            return Ok(());
        }
        let bytes = std::mem::offset_of!(Set, registers) + count * size_of::<Register>();
        set.exchange(libc::PTRACE_SETREGSET, thread, which, bytes)
    }

    fn exchange(&mut self, request: libc::c_uint, thread: c_int, which: usize, bytes: usize) -> Result<(), Errno> {
        let mut vector = [(&raw mut *self) as usize, bytes];
        let arguments = [
            request as usize,
            thread as usize,
            which,
            (&raw mut vector) as usize,
            0,
            0,
        ];
        // SAFETY: reads or stores at most so many bytes of `self` (ptrace(2)); the handler for the traps is in place.
        unsafe { call(libc::SYS_ptrace, arguments) }.map(drop)
    }
}

/// Program counter, stack pointer, frame pointer and link register.
pub(crate) fn registers(context: &libc::ucontext_t) -> [usize; 4] {
    let saved = &context.uc_mcontext;
    [saved.pc, saved.sp, saved.regs[29], saved.regs[30]].map(|register| register as usize)
}

/// Where the write ends that a trap at this address tells of.
///
/// Before Linux 6.11 perf tells of it by an interrupt, which may be later than the write: then an instruction stands here
/// that does not write. One that may is taken for the one that will, and if it is another, the step is one instruction
/// longer than need be.
pub(crate) fn next(program_counter: usize) -> Next {
    let [before, here, behind] = [-4, 0, 4].map(|distance| instruction(program_counter.wrapping_add_signed(distance)));
    match here {
        Some(store) if is_store_exclusive(store) => match behind {
            // A store-exclusive fails once after each trap: the loop around it must come to its end (LDXR in the manual).
            Some(branch) if is_retry(store, branch) => Next::At(program_counter + 8),
            _ => Next::Unknown,
        },
        Some(branch) if before.is_some_and(|store| is_retry(store, branch)) => Next::At(program_counter + 4),
        Some(other) if !may_write(other) => Next::Done,
        _ => Next::At(program_counter + 4),
    }
}

fn instruction(address: usize) -> Option<u32> {
    kernel::read_word(address, Width::Four).map(|word| word as u32)
}

/// Whether an instruction is of those that write to memory, or read it (C4.1 in the manual: loads and stores, those of SVE and
/// SME, and DC ZVA, GVA and GZVA). None of them branches.
fn may_write(instruction: u32) -> bool {
    let is_load_or_store = instruction & 0x0a00_0000 == 0x0800_0000;
    let is_of_vectors = matches!(instruction >> 25, 0b111_0000 | 0b111_0010);
    let zeroes = instruction & 0xffff_ff00 == 0xd50b_7400;
    is_load_or_store || is_of_vectors || zeroes
}

/// STXR and STLXR of all widths, and STXP and STLXP.
fn is_store_exclusive(instruction: u32) -> bool {
    instruction & 0x3fe0_0000 == 0x0800_0000 || instruction & 0xbfe0_0000 == 0x8820_0000
}

/// Whether the branch goes back if the store-exclusive before it has failed: CBNZ with its status register.
fn is_retry(store: u32, branch: u32) -> bool {
    const BACKWARD: u32 = 1 << 23;
    let status = store >> 16 & 31;
    is_store_exclusive(store) && branch & 0x7f00_0000 == 0x3500_0000 && branch & BACKWARD != 0 && branch & 31 == status
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As objdump of GNU binutils 2.40 tells them.
    const STORES: [(u32, &str); 14] = [
        (0xf901_2260, "str x0, [x19, #576]"),
        (0xb900_0020, "str w0, [x1]"),
        (0xf81f_8c20, "str x0, [x1, #-8]!"),
        (0xf800_8420, "str x0, [x1], #8"),
        (0xf802_0020, "stur x0, [x1, #32]"),
        (0xf822_6820, "str x0, [x1, x2]"),
        (0xa900_0440, "stp x0, x1, [x2]"),
        (0xad00_0440, "stp q0, q1, [x2]"),
        (0x3d80_0020, "str q0, [x1]"),
        (0xc89f_fc20, "stlr x0, [x1]"),
        (0xf8e0_0020, "ldaddal x0, x0, [x1]"),
        (0xc8e0_fc41, "casal x0, x1, [x2]"),
        (0x4c00_7000, "st1 {v0.16b}, [x0]"),
        (0xd50b_7420, "dc zva, x0"),
    ];

    #[test]
    fn what_writes_is_known_from_what_does_not() {
        for (instruction, text) in STORES {
            assert!(may_write(instruction) && !is_store_exclusive(instruction), "{text}");
        }
        let others = [
            (0x9100_0400, "add x0, x0, #1"),
            (0xaa01_03e0, "mov x0, x1"),
            (0x1400_0001, "b .+4"),
            (0x9400_0001, "bl .+4"),
            (0x35ff_ff80, "cbnz w0, .-16"),
            (0xd65f_03c0, "ret"),
            (0xd503_201f, "nop"),
            (0xd503_233f, "paciasp"),
            (0x1e62_2820, "fadd d0, d1, d2"),
            (0x4ea1_1c20, "mov v0.16b, v1.16b"),
            (0xd400_0001, "svc #0"),
        ];
        for (instruction, text) in others {
            assert!(!may_write(instruction), "{text}");
        }
    }

    #[test]
    fn a_store_exclusive_is_stepped_over_with_its_loop() {
        // stxr w2, x1, [x0]; stlxr w2, w1, [x0]; stlxp w4, x2, x3, [x0]
        for store in [0xc802_7c01, 0x8802_fc01, 0xc824_8c02u32] {
            assert!(is_store_exclusive(store) && may_write(store), "{store:#x}");
            let status = store >> 16 & 31;
            let [back, forth] = [0x35ff_ff80, 0x3500_0080].map(|branch| branch | status);
            assert!(is_retry(store, back) && !is_retry(store, forth) && !is_retry(store, back ^ 1));
            let code = [0xd503_201f, store, back, 0xd65f_03c0];
            let start = code.as_ptr() as usize;
            assert_eq!(next(start + 4), Next::At(start + 12));
            // Told late.
            assert_eq!(next(start + 8), Next::At(start + 12));
            let code = [0xd503_201f, store, 0xd503_201f, 0xd65f_03c0];
            assert_eq!(next(code.as_ptr() as usize + 4), Next::Unknown);
        }
        // ldxr x0, [x1]; ldaxp x0, x1, [x2]; casp x0, x1, x2, x3, [x4]
        for other in [0xc85f_7c20, 0xc87f_8440, 0x4820_7c82u32] {
            assert!(!is_store_exclusive(other) && may_write(other), "{other:#x}");
        }
    }

    #[test]
    fn other_instructions_are_stepped_over_by_themselves() {
        let code = [0xd503_201f, STORES[0].0, 0xd503_201f];
        let start = code.as_ptr() as usize;
        assert_eq!(next(start + 4), Next::At(start + 8));
        assert_eq!(next(start + 8), Next::Done);
    }
}

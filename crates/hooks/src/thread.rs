//! What the hooks remember of each thread, in thread-local storage that is there from the start.
//!
//! `thread_local!` in a shared object asks `__tls_get_addr`, which allocates a thread's copy at its first
//! use. On a program that is not position-independent that allocation comes back to our `malloc` hook by
//! way of the program's own PLT, and so on without end (glibc, elf/dl-tls.c). With the initial-exec model the
//! copy is part of every thread's static TLS block. Stable Rust has no attribute for it, hence the assembly.

use std::cell::Cell;

/// Zero for every new thread.
#[repr(C)]
pub(crate) struct Thread {
    /// Bit 0: inside a hook. The rest counts nested `unwatched` in steps of 2.
    pub guard: Cell<u32>,
    /// The session that the thread belongs to; it is own in that one only.
    pub session: Cell<u32>,
    /// The call that started the thread; 0 for the thread that was there first.
    pub started_in: Cell<u32>,
    /// An address in the stack frame of `watched`; 0 outside of it.
    pub outermost: Cell<usize>,
    /// Where `vfork` is to return to, in the parent and in the child, which share this record; 0 when it does not run.
    pub vfork_return: Cell<usize>,
}

const _: () = assert!(size_of::<Thread>() <= 32);

std::arch::global_asm!(
    ".pushsection .tbss.leaktight_hooks_thread,\"awT\",@nobits",
    ".balign 16",
    ".globl leaktight_hooks_thread",
    ".hidden leaktight_hooks_thread",
    ".type leaktight_hooks_thread, @object",
    ".size leaktight_hooks_thread, 32",
    "leaktight_hooks_thread:",
    ".zero 32",
    ".popsection",
);

/// The calling thread's record. The reference must not be handed to another thread; `Cell` sees to that.
#[inline(always)]
pub(crate) fn thread<'a>() -> &'a Thread {
    let record: *const Thread;
    // SAFETY: computes an address (ELF Handling For Thread-Local Storage, initial exec), touching no memory
    // but the GOT.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!(
            "mov {0}, qword ptr [rip + leaktight_hooks_thread@GOTTPOFF]",
            "add {0}, qword ptr fs:[0]",
            out(reg) record,
            options(pure, readonly, nostack)
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!(
            "adrp {0}, :gottprel:leaktight_hooks_thread",
            "ldr {0}, [{0}, :gottprel_lo12:leaktight_hooks_thread]",
            "mrs {1}, tpidr_el0",
            "add {0}, {0}, {1}",
            out(reg) record,
            out(reg) _,
            options(pure, readonly, nostack)
        );
    }
    // SAFETY: 32 zeroed bytes for each thread, valid as `Thread`, and alive as long as the thread runs code.
    unsafe { &*record }
}

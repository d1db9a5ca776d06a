//! `vfork`, which returns twice on one stack.
//!
//! A function that calls it and returns would leave its frame to be overwritten by the child. So the code here
//! keeps nothing on the stack: the return address goes into the thread's record, which parent and child share,
//! and is taken from there both times. Until the parent goes on, the child, which runs in the parent's memory,
//! leaves no marks.

use std::ffi::c_int;
use std::sync::atomic::AtomicUsize;

use crate::children::parent_of;
use crate::state::own_session;
use crate::thread::thread;

/// The function that serves `vfork` in this process.
pub(crate) static VFORK: AtomicUsize = AtomicUsize::new(0);

/// Whether the calling thread is a child that still runs in its parent's memory.
#[inline(always)]
pub(crate) fn is_in_child() -> bool {
    thread().vfork_return.get() != 0
}

// The real function has its own return address in a register during the system call (glibc,
// sysdeps/unix/sysv/linux/x86_64/vfork.S), so what the child does to the stack does not matter to it either.
// Once it is back in the parent, the stack is put as the caller left it, and the child is noted from there.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn vfork() -> c_int {
    std::arch::naked_asm!(
        ".cfi_startproc",
        "mov rdi, [rsp]",
        "sub rsp, 8", // Calls are made with a stack pointer that is a multiple of 16 (System V ABI).
        "call {begins}",
        "add rsp, 8",
        "test eax, eax",
        "jz 2f",
        "add rsp, 8",
        "call qword ptr [rip + {real}]",
        "push rax",
        "push rax",
        "mov edi, eax",
        "call {returns_to}",
        "mov rcx, rax",
        "pop rax",
        "pop rax",
        "test eax, eax",
        "jz 3f",
        "push rcx",
        "push rax",
        ".cfi_adjust_cfa_offset 8",
        "mov edi, eax",
        "call {parent_of}",
        "pop rax",
        ".cfi_adjust_cfa_offset -8",
        "ret",
        "2:",
        "jmp qword ptr [rip + {real}]",
        "3:",
        "jmp rcx",
        ".cfi_endproc",
        begins = sym begins,
        returns_to = sym returns_to,
        parent_of = sym note_child,
        real = sym VFORK,
    )
}

#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn vfork() -> c_int {
    std::arch::naked_asm!(
        ".cfi_startproc",
        "stp x29, x30, [sp, #-16]!",
        "mov x0, x30",
        "bl {begins}",
        "ldp x29, x30, [sp], #16",
        "adrp x16, {real}",
        "ldr x16, [x16, :lo12:{real}]",
        "cbz w0, 2f",
        "blr x16",
        "stp x0, x0, [sp, #-16]!",
        "bl {returns_to}",
        "mov x30, x0",
        "ldp x0, x1, [sp], #16",
        "cbz w0, 3f",
        "stp x29, x30, [sp, #-32]!",
        ".cfi_def_cfa_offset 32",
        ".cfi_offset x29, -32",
        ".cfi_offset x30, -24",
        "str x0, [sp, #16]",
        "bl {parent_of}",
        "ldr x0, [sp, #16]",
        "ldp x29, x30, [sp], #32",
        ".cfi_def_cfa_offset 0",
        ".cfi_restore x29",
        ".cfi_restore x30",
        "3:",
        "ret",
        "2:",
        "br x16",
        ".cfi_endproc",
        begins = sym begins,
        returns_to = sym returns_to,
        parent_of = sym note_child,
        real = sym VFORK,
    )
}

/// Whether the real function is to come back to us. Not from a child that calls `vfork` itself: the record has
/// room for one.
extern "C" fn begins(return_to: usize) -> c_int {
    if is_in_child() || own_session().0 == 0 {
        return 0;
    }
    thread().vfork_return.set(return_to);
    1
}

/// Called in the child first, which must leave the record as it is, then in the parent.
extern "C" fn returns_to(child: c_int) -> usize {
    let record = &thread().vfork_return;
    let return_to = record.get();
    if child != 0 {
        record.set(0);
    }
    return_to
}

extern "C" fn note_child(child: c_int) {
    parent_of(child);
}

//! System calls that pass no function of libc, which may be hooked: the hook may be where we come from, or wait for a
//! lock that we hold.

use std::arch::asm;

/// Makes a system call; returns what the kernel does, which for an error is a small negative number.
///
/// # Safety
///
/// What the system call does is sound.
#[cfg(target_arch = "x86_64")]
pub unsafe fn system_call(number: libc::c_long, [a, b, c, d, e, f]: [usize; 6]) -> usize {
    let result;
    // SAFETY: the kernel's calling convention (syscall(2)); the rest is the caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as usize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    result
}

/// Makes a system call; returns what the kernel does, which for an error is a small negative number.
///
/// # Safety
///
/// What the system call does is sound.
#[cfg(target_arch = "aarch64")]
pub unsafe fn system_call(number: libc::c_long, [a, b, c, d, e, f]: [usize; 6]) -> usize {
    let result;
    // SAFETY: as above.
    unsafe {
        asm!(
            "svc 0",
            in("x8") number as usize,
            inlateout("x0") a => result,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            options(nostack)
        );
    }
    result
}

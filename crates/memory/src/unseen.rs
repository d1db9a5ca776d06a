//! Memory that only the kernel knows of, for the control of those who ask it.

use std::arch::asm;

/// A mapping made by a system call of our own, which passes no function of libc. Unmapped on drop.
#[derive(Debug)]
pub struct Unseen {
    start: usize,
    len: usize,
}

impl Unseen {
    /// Maps `len` bytes, whole pages; `None` if the kernel gives none.
    pub fn map(len: usize) -> Option<Unseen> {
        let (rights, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
        let start = unsafe { call(libc::SYS_mmap, [0, len, rights as usize, flags as usize, usize::MAX, 0]) };
        // The kernel returns errors as small negative numbers.
        (start < -4095isize as usize).then_some(Unseen { start, len })
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, and nobody knows of it.
        unsafe { call(libc::SYS_munmap, [self.start, self.len, 0, 0, 0, 0]) };
    }
}

/// # Safety
///
/// What the system call does is sound.
#[cfg(target_arch = "x86_64")]
unsafe fn call(number: libc::c_long, [a, b, c, d, e, f]: [usize; 6]) -> usize {
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

/// # Safety
///
/// What the system call does is sound.
#[cfg(target_arch = "aarch64")]
unsafe fn call(number: libc::c_long, [a, b, c, d, e, f]: [usize; 6]) -> usize {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maps::mapping_around;

    #[test]
    fn it_is_mapped_as_long_as_it_lives() {
        let unseen = Unseen::map(1 << 16).unwrap();
        let at = unseen.start;
        assert!(mapping_around(at).is_some_and(|(start, end)| start <= at && at + (1 << 16) <= end));
        assert!(Unseen::map(usize::MAX & !4095).is_none());
    }
}

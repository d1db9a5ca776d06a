//! Memory for code close to other code: relative jumps and addresses reach two gigabytes.

use crate::entry::Refusal;
use crate::x86_64::LONGEST;

const LEN: usize = 4096;
/// So far, with room to spare, everything in a page reaches everything around a function, and back.
const REACH: usize = 1 << 30;

/// A page of trampolines, writable until it is sealed and executable from then on.
pub(crate) struct Page {
    start: usize,
    used: usize,
}

impl Page {
    /// Maps a page near `address`.
    pub(crate) fn near(address: usize) -> Result<Page, Refusal> {
        const STEP: usize = 16 << 20;
        const NOREPLACE: libc::c_int = libc::MAP_FIXED_NOREPLACE;
        let base = address & !(LEN - 1);
        let places = (1..REACH / STEP).flat_map(|step| [base.checked_sub(step * STEP), base.checked_add(step * STEP)]);
        for place in places.flatten() {
            let (prot, flags) = (
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            );
            // SAFETY: a new mapping that replaces none. By system call, since `mmap` itself may be detoured.
            let got = unsafe { libc::syscall(libc::SYS_mmap, place, LEN, prot, flags | NOREPLACE, -1, 0usize) };
            let start = got as usize;
            match got {
                -1 => {}
                // Kernels that do not know the flag take the address for a wish.
                _ if start.abs_diff(address) < REACH => return Ok(Page { start, used: 0 }),
                // SAFETY: mapped above.
                _ => unsafe {
                    libc::syscall(libc::SYS_munmap, start, LEN);
                },
            }
        }
        Err(Refusal::System(std::io::Error::from(std::io::ErrorKind::OutOfMemory)))
    }

    /// Whether there is room for one more, for a function at `address`.
    pub(crate) fn serves(&self, address: usize) -> bool {
        self.used + LONGEST <= LEN && self.start.abs_diff(address) < REACH
    }

    /// Where the next bytes will lie.
    pub(crate) fn next(&self) -> usize {
        self.start + self.used
    }

    /// Lays code down; returns its address.
    pub(crate) fn put(&mut self, code: &[u8]) -> Result<usize, Refusal> {
        let at = self.next();
        if self.used + code.len() > LEN {
            return Err(Refusal::Shape("its first instructions are too long"));
        }
        // SAFETY: mapped in `near`, not executable yet, and within its length.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), at as *mut u8, code.len()) };
        self.used = (self.used + code.len()).next_multiple_of(16);
        Ok(at)
    }

    /// Makes the code executable.
    pub(crate) fn seal(self) -> Result<(), Refusal> {
        // SAFETY: mapped in `near`, whole.
        match unsafe { libc::mprotect(self.start as *mut libc::c_void, LEN, libc::PROT_READ | libc::PROT_EXEC) } {
            0 => Ok(()),
            _ => Err(Refusal::System(std::io::Error::last_os_error())),
        }
    }
}

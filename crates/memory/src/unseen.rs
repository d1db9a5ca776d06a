//! Memory that only the kernel knows of, for the control of those who ask it.

use leaktight_liveset::system_call;

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
        let start = unsafe { system_call(libc::SYS_mmap, [0, len, rights as usize, flags as usize, usize::MAX, 0]) };
        // The kernel returns errors as small negative numbers.
        (start < -4095isize as usize).then_some(Unseen { start, len })
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, and nobody knows of it.
        unsafe { system_call(libc::SYS_munmap, [self.start, self.len, 0, 0, 0, 0]) };
    }
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

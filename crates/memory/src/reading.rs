//! Reading memory that is not ours.

use std::cell::OnceCell;
use std::fs::File;
use std::io::Result;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

/// Reads this process's memory through the kernel.
pub struct Memory {
    /// Where the kernel does not serve process_vm_readv(2) here, as under some sandboxes.
    file: Option<File>,
    forced: OnceCell<Option<File>>,
}

/// The kernel takes no more at a time (IOV_MAX).
const MOST_PIECES: usize = 1024;

impl Memory {
    /// Finds a way to read.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn open() -> Result<Memory> {
        static SERVED: OnceLock<bool> = OnceLock::new();
        let served = *SERVED.get_or_init(|| {
            let (word, mut copy) = (0x6c65_616b_7469_6768_u64, [0; 8]);
            let way = Memory::by(None);
            way.transfer(&[(&raw const word as usize, 8)], &mut copy) == 8 && copy == word.to_ne_bytes()
        });
        let file = if served {
            None
        } else {
            Some(File::open("/proc/self/mem")?)
        };
        Ok(Memory::by(file))
    }

    fn by(file: Option<File>) -> Memory {
        Memory {
            file,
            forced: OnceCell::new(),
        }
    }

    /// Fills `buffer` from `address`; what cannot be read is zero.
    pub fn read(&self, address: usize, buffer: &mut [u8]) {
        let (mut done, end) = (0, buffer.len());
        while done < buffer.len() {
            let at = address + done;
            done += self.transfer(&[(at, buffer.len() - done)], &mut buffer[done..]);
            if done < buffer.len() {
                // A page that is protected can be read by another way (`FOLL_FORCE`); one that is gone cannot.
                let next = (address + done + 1).next_multiple_of(page_size()) - address;
                let page = &mut buffer[done..next.min(end)];
                page.fill(0);
                if let Some(file) = self.forced() {
                    let _ = file.read_exact_at(page, (address + done) as u64);
                }
                done += page.len();
            }
        }
    }

    /// The word at `address`, if it can be read.
    pub fn try_word(&self, address: usize) -> Option<usize> {
        let mut bytes = [0; size_of::<usize>()];
        let got = self.transfer(&[(address, bytes.len())], &mut bytes);
        (got == bytes.len()).then(|| usize::from_ne_bytes(bytes))
    }

    /// Reads pieces, given as start and length in bytes, one behind the other into `buffer`, until one cannot be read
    /// whole or the buffer is full. Returns how many bytes came.
    pub fn read_pieces(&self, pieces: impl Iterator<Item = (usize, usize)>, buffer: &mut [usize]) -> usize {
        let pieces: Vec<(usize, usize)> = pieces.take(MOST_PIECES).collect();
        // SAFETY: the same memory as bytes, which have no alignment and for which every value is one.
        let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.as_mut_ptr().cast(), size_of_val(buffer)) };
        self.transfer(&pieces, bytes)
    }

    /// The process's memory as a file, opened when it is first needed.
    fn forced(&self) -> Option<&File> {
        let opened = || self.forced.get_or_init(|| File::open("/proc/self/mem").ok()).as_ref();
        self.file.as_ref().or_else(opened)
    }

    /// Reads pieces of `(start, len)` one behind the other; returns the bytes that came.
    fn transfer(&self, pieces: &[(usize, usize)], buffer: &mut [u8]) -> usize {
        if let Some(file) = &self.file {
            let mut done = 0;
            for (start, len) in pieces {
                let len = (*len).min(buffer.len() - done);
                let got = file.read_at(&mut buffer[done..done + len], *start as u64).unwrap_or(0);
                done += got;
                if got < len {
                    break;
                }
            }
            return done;
        }
        let piece = |start: usize, len: usize| libc::iovec {
            iov_base: start as *mut _,
            iov_len: len,
        };
        let local = piece(buffer.as_mut_ptr() as usize, buffer.len());
        let one = |remote: &[libc::iovec]| {
            // SAFETY: writes at most the buffer's length into the buffer; what is read is checked by the kernel.
            let got =
                unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, remote.as_ptr(), remote.len() as _, 0) };
            usize::try_from(got).unwrap_or(0)
        };
        match pieces {
            // The common case allocates nothing.
            [(start, len)] => one(&[piece(*start, *len)]),
            _ => one(&pieces
                .iter()
                .map(|(start, len)| piece(*start, *len))
                .collect::<Vec<_>>()),
        }
    }
}

pub(crate) fn page_size() -> usize {
    // SAFETY: sysconf reads a constant of the system.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both_ways() -> [Memory; 2] {
        let file = File::open("/proc/self/mem").unwrap();
        [Memory::by(None), Memory::by(Some(file))]
    }

    /// Three pages, the middle one protected.
    fn with_a_hole() -> usize {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a mapping of its own, written within its length.
        unsafe {
            let start = libc::mmap(
                std::ptr::null_mut(),
                3 * 4096,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                -1,
                0,
            );
            assert_ne!(start, libc::MAP_FAILED);
            start.cast::<u8>().write_bytes(7, 3 * 4096);
            assert_eq!(libc::munmap(start.byte_add(4096), 4096), 0);
            start as usize
        }
    }

    #[test]
    fn what_is_there_is_read_and_a_hole_is_zero() {
        for memory in both_ways() {
            let start = with_a_hole();
            let mut copy = vec![1; 2 * 4096 + 100];
            memory.read(start + 100, &mut copy);
            let edge = 4096 - 100;
            assert!(copy[..edge].iter().all(|byte| *byte == 7));
            assert!(copy[edge..edge + 4096].iter().all(|byte| *byte == 0));
            assert!(copy[edge + 4096..].iter().all(|byte| *byte == 7));
            assert_eq!(memory.try_word(start), Some(0x0707_0707_0707_0707));
            assert_eq!(memory.try_word(16), None);
        }
    }

    #[test]
    fn a_page_that_is_protected_is_read_all_the_same() {
        for memory in both_ways() {
            let start = with_a_hole();
            // SAFETY: the first page of the mapping, which nobody else uses.
            unsafe { libc::mprotect(start as *mut libc::c_void, 4096, libc::PROT_NONE) };
            let mut copy = vec![1; 4096 + 10];
            memory.read(start, &mut copy);
            assert!(copy[..4096].iter().all(|byte| *byte == 7));
            assert!(copy[4096..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn pieces_are_read_up_to_the_first_that_is_gone() {
        for memory in both_ways() {
            let start = with_a_hole();
            let mut copy = [0; 8];
            let mut read = |starts: &[usize]| memory.read_pieces(starts.iter().map(|start| (*start, 16)), &mut copy);
            assert_eq!(read(&[start, start + 8, start + 8192]), 48);
            assert_eq!(read(&[start, start + 4096, start + 8192]), 16);
            assert_eq!(read(&[]), 0);
            assert_eq!(copy[..2], [0x0707_0707_0707_0707; 2]);
        }
    }
}

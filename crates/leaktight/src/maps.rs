//! The process's memory mappings, and reading them without a risk.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;

use leaktight_elf::loaded_objects;
use leaktight_liveset::MappedVec;

/// A readable and writable mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub start: usize,
    pub end: usize,
}

/// Reads this process's own memory through the kernel, which reports what is not mapped instead
/// of faulting: other threads may unmap at any time.
pub(crate) struct OwnMemory {
    memory: File,
    page_size: usize,
    /// What is read cannot be unmapped meanwhile: no other thread of the program runs. And it may be read.
    alone: bool,
}

impl OwnMemory {
    pub(crate) fn open() -> std::io::Result<OwnMemory> {
        Ok(OwnMemory {
            memory: File::open("/proc/self/mem")?,
            // SAFETY: sysconf reads a constant of the system.
            page_size: unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize,
            alone: is_alone(),
        })
    }

    /// Hands over the content of memory that is known to be resident or part of a live block. Without a copy
    /// where the program has one thread only.
    pub(crate) fn with_mapped<R>(&self, address: usize, buffer: &mut [u8], scan: impl FnOnce(&[u8]) -> R) -> R {
        if !self.alone {
            self.read(address, buffer);
            return scan(buffer);
        }
        // SAFETY: the caller has just seen it mapped, and the only thread that could unmap or write it is this
        // one, which does neither while `scan` looks at the bytes: its own tables lie elsewhere.
        scan(unsafe { std::slice::from_raw_parts(address as *const u8, buffer.len()) })
    }

    /// Fills `buffer` from `address`; what could not be read is zero.
    pub(crate) fn read(&self, address: usize, buffer: &mut [u8]) {
        let mut done = 0;
        while done < buffer.len() {
            match self.memory.read_at(&mut buffer[done..], (address + done) as u64) {
                Ok(got) if got > 0 => done += got,
                _ => {
                    // Skip the page that is gone.
                    let next = (address + done + 1).next_multiple_of(self.page_size) - address;
                    let next = next.min(buffer.len());
                    buffer[done..next].fill(0);
                    done = next;
                }
            }
        }
    }
}

/// Whether memory that is mapped stays so while this thread looks at it, and may be read.
pub(crate) fn is_alone() -> bool {
    !has_other_threads() && !has_address_sanitizer()
}

/// Whether the program runs threads beside this one and the one that keeps an eye on the time.
pub(crate) fn has_other_threads() -> bool {
    const OURS: usize = 2;
    std::fs::read_dir("/proc/self/task").map_or(true, |tasks| tasks.count() > OURS)
}

/// Code that the address sanitizer has instrumented, as this may be, must not read the sanitizer's own memory.
pub(crate) fn has_address_sanitizer() -> bool {
    let mut found = false;
    loaded_objects(|object| found |= object.defines(c"__asan_init").is_some());
    found
}

/// The readable and writable mappings of this process by rising address, without devices. In
/// memory of our own, since the start of a mapping may be the address of a lost block.
pub(crate) fn writable_mappings() -> std::io::Result<MappedVec<Mapping>> {
    let mut mappings = MappedVec::new();
    for line in BufReader::new(File::open("/proc/self/maps")?).lines() {
        if let Some(mapping) = parse(&line?) {
            mappings.push(mapping).map_err(std::io::Error::other)?;
        }
    }
    Ok(mappings)
}

fn parse(line: &str) -> Option<Mapping> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let rights = words.next()?;
    let name = words.nth(3).unwrap_or("");
    let device = name.starts_with("/dev/") && !name.starts_with("/dev/shm/") && !name.starts_with("/dev/zero");
    let mapping = Mapping {
        start: usize::from_str_radix(start, 16).ok()?,
        end: usize::from_str_radix(end, 16).ok()?,
    };
    (rights.starts_with("rw") && !device && mapping.start < mapping.end).then_some(mapping)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_writable_memory_is_listed_and_garbage_is_skipped() {
        let range = |start, end| Some(Mapping { start, end });
        assert_eq!(parse("1000-2000 rw-p 00000000 00:00 0"), range(0x1000, 0x2000));
        assert_eq!(
            parse("1000-2000 rw-p 00000000 00:00 0    [heap]"),
            range(0x1000, 0x2000)
        );
        assert_eq!(parse("1000-2000 rw-s 00000000 00:00 0 /dev/nvidia0"), None);
        for line in [
            "1000-2000 r--p 0 0 0",
            "",
            "zz-1 rw",
            "2000-1000 rw-p 0 0 0",
            "1000 rw-p",
        ] {
            assert_eq!(parse(line), None);
        }
    }

    #[test]
    fn own_memory_is_read_and_a_gap_is_zero() {
        let memory = OwnMemory::open().unwrap();
        let text = *b"leaktight";
        let mut copy = [0; 9];
        memory.read(text.as_ptr() as usize, &mut copy);
        assert_eq!(copy, text);
        memory.read(16, &mut copy);
        assert_eq!(copy, [0; 9]);
    }

    proptest::proptest! {
        #[test]
        fn any_line_is_read_or_skipped(line: String) {
            let _ = parse(&line);
        }
    }
}

//! Which pages of a mapping hold anything.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use crate::maps::Mapping;

/// What the kernel says of this process's pages (Documentation/admin-guide/mm/pagemap.rst).
pub(crate) struct Pages {
    /// Where it does not say anything, every page may hold something.
    pagemap: Option<File>,
    page_size: usize,
}

impl Pages {
    pub(crate) fn open() -> Pages {
        Pages {
            pagemap: File::open("/proc/self/pagemap").ok(),
            // SAFETY: sysconf reads a constant of the system.
            page_size: unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize,
        }
    }

    /// Calls `each` with the runs of pages of `mapping` that hold anything. A page that was never touched
    /// holds no pointer, and reading it would make it resident.
    pub(crate) fn resident(&self, mapping: Mapping, each: &mut dyn FnMut(Mapping)) {
        let told = scan(self.pagemap.as_ref(), mapping, each).or_else(|rest| self.read(rest, each));
        if let Err(rest) = told {
            each(rest);
        }
    }

    /// As `scan`, from the entries of all pages, there or not.
    fn read(&self, mapping: Mapping, each: &mut dyn FnMut(Mapping)) -> Result<(), Mapping> {
        const PAGES: usize = 4096;
        const PRESENT_OR_SWAPPED: u64 = 3 << 62;
        let mut entries = [0u8; PAGES * 8];
        let mut run: Option<usize> = None;
        let mut at = mapping.start;
        while at < mapping.end {
            let count = ((mapping.end - at) / self.page_size).min(PAGES);
            let wanted = &mut entries[..count * 8];
            let place = (at / self.page_size * 8) as u64;
            let read = self
                .pagemap
                .as_ref()
                .map(|pagemap| pagemap.read_exact_at(wanted, place));
            if !matches!(read, Some(Ok(()))) {
                let start = run.unwrap_or(at);
                return Err(Mapping { start, ..mapping });
            }
            for entry in wanted.chunks_exact(8) {
                let entry = u64::from_le_bytes(entry.try_into().unwrap_or_default());
                if entry & PRESENT_OR_SWAPPED != 0 {
                    run.get_or_insert(at);
                } else if let Some(start) = run.take() {
                    each(Mapping { start, end: at });
                }
                at += self.page_size;
            }
        }
        if let Some(start) = run {
            each(Mapping { start, ..mapping });
        }
        Ok(())
    }
}

/// Calls `each` with the runs of pages that are there, as the kernel finds them: from Linux 6.7 on, and
/// without a look at each page that is not. It matters where a program reserves address space by the
/// terabyte, as under a sanitizer. `Err` is the part that is left to do.
fn scan(pagemap: Option<&File>, mapping: Mapping, each: &mut dyn FnMut(Mapping)) -> Result<(), Mapping> {
    /// `struct page_region`.
    #[derive(Clone, Copy, Default)]
    #[repr(C)]
    struct Region {
        start: u64,
        end: u64,
        categories: u64,
    }
    /// `struct pm_scan_arg`.
    #[derive(Default)]
    #[repr(C)]
    struct Arguments {
        size: u64,
        flags: u64,
        start: u64,
        end: u64,
        walked_to: u64,
        regions: u64,
        regions_len: u64,
        max_pages: u64,
        inverted: u64,
        all_of: u64,
        any_of: u64,
        returned: u64,
    }
    /// `_IOWR('f', 16, struct pm_scan_arg)`.
    const PAGEMAP_SCAN: libc::Ioctl = 0xc060_6610_u32 as libc::Ioctl;
    const PRESENT_OR_SWAPPED: u64 = 1 << 3 | 1 << 4;
    let Some(pagemap) = pagemap else {
        return Err(mapping);
    };
    let mut regions = [Region::default(); 256];
    let mut rest = mapping;
    while rest.start < rest.end {
        let mut arguments = Arguments {
            size: size_of::<Arguments>() as u64,
            start: rest.start as u64,
            end: rest.end as u64,
            regions: regions.as_mut_ptr() as u64,
            regions_len: regions.len() as u64,
            any_of: PRESENT_OR_SWAPPED,
            ..Arguments::default()
        };
        // SAFETY: the arguments are those of this kernel interface, and there are as many regions as they say.
        let count = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut arguments) };
        let walked_to = arguments.walked_to as usize;
        if count < 0 || walked_to <= rest.start {
            return Err(rest);
        }
        for region in &regions[..count as usize] {
            each(Mapping {
                start: region.start as usize,
                end: region.end as usize,
            });
        }
        rest.start = walked_to;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel may tell of neighbouring pages in several runs.
    fn pages(list: impl FnOnce(&mut dyn FnMut(Mapping))) -> Vec<usize> {
        let mut pages = Vec::new();
        list(&mut |run| pages.extend((run.start..run.end).step_by(4096)));
        pages
    }

    #[test]
    fn only_touched_pages_are_told_by_either_way() {
        const LEN: usize = 1 << 30;
        // SAFETY: a mapping of its own, written within its length.
        let (start, touched) = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            let start = libc::mmap(
                std::ptr::null_mut(),
                LEN,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                -1,
                0,
            );
            assert_ne!(start, libc::MAP_FAILED);
            libc::madvise(start, LEN, libc::MADV_NOHUGEPAGE);
            let scattered = (0..1000).map(|number| number * 4096 * 7);
            let touched: Vec<usize> = scattered.chain([LEN - 8192, LEN - 4096]).collect();
            for at in &touched {
                start.byte_add(*at).cast::<u8>().write(1);
            }
            (start as usize, touched)
        };
        let mapping = Mapping {
            start,
            end: start + LEN,
        };
        let expected: Vec<usize> = touched.iter().map(|at| start + at).collect();
        let known = Pages::open();
        assert_eq!(pages(|each| known.resident(mapping, each)), expected);
        assert_eq!(pages(|each| known.read(mapping, each).unwrap()), expected);
        let unknown = Pages { pagemap: None, ..known };
        assert_eq!(pages(|each| unknown.resident(mapping, each)).len(), LEN / 4096);
        // SAFETY: mapped above.
        unsafe { libc::munmap(start as *mut libc::c_void, LEN) };
    }
}

//! Which pages of a mapping hold anything.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use crate::reading::page_size;

/// Which pages are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those that hold anything.
    Resident,
    /// Those of them that are this process's own: not as their file has them.
    Changed,
}

/// What the kernel says of this process's pages (Documentation/admin-guide/mm/pagemap.rst).
pub struct Pages {
    /// Where it does not say anything, every page may hold something.
    pagemap: Option<File>,
    page_size: usize,
}

impl Pages {
    /// Opens what the kernel tells it by.
    pub fn open() -> Pages {
        Pages {
            pagemap: File::open("/proc/self/pagemap").ok(),
            page_size: page_size(),
        }
    }

    /// Calls `each` with runs of pages of `mapping`, whole pages, so that it may begin before and end behind it. A page that was never touched holds no pointer,
    /// and reading it would make it resident.
    pub fn each(&self, which: Which, mapping: Range<usize>, each: &mut dyn FnMut(Range<usize>)) {
        let mapping = mapping.start & !(self.page_size - 1)..mapping.end.next_multiple_of(self.page_size);
        let told = scan(self.pagemap.as_ref(), which, mapping, each).or_else(|rest| self.read(which, rest, each));
        if let Err(rest) = told {
            each(rest);
        }
    }

    /// The bytes of the pages around `mapping` that are resident.
    pub fn resident(&self, mapping: Range<usize>) -> u64 {
        let mut bytes = 0;
        self.each(Which::Resident, mapping, &mut |run| bytes += run.len() as u64);
        bytes
    }

    /// As `scan`, from the entries of all pages, there or not.
    fn read(
        &self,
        which: Which,
        mapping: Range<usize>,
        each: &mut dyn FnMut(Range<usize>),
    ) -> Result<(), Range<usize>> {
        const PAGES: usize = 1024;
        const PRESENT_OR_SWAPPED: u64 = 3 << 62;
        const OF_FILE: u64 = 1 << 61;
        /// The guard of a stack, which no one may touch (`MADV_GUARD_INSTALL`).
        const GUARD: u64 = 1 << 58;
        let excluded = GUARD | if which == Which::Changed { OF_FILE } else { 0 };
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
                return Err(run.unwrap_or(at)..mapping.end);
            }
            for entry in wanted.chunks_exact(8) {
                let entry = u64::from_le_bytes(entry.try_into().unwrap_or_default());
                if entry & PRESENT_OR_SWAPPED != 0 && entry & excluded == 0 {
                    run.get_or_insert(at);
                } else if let Some(start) = run.take() {
                    each(start..at);
                }
                at += self.page_size;
            }
        }
        if let Some(start) = run {
            each(start..mapping.end);
        }
        Ok(())
    }
}

/// Calls `each` with the runs of pages that are there, as the kernel finds them: from Linux 6.7 on, and
/// without a look at each page that is not. It matters where a program reserves address space by the
/// terabyte, as under a sanitizer. `Err` is the part that is left to do.
fn scan(
    pagemap: Option<&File>,
    which: Which,
    mapping: Range<usize>,
    each: &mut dyn FnMut(Range<usize>),
) -> Result<(), Range<usize>> {
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
    const OF_FILE: u64 = 1 << 2;
    /// Only read so far: a page of zeros that all processes share.
    const ZERO: u64 = 1 << 5;
    let excluded = ZERO | if which == Which::Changed { OF_FILE } else { 0 };
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
            // Of these categories the opposite counts; all of them must be met.
            inverted: excluded,
            all_of: excluded,
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
            each(region.start as usize..region.end as usize);
        }
        rest.start = walked_to;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel may tell of neighbouring pages in several runs.
    fn pages(list: impl FnOnce(&mut dyn FnMut(Range<usize>))) -> Vec<usize> {
        let mut pages = Vec::new();
        list(&mut |run| pages.extend(run.step_by(4096)));
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
        let mapping = start..start + LEN;
        let expected: Vec<usize> = touched.iter().map(|at| start + at).collect();
        let known = Pages::open();
        for which in [Which::Resident, Which::Changed] {
            assert_eq!(pages(|each| known.each(which, mapping.clone(), each)), expected);
            assert_eq!(
                pages(|each| known.read(which, mapping.clone(), each).unwrap()),
                expected
            );
        }
        assert_eq!(known.resident(mapping.clone()), expected.len() as u64 * 4096);
        let unknown = Pages { pagemap: None, ..known };
        assert_eq!(unknown.resident(mapping), LEN as u64);
        // SAFETY: mapped above.
        unsafe { libc::munmap(start as *mut libc::c_void, LEN) };
    }

    #[test]
    fn of_a_file_only_what_was_written_has_changed() {
        use std::io::Write;
        let path = std::env::temp_dir().join(format!("leaktight-pages-{}", std::process::id()));
        let mut file = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        file.write_all(&[1; 4 * 4096]).unwrap();
        // SAFETY: a private mapping of a file of its own, read and written within its length.
        unsafe {
            let (rights, fd) = (libc::PROT_READ | libc::PROT_WRITE, file.as_raw_fd());
            let start = libc::mmap(std::ptr::null_mut(), 4 * 4096, rights, libc::MAP_PRIVATE, fd, 0);
            assert_ne!(start, libc::MAP_FAILED);
            let bytes = start.cast::<u8>();
            (0..4).for_each(|page| assert_eq!(bytes.add(page * 4096).read_volatile(), 1));
            bytes.add(4096).write_volatile(2);
            let range = start as usize..start as usize + 4 * 4096;
            let known = Pages::open();
            let expected = [range.start + 4096];
            assert_eq!(pages(|each| known.each(Which::Changed, range.clone(), each)), expected);
            assert_eq!(
                pages(|each| known.read(Which::Changed, range.clone(), each).unwrap()),
                expected
            );
            assert_eq!(pages(|each| known.each(Which::Resident, range.clone(), each)).len(), 4);
            libc::munmap(start, 4 * 4096);
        }
    }
}

//! An object's segments, and reading tables in them.
//!
//! The loader has read these tables before us, but it checks next to nothing. A count or an index that leads
//! out of the object's readable segments ends the table here, so that a malformed object is read wrongly at
//! worst.

use std::marker::PhantomData;

#[cfg(target_pointer_width = "64")]
use libc::Elf64_Phdr as Phdr;

const PT_LOAD: u32 = 1;
pub(crate) const PF_X: u32 = 1;
pub(crate) const PF_W: u32 = 2;
pub(crate) const PF_R: u32 = 4;

/// What is mapped of an object.
#[derive(Clone, Copy)]
pub(crate) struct Segments<'a> {
    base: usize,
    headers: &'a [Phdr],
}

impl<'a> Segments<'a> {
    /// # Safety
    ///
    /// For `'a`, `headers` are those of an object that is mapped at `base` as they say.
    pub(crate) unsafe fn new(base: usize, headers: &'a [Phdr]) -> Self {
        Segments { base, headers }
    }

    /// All program headers: type, start, bytes in memory.
    pub(crate) fn headers(self) -> impl Iterator<Item = (u32, usize, usize)> + 'a {
        self.headers
            .iter()
            .map(move |header| (header.p_type, self.start(header), header.p_memsz as usize))
    }

    /// Start and length in bytes of the loaded segments that have all these rights.
    pub(crate) fn loaded(self, rights: u32) -> impl Iterator<Item = (usize, usize)> + 'a {
        self.headers
            .iter()
            .filter(move |header| header.p_type == PT_LOAD && header.p_flags & rights == rights)
            .map(move |header| (self.start(header), header.p_memsz as usize))
    }

    /// Start and length in bytes of those parts of writable segments that the file has the first contents of.
    pub(crate) fn initialised(self) -> impl Iterator<Item = (usize, usize)> + 'a {
        self.headers
            .iter()
            .filter(move |header| header.p_type == PT_LOAD && header.p_flags & PF_W != 0)
            .map(move |header| (self.start(header), header.p_filesz.min(header.p_memsz) as usize))
    }

    /// The loaded segment around `address` that has all these rights: start and length in bytes.
    pub(crate) fn around(self, rights: u32, address: usize) -> Option<(usize, usize)> {
        self.loaded(rights).find(|segment| room(*segment, address) > 0)
    }

    /// How many bytes can be read from `address` on.
    pub(crate) fn readable(self, address: usize) -> usize {
        self.around(PF_R, address).map_or(0, |segment| room(segment, address))
    }

    /// The table at `address`, so many bytes long, as far as it lies in a readable segment.
    pub(crate) fn table<T: Plain>(self, address: usize, bytes: usize) -> Table<'a, T> {
        let aligned = address.is_multiple_of(align_of::<T>());
        let bytes = if aligned { bytes.min(self.readable(address)) } else { 0 };
        Table {
            start: address as *const T,
            len: bytes / size_of::<T>(),
            _object: PhantomData,
        }
    }

    /// Wraps around: an object may have been linked for a higher address than it lies at.
    fn start(self, header: &Phdr) -> usize {
        self.base.wrapping_add(header.p_vaddr as usize)
    }
}

/// How many bytes of the segment there are from `address` on.
pub(crate) fn room((start, len): (usize, usize), address: usize) -> usize {
    len.saturating_sub(address.wrapping_sub(start))
}

/// Made of integers only, so that any bytes are a value of it.
///
/// # Safety
///
/// That is so.
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: integers, and C structures of integers.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for libc::Elf64_Sym {}
// SAFETY: as above.
unsafe impl Plain for libc::Elf64_Rela {}

/// Entries of one kind in a loaded object. Each is copied out, since other data of the object, which the
/// program may write, can follow in the same segment.
#[derive(Clone, Copy)]
pub(crate) struct Table<'a, T> {
    start: *const T,
    len: usize,
    _object: PhantomData<&'a T>,
}

impl<'a, T: Plain> Table<'a, T> {
    pub(crate) fn get(self, index: usize) -> Option<T> {
        // SAFETY: aligned and inside a readable segment, which `Segments::table` has seen to.
        (index < self.len).then(|| unsafe { *self.start.add(index) })
    }

    /// The rest of it after so many entries.
    pub(crate) fn from(self, first: usize) -> Self {
        let first = first.min(self.len);
        Table {
            // SAFETY: in the table, or at its end.
            start: unsafe { self.start.add(first) },
            len: self.len - first,
            _object: PhantomData,
        }
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = T> + 'a {
        (0..self.len).map_while(move |index| self.get(index))
    }
}

#[cfg(test)]
impl<'a, T> From<&'a [T]> for Table<'a, T> {
    fn from(entries: &'a [T]) -> Self {
        Table {
            start: entries.as_ptr(),
            len: entries.len(),
            _object: PhantomData,
        }
    }
}

impl<'a> Table<'a, u8> {
    /// All of it; for constant data only.
    pub(crate) fn bytes(self) -> &'a [u8] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: as in `get`; a string table is never written.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

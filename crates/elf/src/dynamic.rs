//! Where the dynamic section says that the tables are.

use crate::memory::{Plain, Segments, Table};

#[cfg(target_pointer_width = "64")]
use libc::{Elf64_Rela as Rela, Elf64_Sym as Sym};

/// One entry of the dynamic section.
#[derive(Clone, Copy)]
#[repr(C)]
struct Entry {
    tag: i64,
    value: usize,
}

// SAFETY: two integers.
unsafe impl Plain for Entry {}

pub(crate) const PT_DYNAMIC: u32 = 2;

pub(crate) const DT_NULL: i64 = 0;
pub(crate) const DT_PLTRELSZ: i64 = 2;
pub(crate) const DT_HASH: i64 = 4;
pub(crate) const DT_STRTAB: i64 = 5;
pub(crate) const DT_SYMTAB: i64 = 6;
pub(crate) const DT_RELA: i64 = 7;
pub(crate) const DT_RELASZ: i64 = 8;
pub(crate) const DT_STRSZ: i64 = 10;
pub(crate) const DT_JMPREL: i64 = 23;
pub(crate) const DT_RELACOUNT: i64 = 0x6fff_fff9;
pub(crate) const DT_GNU_HASH: i64 = 0x6fff_fef5;
pub(crate) const DT_VERSYM: i64 = 0x6fff_fff0;

/// The tables of an object; what it does not have is empty. How long some are is written nowhere: those run
/// to the end of their segment.
pub(crate) struct Tables<'a> {
    pub symbols: Table<'a, Sym>,
    pub strings: Table<'a, u8>,
    /// Of each symbol the version.
    pub versions: Table<'a, u16>,
    pub gnu_hash: Table<'a, u32>,
    pub sysv_hash: Table<'a, u32>,
    /// Without those at its start that no symbol belongs to.
    pub rela: Table<'a, Rela>,
    pub jump: Table<'a, Rela>,
}

impl<'a> Tables<'a> {
    /// `None` when the object has no dynamic section, as a statically linked program.
    pub(crate) fn read(base: usize, segments: Segments<'a>) -> Option<Self> {
        let (_, start, bytes) = segments.headers().find(|header| header.0 == PT_DYNAMIC)?;
        let entries = segments.table::<Entry>(start, bytes);
        let value = |tag| {
            let mut entries = entries.iter().take_while(|entry| entry.tag != DT_NULL);
            entries.find(|entry| entry.tag == tag).map(|entry| entry.value)
        };
        // glibc relocates the addresses in place; musl leaves them relative, and so are those of the vDSO.
        let address = |tag| match value(tag) {
            Some(value) if segments.readable(value) > 0 => value,
            Some(value) => base.wrapping_add(value),
            None => 0,
        };
        let bytes = |tag| value(tag).unwrap_or(0);
        Some(Tables {
            symbols: segments.table(address(DT_SYMTAB), usize::MAX),
            strings: segments.table(address(DT_STRTAB), bytes(DT_STRSZ)),
            versions: segments.table(address(DT_VERSYM), usize::MAX),
            gnu_hash: segments.table(address(DT_GNU_HASH), usize::MAX),
            sysv_hash: segments.table(address(DT_HASH), usize::MAX),
            rela: segments
                .table(address(DT_RELA), bytes(DT_RELASZ))
                .from(bytes(DT_RELACOUNT)),
            jump: segments.table(address(DT_JMPREL), bytes(DT_PLTRELSZ)),
        })
    }
}

//! Objects made up in memory, for tests. An unmapped page lies before and behind each, so that a stray read
//! is a fault.

use std::ffi::{CStr, CString, c_void};

use libc::{Elf64_Phdr as Phdr, Elf64_Rela as Rela, Elf64_Sym as Sym};

use crate::LoadedObject;
use crate::dynamic::*;
use crate::memory::{PF_R, PF_W};

pub(crate) const PAGE: usize = 4096;
/// A segment of tables, its last page the dynamic section; behind it a writable one with words to relocate.
pub(crate) const TABLES: usize = 16 * PAGE;
pub(crate) const WORDS: usize = PAGE;

/// One entry of the symbol table.
#[derive(Clone, Debug)]
pub(crate) struct Symbol {
    pub name: CString,
    /// Binding and type, as in `st_info`.
    pub info: u8,
    pub section: u16,
    pub value: u64,
    pub version: u16,
}

/// What stands in the tables of an object.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub symbols: Vec<Symbol>,
    /// Offset, type, symbol and addend.
    pub jump: Vec<(u64, u32, usize, i64)>,
    pub rela: Vec<(u64, u32, usize, i64)>,
    pub gnu_hash: bool,
    pub sysv_hash: bool,
    pub buckets: usize,
    pub bloom_words: usize,
    /// As musl leaves the addresses in the dynamic section.
    pub relative: bool,
    /// So much longer than whole entries are the relocation tables.
    pub odd_bytes: usize,
}

pub(crate) struct Image {
    start: usize,
    used: usize,
    headers: [Phdr; 3],
}

impl Image {
    pub(crate) fn of(plan: &Plan) -> Image {
        let mut image = Image::empty();
        let mut strings = vec![0];
        // SAFETY: integers. The first symbol is all zero.
        let mut symbols = vec![unsafe { std::mem::zeroed::<Sym>() }];
        for symbol in &plan.symbols {
            symbols.push(Sym {
                st_name: strings.len() as u32,
                st_info: symbol.info,
                st_other: 0,
                st_shndx: symbol.section,
                st_value: symbol.value,
                st_size: 8,
            });
            strings.extend(symbol.name.to_bytes_with_nul());
        }
        let versions: Vec<u16> = [0]
            .into_iter()
            .chain(plan.symbols.iter().map(|symbol| symbol.version))
            .collect();
        let rela = |&(offset, kind, symbol, addend): &(u64, u32, usize, i64)| Rela {
            r_offset: offset,
            r_info: (symbol as u64) << 32 | u64::from(kind),
            r_addend: addend,
        };
        let jump: Vec<Rela> = plan.jump.iter().map(rela).collect();
        let rela: Vec<Rela> = plan.rela.iter().map(rela).collect();

        let mut addresses = vec![
            (DT_STRTAB, image.put(&strings)),
            (DT_SYMTAB, image.put(&symbols)),
            (DT_VERSYM, image.put(&versions)),
            (DT_JMPREL, image.put(&jump)),
            (DT_RELA, image.put(&rela)),
        ];
        if plan.gnu_hash {
            addresses.push((DT_GNU_HASH, image.put(&gnu_table(plan))));
        }
        if plan.sysv_hash {
            addresses.push((DT_HASH, image.put(&sysv_table(plan))));
        }
        let base = if plan.relative { 0 } else { image.start };
        let sizes = [
            (DT_STRSZ, strings.len()),
            (DT_PLTRELSZ, size_of_val(&jump[..]) + plan.odd_bytes),
            (DT_RELASZ, size_of_val(&rela[..]) + plan.odd_bytes),
            (DT_NULL, 0),
            // Behind the end.
            (DT_GNU_HASH, base + 64),
        ];
        let dynamic = addresses.into_iter().map(|(tag, at)| (tag, base + at)).chain(sizes);
        image.used = TABLES - PAGE;
        for (tag, value) in dynamic {
            image.put(&[tag as usize, value]);
        }
        image
    }

    fn empty() -> Image {
        const ALL: usize = TABLES + WORDS;
        // SAFETY: a new mapping; the pages inside of the outer two are made accessible.
        let start = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let outer = libc::mmap(std::ptr::null_mut(), ALL + 2 * PAGE, libc::PROT_NONE, flags, -1, 0);
            assert_ne!(outer, libc::MAP_FAILED);
            let inner = outer.byte_add(PAGE);
            assert_eq!(libc::mprotect(inner, ALL, libc::PROT_READ | libc::PROT_WRITE), 0);
            inner as usize
        };
        let header = |kind, flags, at: usize, len: usize| Phdr {
            p_type: kind,
            p_flags: flags,
            p_offset: 0,
            p_vaddr: at as u64,
            p_paddr: 0,
            p_filesz: len as u64,
            p_memsz: len as u64,
            p_align: 8,
        };
        let headers = [
            header(1, PF_R, 0, TABLES),
            header(1, PF_R | PF_W, TABLES, WORDS),
            header(PT_DYNAMIC, PF_R, TABLES - PAGE, PAGE),
        ];
        // No table starts at 0, where the ELF header would be.
        Image {
            start,
            used: 64,
            headers,
        }
    }

    /// Where it lies.
    pub(crate) fn base(&self) -> usize {
        self.start
    }

    /// Every word of the tables, for damage.
    pub(crate) fn tables(&mut self) -> &mut [u64] {
        // SAFETY: mapped in `empty`, aligned, and borrowed from nobody else while this borrow lasts.
        unsafe { std::slice::from_raw_parts_mut(self.start as *mut u64, TABLES / 8) }
    }

    /// Calls `look` with the object as the loader would present it.
    pub(crate) fn with<R>(&self, look: impl FnOnce(&LoadedObject<'_>) -> R) -> R {
        // SAFETY: integers and pointers, for which zero is a value.
        let mut info: libc::dl_phdr_info = unsafe { std::mem::zeroed() };
        info.dlpi_addr = self.start as u64;
        info.dlpi_phdr = self.headers.as_ptr();
        info.dlpi_phnum = self.headers.len() as u16;
        // SAFETY: mapped as the headers say, as long as `self` lives.
        look(&unsafe { LoadedObject::new(&info) }.unwrap())
    }

    /// Lays a table down behind the last; returns its address in the object.
    fn put<T: Copy>(&mut self, table: &[T]) -> usize {
        let at = self.used.next_multiple_of(8);
        self.used = at + size_of_val(table);
        assert!(self.used <= TABLES);
        // SAFETY: the place is mapped, writable, aligned and big enough, and nobody else has it.
        unsafe { std::ptr::copy_nonoverlapping(table.as_ptr(), (self.start + at) as *mut T, table.len()) };
        at
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // SAFETY: mapped in `empty`, with a page on either side.
        unsafe { libc::munmap((self.start - PAGE) as *mut c_void, TABLES + WORDS + 2 * PAGE) };
    }
}

/// The hash function of `DT_GNU_HASH`.
pub(crate) fn gnu_hash(name: &CStr) -> usize {
    let step = |hash: u64, byte: &u8| (hash * 33 + u64::from(*byte)) % (1 << 32);
    name.to_bytes().iter().fold(5381, step) as usize
}

/// The hash function of `DT_HASH`, in the words of the System V ABI.
fn sysv_hash(name: &CStr) -> usize {
    let mut h: u64 = 0;
    for byte in name.to_bytes() {
        h = (h << 4) + u64::from(*byte);
        let g = h & 0xf000_0000;
        if g != 0 {
            h ^= g >> 24;
        }
        h &= !g;
    }
    h as usize
}

/// Knows the symbols from the first one on that is no plain reference; the plan has them in order of buckets.
fn gnu_table(plan: &Plan) -> Vec<u32> {
    let known = |symbol: &Symbol| symbol.section != 0 && symbol.info >> 4 != 0;
    let first = 1 + plan.symbols.iter().take_while(|symbol| !known(symbol)).count();
    let hashes: Vec<usize> = plan.symbols[first - 1..]
        .iter()
        .map(|symbol| gnu_hash(&symbol.name))
        .collect();
    let bucket = |at: usize| hashes.get(at).map(|hash| hash % plan.buckets);
    let mut table = vec![plan.buckets as u32, first as u32, plan.bloom_words as u32, 6];
    table.resize(4 + 2 * plan.bloom_words, u32::MAX);
    for wanted in 0..plan.buckets {
        let start = (0..hashes.len()).find(|at| bucket(*at) == Some(wanted));
        table.push(start.map_or(0, |at| (first + at) as u32));
    }
    for (at, hash) in hashes.iter().enumerate() {
        let last = bucket(at) != bucket(at + 1);
        table.push(*hash as u32 & !1 | u32::from(last));
    }
    table
}

/// Knows every symbol, references and local ones too.
fn sysv_table(plan: &Plan) -> Vec<u32> {
    let (buckets, symbols) = (plan.buckets, plan.symbols.len() + 1);
    let mut table = vec![0; 2 + buckets + symbols];
    table[0] = buckets as u32;
    table[1] = symbols as u32;
    for (at, symbol) in plan.symbols.iter().enumerate() {
        let mut end = 2 + sysv_hash(&symbol.name) % buckets;
        while table[end] != 0 {
            end = 2 + buckets + table[end] as usize;
        }
        table[end] = at as u32 + 1;
    }
    table
}

//! What the dynamic loader has in memory: objects, their symbols and their relocations.
//!
//! Read only: nothing here writes to a slot (that is the hooks' business). Linux and other systems with ELF
//! and `dl_iterate_phdr`.
//!
//! Sources: the System V ABI (dynamic section, `DT_*`), its AMD64 and AArch64
//! supplements (relocation types), and `dl_iterate_phdr(3)`.

use std::ffi::{CStr, c_char, c_int, c_void};

#[cfg(target_pointer_width = "64")]
use libc::{Elf64_Phdr as Phdr, Elf64_Rela as Rela, Elf64_Sym as Sym};

/// One entry of the dynamic section.
#[repr(C)]
struct Dyn {
    tag: i64,
    value: usize,
}

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_GNU_RELRO: u32 = 0x6474_e552;
const PF_X: u32 = 1;
const PF_W: u32 = 2;

const DT_PLTRELSZ: i64 = 2;
const DT_STRTAB: i64 = 5;
const DT_SYMTAB: i64 = 6;
const DT_RELA: i64 = 7;
const DT_RELASZ: i64 = 8;
const DT_JMPREL: i64 = 23;
const DT_GNU_HASH: i64 = 0x6fff_fef5;

#[cfg(target_arch = "x86_64")]
mod reloc {
    pub const JUMP_SLOT: u32 = 7;
    pub const GLOB_DAT: u32 = 6;
    pub const ABSOLUTE: u32 = 1;
}
#[cfg(target_arch = "aarch64")]
mod reloc {
    pub const JUMP_SLOT: u32 = 1026;
    pub const GLOB_DAT: u32 = 1025;
    pub const ABSOLUTE: u32 = 257;
}

/// An object (program or shared library) as it lies in memory.
///
/// Valid until it is unloaded, so use it within the [`loaded_objects`] callback only.
pub struct LoadedObject<'a> {
    /// What is added to the addresses in the file.
    pub base: usize,
    name: *const c_char,
    headers: &'a [Phdr],
    dynamic: Dynamic,
}

/// A relocated word that holds the address of a named function.
pub struct Slot<'a> {
    /// Where the word is.
    pub address: usize,
    symbol: &'a Sym,
    object: &'a LoadedObject<'a>,
    /// Bound at the first call: the slot may still point back into its own object.
    pub lazy: bool,
    /// The object only refers to the symbol; somebody else defines it.
    pub undefined: bool,
}

impl Slot<'_> {
    /// Whose address the loader puts there.
    pub fn symbol_name(&self) -> &CStr {
        self.object.symbol_name(self.symbol)
    }
}

#[derive(Default)]
struct Dynamic {
    strings: usize,
    symbols: usize,
    gnu_hash: usize,
    rela: (usize, usize),
    jump: (usize, usize),
}

/// Calls `each` for every loaded object, in load order, while the loader's lock is held.
pub fn loaded_objects(mut each: impl FnMut(&LoadedObject<'_>)) {
    visit(&mut |info| {
        if let Some(object) = LoadedObject::new(info) {
            each(&object);
        }
        true
    });
}

/// How many objects were ever loaded and unloaded: a change means that slots or modules are new.
pub fn objects_generation() -> (u64, u64) {
    let mut counts = (0, 0);
    visit(&mut |info| {
        counts = (info.dlpi_adds, info.dlpi_subs);
        false
    });
    counts
}

fn visit(each: &mut dyn FnMut(&libc::dl_phdr_info) -> bool) {
    unsafe extern "C" fn step(info: *mut libc::dl_phdr_info, _: usize, data: *mut c_void) -> c_int {
        // SAFETY: `data` is the closure passed below, alive and not aliased while dl_iterate_phdr runs.
        let each = unsafe { &mut *data.cast::<&mut dyn FnMut(&libc::dl_phdr_info) -> bool>() };
        // SAFETY: the loader passes a valid record for the time of this call.
        let go_on = each(unsafe { &*info });
        c_int::from(!go_on)
    }
    let mut each = each;
    // SAFETY: `step` matches the expected signature, and `each` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(step), (&raw mut each).cast()) };
}

impl<'a> LoadedObject<'a> {
    fn new(info: &'a libc::dl_phdr_info) -> Option<Self> {
        if info.dlpi_phdr.is_null() {
            return None;
        }
        // SAFETY: the loader's table of program headers, dlpi_phnum long, mapped as long as the object is.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
        let base = info.dlpi_addr as usize;
        let dynamic = headers.iter().find(|header| header.p_type == PT_DYNAMIC)?;
        Some(LoadedObject {
            base,
            name: info.dlpi_name,
            headers,
            dynamic: Dynamic::read(base, base + dynamic.p_vaddr as usize),
        })
    }

    /// The file's path; empty for the main program.
    pub fn name(&self) -> &CStr {
        if self.name.is_null() {
            return c"";
        }
        // SAFETY: the loader's own string, alive as long as the object is loaded.
        unsafe { CStr::from_ptr(self.name) }
    }

    /// Whether `address` lies in one of its segments.
    pub fn contains(&self, address: usize) -> bool {
        self.segments(0).any(|(start, len)| address.wrapping_sub(start) < len)
    }

    /// Start and length in bytes of its writable segments: the static data.
    pub fn writable(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.segments(PF_W)
    }

    /// Its program headers, for those who need other segments (`p_type`, start, bytes in memory).
    pub fn headers(&self) -> impl Iterator<Item = (u32, usize, usize)> + '_ {
        self.headers.iter().map(|header| {
            (
                header.p_type,
                self.base + header.p_vaddr as usize,
                header.p_memsz as usize,
            )
        })
    }

    /// Whether `address` lies in code of this object.
    pub fn executes(&self, address: usize) -> bool {
        self.code().any(|(start, len)| address.wrapping_sub(start) < len)
    }

    /// Start and length in bytes of its segments of code.
    pub fn code(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.segments(PF_X)
    }

    /// Whether the loader made the word at `address` read-only after relocating it.
    pub fn read_only_after_relocation(&self, address: usize) -> bool {
        self.headers()
            .any(|(kind, start, len)| kind == PT_GNU_RELRO && address.wrapping_sub(start) < len)
    }

    fn segments(&self, flags: u32) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.headers
            .iter()
            .filter(move |header| header.p_type == PT_LOAD && header.p_flags & flags == flags)
            .map(|header| (self.base + header.p_vaddr as usize, header.p_memsz as usize))
    }

    /// The words that the loader filled with addresses of named functions.
    pub fn slots(&self) -> impl Iterator<Item = Slot<'_>> + '_ {
        [self.dynamic.jump, self.dynamic.rela]
            .into_iter()
            .flat_map(move |(table, bytes)| {
                let count = if table == 0 { 0 } else { bytes / size_of::<Rela>() };
                (0..count).filter_map(move |at| {
                    // SAFETY: entry `at` of a relocation table whose size the dynamic section gives.
                    self.slot(unsafe { &*(table as *const Rela).add(at) })
                })
            })
    }

    fn slot(&self, rela: &Rela) -> Option<Slot<'_>> {
        let kind = rela.r_info as u32;
        let index = (rela.r_info >> 32) as usize;
        let relevant = matches!(kind, reloc::JUMP_SLOT | reloc::GLOB_DAT | reloc::ABSOLUTE);
        if !relevant || index == 0 || rela.r_addend != 0 || self.dynamic.symbols == 0 || self.dynamic.strings == 0 {
            return None;
        }
        let symbol = self.symbol(index);
        Some(Slot {
            address: self.base + rela.r_offset as usize,
            symbol,
            object: self,
            lazy: kind == reloc::JUMP_SLOT,
            undefined: symbol.st_shndx == 0,
        })
    }

    fn symbol(&self, index: usize) -> &Sym {
        // SAFETY: `index` comes from this object's relocations or hash table, so the symbol table has it.
        unsafe { &*(self.dynamic.symbols as *const Sym).add(index) }
    }

    fn symbol_name(&self, symbol: &Sym) -> &CStr {
        // SAFETY: st_name is an offset into the object's string table, whose strings end in NUL.
        unsafe { CStr::from_ptr((self.dynamic.strings + symbol.st_name as usize) as *const c_char) }
    }

    /// Whether this object refers to somebody else's `name`.
    pub fn imports(&self, name: &CStr) -> bool {
        self.slots().any(|slot| slot.undefined && slot.symbol_name() == name)
    }

    /// The address of `name` if this object *defines* it (an undefined symbol's value, as in a
    /// non-PIE program, is the address of a PLT stub and does not count).
    pub fn defines(&self, name: &CStr) -> Option<usize> {
        let table = self.dynamic.gnu_hash;
        if table == 0 || self.dynamic.symbols == 0 || self.dynamic.strings == 0 {
            return None;
        }
        let hash = gnu_hash(name.to_bytes());
        // SAFETY: layout of DT_GNU_HASH: nbuckets, symoffset, bloom_size, bloom_shift, bloom[bloom_size] (words),
        // buckets[nbuckets], chains. Every read below stays inside those parts.
        unsafe {
            let head = table as *const u32;
            let (buckets, first, bloom) = (head.read(), head.add(1).read(), head.add(2).read());
            if buckets == 0 {
                return None;
            }
            let bucket = head.add(4 + bloom as usize * 2);
            let chain = bucket.add(buckets as usize);
            let mut index = bucket.add((hash % buckets) as usize).read();
            if index < first {
                return None;
            }
            loop {
                let entry = chain.add((index - first) as usize).read();
                if entry | 1 == hash | 1 {
                    let symbol = self.symbol(index as usize);
                    if symbol.st_shndx != 0 && symbol.st_value != 0 && self.symbol_name(symbol) == name {
                        return Some(self.base + symbol.st_value as usize);
                    }
                }
                if entry & 1 == 1 {
                    return None;
                }
                index += 1;
            }
        }
    }
}

impl Dynamic {
    fn read(base: usize, at: usize) -> Dynamic {
        let mut dynamic = Dynamic::default();
        // glibc relocates the addresses in place, musl and the vDSO leave them relative.
        let absolute = |value: usize| if value < base { base + value } else { value };
        let mut entry = at as *const Dyn;
        loop {
            // SAFETY: the dynamic section is an array that ends with a DT_NULL entry.
            let Dyn { tag, value } = unsafe { entry.read() };
            match tag {
                0 => return dynamic,
                DT_STRTAB => dynamic.strings = absolute(value),
                DT_SYMTAB => dynamic.symbols = absolute(value),
                DT_GNU_HASH => dynamic.gnu_hash = absolute(value),
                DT_RELA => dynamic.rela.0 = absolute(value),
                DT_RELASZ => dynamic.rela.1 = value,
                DT_JMPREL => dynamic.jump.0 = absolute(value),
                DT_PLTRELSZ => dynamic.jump.1 = value,
                _ => {}
            }
            // SAFETY: not at DT_NULL yet, so one more entry follows.
            entry = unsafe { entry.add(1) };
        }
    }
}

fn gnu_hash(name: &[u8]) -> u32 {
    name.iter().fold(5381u32, |hash, byte| {
        hash.wrapping_mul(33).wrapping_add(u32::from(*byte))
    })
}

//! Relocated words that hold the address of a named function.

use std::ffi::CStr;

#[cfg(target_pointer_width = "64")]
use libc::{Elf64_Rela as Rela, Elf64_Sym as Sym};

use crate::memory::{PF_W, room};
use crate::object::LoadedObject;
use crate::symbols::SHN_UNDEF;

#[cfg(target_arch = "x86_64")]
pub(crate) mod kind {
    pub const JUMP_SLOT: u32 = 7;
    pub const GLOB_DAT: u32 = 6;
    pub const ABSOLUTE: u32 = 1;
}
#[cfg(target_arch = "aarch64")]
pub(crate) mod kind {
    pub const JUMP_SLOT: u32 = 1026;
    pub const GLOB_DAT: u32 = 1025;
    pub const ABSOLUTE: u32 = 257;
}

/// A relocated word that holds the address of a named function.
pub struct Slot<'a> {
    /// Where the word is: aligned, and in a writable segment of its object (which the loader may have made
    /// read-only since).
    pub address: usize,
    name: u32,
    object: &'a LoadedObject<'a>,
    /// Bound at the first call: the slot may still point back into its own object.
    pub lazy: bool,
    /// The object only refers to the symbol; somebody else defines it.
    pub undefined: bool,
}

impl<'a> Slot<'a> {
    /// Whose address the loader puts there.
    pub fn symbol_name(&self) -> &'a CStr {
        self.object.tables.name(self.name)
    }

    /// `None` for relocations that no function's address comes from. So it is, too, for a word that is not
    /// aligned, as in a packed structure: it could not be exchanged in one step.
    fn new(
        object: &'a LoadedObject<'a>,
        rela: &Rela,
        symbols: &mut Symbols<'a, impl FnMut(&CStr, bool) -> bool>,
    ) -> Option<Slot<'a>> {
        let kind = rela.r_info as u32;
        let index = (rela.r_info >> 32) as usize;
        let relevant = matches!(kind, kind::JUMP_SLOT | kind::GLOB_DAT | kind::ABSOLUTE);
        let address = object.base.wrapping_add(rela.r_offset as usize);
        if !relevant || index == 0 || rela.r_addend != 0 || !address.is_multiple_of(align_of::<usize>()) {
            return None;
        }
        let symbol = symbols.get(index)?;
        Some(Slot {
            address,
            name: symbol.st_name,
            object,
            lazy: kind == kind::JUMP_SLOT,
            undefined: symbol.st_shndx == SHN_UNDEF,
        })
    }
}

/// The symbols of an object, of which only some are wanted: each is looked at once, however many slots it has.
struct Symbols<'a, W> {
    object: &'a LoadedObject<'a>,
    wanted: W,
    known: Vec<Option<bool>>,
}

impl<W: FnMut(&CStr, bool) -> bool> Symbols<'_, W> {
    fn get(&mut self, index: usize) -> Option<Sym> {
        let known = self.known.get(index).copied().flatten();
        if known == Some(false) {
            return None;
        }
        let tables = &self.object.tables;
        let symbol = tables.symbols.get(index)?;
        let is_wanted = known.unwrap_or_else(|| {
            let is_wanted = (self.wanted)(tables.name(symbol.st_name), symbol.st_shndx == SHN_UNDEF);
            self.known.resize(self.known.len().max(index + 1), None);
            self.known[index] = Some(is_wanted);
            is_wanted
        });
        is_wanted.then_some(symbol)
    }
}

/// Those of the symbols that are `wanted`, by name and whether the object only refers to it; the lazy ones first. A
/// table whose size is no multiple of an entry's ends with the last whole one.
///
/// The loader has followed every relocation, and of all but the lazy ones the symbol: where that led outside
/// of the object it would have failed. Here such a relocation is passed over. So is one in the code (a text
/// relocation), which cannot be written.
pub(crate) fn slots<'a>(
    object: &'a LoadedObject<'a>,
    wanted: impl FnMut(&CStr, bool) -> bool + 'a,
) -> impl Iterator<Item = Slot<'a>> + 'a {
    let relocations = object.tables.jump.iter().chain(object.tables.rela.iter());
    // Nearly always that of the slot before.
    let mut segment = (0, 0);
    let mut symbols = Symbols {
        object,
        wanted,
        known: Vec::new(),
    };
    relocations.filter_map(move |rela| {
        let slot = Slot::new(object, &rela, &mut symbols)?;
        let fits = |segment| room(segment, slot.address) >= size_of::<usize>();
        if !fits(segment) {
            segment = object.segments.around(PF_W, slot.address)?;
        }
        fits(segment).then_some(slot)
    })
}

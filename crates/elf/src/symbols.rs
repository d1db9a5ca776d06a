//! Symbols: their names, and finding a definition by name.

use std::ffi::CStr;
use std::iter::{from_fn, successors};

use crate::dynamic::Tables;
use crate::memory::Table;

#[cfg(target_pointer_width = "64")]
use libc::Elf64_Sym as Sym;

pub(crate) const SHN_UNDEF: u16 = 0;
const SHN_ABS: u16 = 0xfff1;

const STB_GLOBAL: u8 = 1;
const STB_WEAK: u8 = 2;
const STB_GNU_UNIQUE: u8 = 10;

const STT_NOTYPE: u8 = 0;
const STT_OBJECT: u8 = 1;
const STT_FUNC: u8 = 2;
const STT_COMMON: u8 = 5;

/// In the table of versions: only references that ask for this very version find the symbol.
const VERSYM_HIDDEN: u16 = 0x8000;

impl<'a> Tables<'a> {
    /// Value and size of the symbol that defines `name`.
    pub(crate) fn definition(&self, name: &CStr) -> Option<(usize, usize)> {
        let wanted = name.to_bytes();
        let value = |index| {
            let symbol = self.symbols.get(index)?;
            let found = self.is_definition(index, &symbol) && self.name(symbol.st_name) == name;
            found.then_some((symbol.st_value as usize, symbol.st_size as usize))
        };
        // The loader, too, looks into the old table only where there is no new one.
        match self.gnu_hash.get(0) {
            Some(_) => in_gnu_hash(self.gnu_hash, wanted).find_map(value),
            None => in_sysv_hash(self.sysv_hash, wanted).find_map(value),
        }
    }

    /// The name at `offset` in the string table; empty where there is none.
    pub(crate) fn name(&self, offset: u32) -> &'a CStr {
        let rest = self.strings.bytes().get(offset as usize..);
        CStr::from_bytes_until_nul(rest.unwrap_or_default()).unwrap_or_default()
    }

    /// As glibc decides (`check_match` in elf/dl-lookup.c), and only what has an address: the value of a
    /// thread-local variable is an offset, that of an absolute symbol is no place in the object, and that of
    /// an indirect function belongs to the function that chooses it.
    fn is_definition(&self, index: usize, symbol: &Sym) -> bool {
        let (binding, kind) = (symbol.st_info >> 4, symbol.st_info & 0xf);
        let hidden = self.versions.get(index).unwrap_or(0) & VERSYM_HIDDEN != 0;
        !matches!(symbol.st_shndx, SHN_UNDEF | SHN_ABS)
            && symbol.st_value != 0
            && matches!(binding, STB_GLOBAL | STB_WEAK | STB_GNU_UNIQUE)
            && matches!(kind, STT_NOTYPE | STT_OBJECT | STT_FUNC | STT_COMMON)
            && !hidden
    }
}

/// The symbols that may have the name, by `DT_GNU_HASH`. Its words: number of buckets, first symbol in the
/// table, number of bloom words, a shift; the bloom words (of 64 bits), which only say no faster; the
/// buckets, each the first symbol of a chain or 0; for each symbol its hash, the lowest bit set at the end
/// of a chain. A chain that does not end, which the loader would follow into a fault, ends with the table.
fn in_gnu_hash(table: Table<'_, u32>, name: &[u8]) -> impl Iterator<Item = usize> {
    let hash = name.iter().fold(5381u32, |hash, byte| {
        hash.wrapping_mul(33).wrapping_add(u32::from(*byte))
    });
    let word = move |at| table.get(at).map_or(0, |word| word as usize);
    let (count, first, bloom) = (word(0), word(1), word(2));
    let buckets = 4 + 2 * bloom;
    // A table without buckets has no symbols (glibc, `do_lookup_x`).
    let start = (hash as usize)
        .checked_rem(count)
        .map_or(0, |bucket| word(buckets + bucket));
    let mut next = (start != 0 && start >= first).then_some(start);
    from_fn(move || {
        loop {
            let index = next?;
            let entry = table.get(buckets + count + (index - first))?;
            next = (entry & 1 == 0).then_some(index + 1);
            if entry | 1 == hash | 1 {
                return Some(index);
            }
        }
    })
}

/// The symbols that may have the name, by `DT_HASH`. Its words: number of buckets, number of symbols; the
/// buckets, each the first symbol of a chain or 0; for each symbol the next one of its chain or 0.
fn in_sysv_hash(table: Table<'_, u32>, name: &[u8]) -> impl Iterator<Item = usize> {
    let hash = name.iter().fold(0u32, |hash, byte| {
        let hash = (hash << 4).wrapping_add(u32::from(*byte));
        let high = hash & 0xf000_0000;
        (hash ^ high >> 24) & !high
    });
    let word = move |at| table.get(at).map_or(0, |word| word as usize);
    let (buckets, symbols) = (word(0), word(1));
    let start = (hash as usize)
        .checked_rem(buckets)
        .map_or(0, |bucket| word(2 + bucket));
    // A chain that leads back into itself, in which the loader would go round for ever, ends when it has had
    // as many symbols as there are.
    successors(Some(start), move |symbol| Some(word(2 + buckets + symbol)))
        .take_while(|symbol| *symbol != 0)
        .take(symbols)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found_in_gnu_hash(table: &[u32]) -> Vec<usize> {
        in_gnu_hash(table.into(), b"").collect()
    }

    fn found_in_sysv_hash(table: &[u32]) -> Vec<usize> {
        in_sysv_hash(table.into(), b"").collect()
    }

    #[test]
    fn tables_without_buckets_have_no_symbols() {
        assert_eq!(found_in_gnu_hash(&[0, 1, 1, 6, 0, 0, 5381]), []);
        assert_eq!(found_in_sysv_hash(&[0, 2, 1, 0, 0]), []);
        assert_eq!(found_in_gnu_hash(&[]), []);
        assert_eq!(found_in_sysv_hash(&[]), []);
    }

    #[test]
    fn a_bucket_below_the_first_symbol_is_empty() {
        assert_eq!(found_in_gnu_hash(&[1, 3, 1, 6, 0, 0, 2, 5381]), []);
        assert_eq!(found_in_gnu_hash(&[1, 0, 1, 6, 0, 0, 0, 5381]), []);
        assert_eq!(found_in_gnu_hash(&[1, 1, 1, 6, 0, 0, 1, 5381]), [1]);
    }

    #[test]
    fn a_chain_without_an_end_ends_with_the_table() {
        assert_eq!(found_in_gnu_hash(&[1, 1, 1, 6, 0, 0, 1, 5380, 8, 5380]), [1, 3]);
        assert_eq!(found_in_sysv_hash(&[1, 3, 1, 0, 2, 1]), [1, 2, 1]);
        assert_eq!(found_in_sysv_hash(&[1, 9, 1, 0, 2, 7]), [1, 2, 7]);
    }
}

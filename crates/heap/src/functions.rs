//! The functions by which allocators are recognised and asked, in one object.
//!
//! Most are exported. A library that brought an allocator along for itself keeps them to itself; then the
//! symbol table of its file has them, unless it was stripped. A function from a file counts only if its code
//! is what lies in memory: the file may have been replaced since it was loaded.

use std::ffi::CStr;
use std::fs::File;

use leaktight_elf::LoadedObject;
use object::elf::{FileHeader64, PT_LOAD, SHN_UNDEF, SHT_SYMTAB, STT_FUNC};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader, Sym};
use object::{Endianness, ReadCache, ReadRef, StringTable};

use crate::loaded::Object;

/// By the names of the allocators' manuals.
const NAMES: [&CStr; 19] = [
    c"__libc_start_main",
    c"gnu_get_libc_version",
    c"mallinfo",
    c"mallinfo2",
    c"malloc_trim",
    c"mcheck",
    c"mallctl",
    c"mi_collect",
    c"mi_heap_get_default",
    c"mi_heap_visit_blocks",
    c"mi_process_info",
    c"mi_stats_get_json",
    c"mi_stats_print_out",
    c"mi_version",
    c"MallocExtension_GetNumericProperty",
    c"MallocExtension_ReleaseFreeMemory",
    c"MallocExtension_Internal_GetNumericProperty",
    c"MallocExtension_Internal_ReleaseMemoryToSystem",
    c"tc_version",
];

/// jemalloc is built with a prefix of its user's choice. These are exported by some library.
const MALLCTL_WITH_PREFIX: [&CStr; 3] = [c"je_mallctl", c"_rjem_mallctl", c"duckdb_je_mallctl"];

/// Names with addresses in memory.
#[derive(Default)]
pub(crate) struct Functions(Vec<(&'static CStr, usize)>);

impl Functions {
    /// Those that the object exports.
    pub(crate) fn exported(object: &LoadedObject<'_>) -> Functions {
        let named = NAMES.iter().map(|name| (*name, *name));
        let prefixed = MALLCTL_WITH_PREFIX.iter().map(|name| (*name, c"mallctl"));
        let found = named
            .chain(prefixed)
            .filter_map(|(name, manual)| Some((manual, object.defines(name)?)));
        Functions(found.collect())
    }

    /// Those in the symbol table of the file that an object was loaded from, and whether it still is that file.
    /// The object is held in memory by the caller.
    pub(crate) fn in_file(object: &Object) -> Option<(Functions, bool)> {
        let mut found = Functions::default();
        let mut is_loaded = true;
        let cache = ReadCache::new(File::open(object.file()).ok()?);
        for function in functions_of(&cache).ok()? {
            let address = object.base.wrapping_add(function.address as usize);
            is_loaded &= cache
                .read_bytes_at(function.offset, function.len)
                .is_ok_and(|code| object.has_code(address, code));
            found.0.push((function.name, address));
        }
        Some((found, is_loaded))
    }

    pub(crate) fn address(&self, name: &CStr) -> Option<usize> {
        let found = self.0.iter().find(|(known, _)| *known == name);
        found.map(|(_, address)| *address)
    }

    /// # Safety
    /// `F` is the type of a pointer to the function of this name. It may be called as long as its library is
    /// loaded.
    pub(crate) unsafe fn get<F: Copy>(&self, name: &CStr) -> Option<F> {
        const { assert!(size_of::<F>() == size_of::<usize>()) }
        // SAFETY: an address and a function pointer are one word each; the caller answers for the type.
        self.address(name)
            .map(|address| unsafe { std::mem::transmute_copy(&address) })
    }
}

/// A function in a file.
struct InFile {
    name: &'static CStr,
    address: u64,
    offset: u64,
    len: u64,
}

fn functions_of<'data>(data: impl ReadRef<'data>) -> object::Result<Vec<InFile>> {
    let header = FileHeader64::<Endianness>::parse(data)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, data)?;
    let symbols = sections.symbols(endian, data, SHT_SYMTAB)?;
    // At once, since there may be hundreds of thousands of names.
    let names = sections.section(symbols.string_section())?.data(endian, data)?;
    let names = StringTable::new(names, 0, names.len() as u64);
    let segments = header.program_headers(endian, data)?;
    let mut found = Vec::new();
    for symbol in symbols.iter() {
        let defined = symbol.st_type() == STT_FUNC && symbol.st_shndx(endian) != SHN_UNDEF;
        let Some(name) = symbol
            .name(endian, names)
            .ok()
            .and_then(manual_name)
            .filter(|_| defined)
        else {
            continue;
        };
        let (address, len) = (symbol.st_value(endian), symbol.st_size(endian));
        let segment = segments.iter().find(|segment| {
            segment.p_type(endian) == PT_LOAD
                && address.wrapping_sub(segment.p_vaddr(endian)) < segment.p_filesz(endian)
        });
        if let Some(segment) = segment {
            let inside = address.wrapping_sub(segment.p_vaddr(endian));
            let offset = segment.p_offset(endian).wrapping_add(inside);
            found.push(InFile {
                name,
                address,
                offset,
                len,
            });
        }
    }
    Ok(found)
}

/// `je_arrow_mallctl` is a `mallctl`, whatever the prefix.
fn manual_name(symbol: &[u8]) -> Option<&'static CStr> {
    if symbol
        .strip_suffix(b"mallctl")
        .is_some_and(|prefix| prefix.windows(2).any(|pair| pair == b"je"))
    {
        return Some(c"mallctl");
    }
    NAMES.into_iter().find(|name| name.to_bytes() == symbol)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_mallctl_is_one_with_any_prefix_of_jemallocs() {
        for name in [
            "mallctl",
            "je_mallctl",
            "_rjem_mallctl",
            "duckdb_je_mallctl",
            "je_arrow_mallctl",
        ] {
            assert_eq!(manual_name(name.as_bytes()), Some(c"mallctl"), "{name}");
        }
        for name in ["mallctlbymib", "my_mallctl", "mi_versions", "", "je_mallctl\u{fe}"] {
            assert_eq!(manual_name(name.as_bytes()), None, "{name}");
        }
    }

    /// This program's file, whose headers and tables are where damage would matter.
    fn own_file() -> (Vec<u8>, Vec<usize>) {
        let file = std::fs::read("/proc/self/exe").unwrap();
        let header = FileHeader64::<Endianness>::parse(&*file).unwrap();
        let endian = header.endian().unwrap();
        let sections = header.e_shoff(endian) as usize;
        let places = (4..1024).chain(sections..file.len()).collect();
        (file, places)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_damaged_file_is_read_or_refused(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
            let (mut file, places) = own_file();
            for (place, byte) in damage {
                file[*place.get(&places)] = byte;
            }
            let _ = functions_of(&*file);
        }
    }
}

//! What is read from memory is what another reader, the `object` crate, finds in the files on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use leaktight_elf::{LoadedObject, loaded_objects};
use object::read::elf::{ElfFile64, ProgramHeader, Sym};
use object::{Endianness, Object, RelocationFlags, RelocationTarget, elf};

/// Symbol name, lazy, undefined; by address in the file.
type Slots = BTreeMap<u64, (CString, bool, bool)>;

/// What a file says.
#[derive(Default)]
struct Content {
    names: BTreeSet<CString>,
    defined: BTreeMap<CString, u64>,
    slots: Slots,
    /// Relocations that would be slots, were the word aligned and its segment writable.
    unfit: usize,
    gnu_hash: bool,
}

impl Content {
    fn read(path: &Path) -> Content {
        let bytes = std::fs::read(path).unwrap();
        let file = ElfFile64::<Endianness>::parse(&bytes[..]).unwrap();
        let endian = file.endian();
        let symbols = file.elf_dynamic_symbol_table();
        let name =
            |symbol: &elf::Sym64<Endianness>| CString::new(symbols.symbol_name(endian, symbol).unwrap()).unwrap();
        let sections = file.elf_section_table();
        let mut content = Content {
            gnu_hash: sections.gnu_hash(endian, &bytes[..]).unwrap().is_some(),
            ..Content::default()
        };
        let versions = sections.versions(endian, &bytes[..]).unwrap();
        for (index, symbol) in symbols.enumerate() {
            content.names.insert(name(symbol));
            let default = versions
                .as_ref()
                .is_none_or(|versions| !versions.version_index(endian, index).is_hidden());
            let elsewhere = symbol.is_local() || symbol.st_value.get(endian) == 0;
            if symbol.is_definition(endian, symbols.strings()) && default && !elsewhere {
                let other = content.defined.insert(name(symbol), symbol.st_value.get(endian));
                assert!(other.is_none(), "two default versions of {:?}", name(symbol));
            }
        }
        for (address, relocation) in file.dynamic_relocations().unwrap() {
            let (RelocationFlags::Elf { r_type }, RelocationTarget::Symbol(index)) =
                (relocation.flags(), relocation.target())
            else {
                continue;
            };
            let lazy = [elf::R_X86_64_JUMP_SLOT, elf::R_AARCH64_JUMP_SLOT].contains(&r_type);
            let word = [
                elf::R_X86_64_64,
                elf::R_X86_64_GLOB_DAT,
                elf::R_AARCH64_ABS64,
                elf::R_AARCH64_GLOB_DAT,
            ];
            if relocation.addend() != 0 || !lazy && !word.contains(&r_type) {
                continue;
            }
            let writable = file.elf_program_headers().iter().any(|header| {
                let place = address.wrapping_sub(header.p_vaddr(endian));
                header.p_type(endian) == elf::PT_LOAD
                    && header.p_flags(endian).contains(elf::PF_W)
                    && place < header.p_memsz(endian)
            });
            if writable && address % 8 == 0 {
                let symbol = symbols.symbol(index).unwrap();
                content
                    .slots
                    .insert(address, (name(symbol), lazy, symbol.is_undefined(endian)));
            } else {
                content.unfit += 1;
            }
        }
        content
    }
}

/// Compiles a library of the rare cases and loads it.
fn load_made(name: &str, options: &[&str]) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let library = folder.join(format!("lib{name}.so"));
    let versions = folder.join(format!("{name}.map"));
    std::fs::write(&versions, "FIRST {};\nSECOND {} FIRST;\n").unwrap();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/made.c");
    let mut command = Command::new(std::env::var_os("CC").unwrap_or("cc".into()));
    command
        .args(["-shared", "-fPIC", "-O1", "-Wl,-z,notext", source, "-o"])
        .arg(&library)
        .args(options);
    if options.contains(&"-DVERSIONS") {
        command.arg(format!("-Wl,--version-script={}", versions.display()));
    }
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(
        load(&CString::new(library.as_os_str().as_bytes()).unwrap()),
        "{}",
        library.display()
    );
    library
}

/// Whether the library is there. It stays loaded.
fn load(name: &CStr) -> bool {
    // SAFETY: the initialisers of well-known libraries, and of those made here.
    !unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_LOCAL) }.is_null()
}

fn path(object: &LoadedObject<'_>) -> PathBuf {
    match object.name().to_bytes() {
        b"" => PathBuf::from("/proc/self/exe"),
        name => PathBuf::from(OsStr::from_bytes(name)),
    }
}

#[test]
fn memory_says_what_the_files_say() {
    let made = [
        load_made("gnu", &["-Wl,--hash-style=gnu", "-Wl,-z,lazy", "-DVERSIONS"]),
        load_made("sysv", &["-Wl,--hash-style=sysv", "-Wl,-z,lazy", "-DVERSIONS"]),
        load_made("both", &["-Wl,--hash-style=both", "-Wl,-z,now"]),
        load_made(
            "sysv-now",
            &["-Wl,--hash-style=sysv", "-Wl,-z,now", "-Wl,--export-dynamic"],
        ),
    ];
    // Whatever this machine has of these.
    for name in [
        c"libstdc++.so.6",
        c"libsqlite3.so.0",
        c"libssl.so.3",
        c"libpython3.so",
        c"libz.so.1",
    ] {
        load(name);
    }
    let mut paths = Vec::new();
    loaded_objects(|object| paths.push(path(object)));
    let contents: BTreeMap<PathBuf, Content> = paths
        .into_iter()
        .filter(|path| path.exists())
        .map(|path| (path.clone(), Content::read(&path)))
        .collect();
    // The program itself, libc, the loader, what was made.
    assert!(contents.len() >= 3 + made.len());
    let names: BTreeSet<&CString> = contents.values().flat_map(|content| &content.names).collect();

    let mut without_file = Vec::new();
    loaded_objects(|object| {
        let path = path(object);
        let Some(content) = contents.get(&path) else {
            without_file.push(path);
            return;
        };
        for name in &names {
            let expected = content.defined.get(*name).map(|value| object.base + *value as usize);
            assert_eq!(object.defines(name), expected, "{name:?} in {path:?}");
        }
        let mut count = 0;
        let slots = object.slots(|_, _| true).inspect(|_| count += 1);
        let slots: Slots = slots
            .map(|slot| {
                (
                    (slot.address - object.base) as u64,
                    (slot.symbol_name().to_owned(), slot.lazy, slot.undefined),
                )
            })
            .collect();
        for name in &names {
            let referred = slots.iter().any(|(_, (of, _, undefined))| *undefined && of == *name);
            assert!(object.imports(name) || !referred, "{name:?} in {path:?}");
        }
        assert!(!object.imports(c"nobody_defines_this"), "{path:?}");
        assert_eq!(slots, content.slots, "{path:?}");
        assert_eq!(count, slots.len(), "{path:?} has a slot twice");
    });
    // Only what the kernel maps has none.
    assert!(
        without_file.iter().all(|path| path.starts_with("linux-vdso.so.1")),
        "{without_file:?}"
    );

    for path in made {
        let content = &contents[&path];
        assert_ne!(content.gnu_hash, path.to_string_lossy().contains("sysv"), "{path:?}");
        for name in [c"number", c"call", c"in_data"] {
            assert!(content.defined.contains_key(name), "{name:?} in {path:?}");
        }
        for name in [c"of_each_thread", c"indirect", c"nowhere", c"malloc"] {
            assert!(
                content.names.contains(name) && !content.defined.contains_key(name),
                "{name:?} in {path:?}"
            );
        }
        assert_eq!(
            content.unfit, 2,
            "the word in the packed structure and the one in the code"
        );
    }
}

//! Objects that the loader does not list: those of namespaces of their own (dlmopen(3)).
//!
//! They are told by what is mapped: a file from its beginning, with the header of an object (System V ABI, "ELF header"
//! and "program header"), and its code where the header says. Nobody says when they go, so all is read through the kernel,
//! and copied.

use std::ops::Range;

use leaktight_memory::{Kind, Mapping, Memory, mappings};
use leaktight_stacks::Module;
use libc::{PF_X, PT_GNU_EH_FRAME, PT_LOAD};

/// Bytes of an ELF header and of a program header, 64-bit.
const HEADER: usize = 64;
const ENTRY: usize = 56;
/// Objects have some ten segments, of at most so many bytes.
const MOST_ENTRIES: usize = 64;
const MOST_BYTES: usize = 256 << 20;

/// Those that are not among the known ones.
pub(crate) fn modules(known: &[Module]) -> Vec<Module> {
    let (Ok(all), Ok(memory)) = (mappings(), Memory::open()) else {
        return Vec::new();
    };
    let is_new = |mapping: &&Mapping| {
        let is_known = known
            .iter()
            .any(|module| (module.range.0..module.range.1).contains(&mapping.start));
        mapping.kind == Kind::File && mapping.offset == 0 && mapping.readable && !is_known
    };
    let is_code = |file, address| {
        let mut code = all.iter().filter(|mapping| mapping.executable && mapping.file == file);
        code.any(|mapping| mapping.contains(address))
    };
    let module = |mapping: &Mapping| {
        let read = |at: usize, len: usize| {
            let mut bytes = vec![0; len];
            memory.read(mapping.start.checked_add(at)?, &mut bytes);
            Some(bytes)
        };
        let (at, len) = entries(&read(0, HEADER)?)?;
        let segments = segments(&read(at, len)?);
        let loads = || segments.iter().filter(|segment| segment.kind == PT_LOAD);
        let first = loads().map(|segment| segment.range.start).min()?;
        let base = mapping.start.wrapping_sub(first);
        let place = |range: &Range<usize>| (base.wrapping_add(range.start), base.wrapping_add(range.end));
        let code = loads().find(|segment| segment.flags & PF_X != 0)?;
        let table = &segments.iter().find(|segment| segment.kind == PT_GNU_EH_FRAME)?.range;
        let around = &loads().find(|segment| segment.range.contains(&table.start))?.range;
        let end = loads().map(|segment| segment.range.end).max()?;
        if !is_code(mapping.file, place(&code.range).0) || around.len() > MOST_BYTES {
            return None;
        }
        let mut copy = vec![0; around.len()];
        memory.read(place(around).0, &mut copy);
        Some(Module {
            base,
            range: (mapping.start, base.wrapping_add(end)),
            unwind_table: (place(table).0, table.len()),
            unwind_segment: place(around),
            copy: Some(copy),
        })
    };
    all.iter().filter(is_new).filter_map(module).collect()
}

/// Where in the file the program headers are, and how many bytes.
fn entries(header: &[u8]) -> Option<(usize, usize)> {
    const MAGIC_64: &[u8] = b"\x7fELF\x02";
    let at = word(header, 32)?;
    let size = half(header, 54)?;
    let count = half(header, 56)?;
    let is_sound = header.starts_with(MAGIC_64) && size == ENTRY && (1..=MOST_ENTRIES).contains(&count);
    (is_sound && at <= 1 << 20).then_some((at, count * ENTRY))
}

struct Segment {
    kind: u32,
    flags: u32,
    /// As the file states it.
    range: Range<usize>,
}

fn segments(entries: &[u8]) -> Vec<Segment> {
    let segment = |entry: &[u8]| {
        let start = word(entry, 16)?;
        Some(Segment {
            kind: quarter(entry, 0)?,
            flags: quarter(entry, 4)?,
            range: start..start.checked_add(word(entry, 40)?)?,
        })
    };
    entries.chunks_exact(ENTRY).filter_map(segment).collect()
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..at + 8)?.try_into().ok()?;
    usize::try_from(u64::from_ne_bytes(word)).ok()
}

fn quarter(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_is_found_where_nothing_is_known() {
        let here = modules as *const () as usize;
        let found = modules(&[]);
        let own = found
            .iter()
            .find(|module| (module.range.0..module.range.1).contains(&here));
        let own = own.expect("a program with unwind tables");
        let known = [own.clone()];
        let others = modules(&known);
        assert!(others.iter().all(|module| module.range != own.range), "{:?}", own.range);
        assert!(own.unwind_table.1 >= 8 && own.copy.as_ref().is_some_and(|copy| copy.iter().any(|byte| *byte != 0)));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = entries(&bytes);
            let _ = segments(&bytes);
        }
    }
}

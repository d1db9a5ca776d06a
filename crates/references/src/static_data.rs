//! Objects that only a variable of an extension module refers to, and interned strings.
//!
//! No collector knows these. A word of static data is taken for an object if what it points to is laid out as a
//! text, as bytes or as a static type in every field that can be checked: counts are written to, so nothing may be
//! taken for an object that is none. (Whatever else has a count and a type there is tracked by the collector, or
//! passed over.)

use std::cell::Cell;
use std::io::{Error, Result};
use std::sync::atomic::{AtomicUsize, Ordering};

use leaktight_elf::loaded_objects;
use leaktight_liveset::{MappedVec, own_memory};
use leaktight_memory::{Pages, Which, mappings};

use crate::addresses::AddressSet;
use crate::runtime::{Address, Runtime};

/// What is found, given the `types` that are known, in static data and among the words `fields`.
///
/// # Safety
///
/// The types are alive, and the GIL is held.
pub(crate) unsafe fn objects(runtime: &Runtime, types: &AddressSet, fields: &[usize]) -> Result<AddressSet> {
    let memory = Memory::of_process()?;
    let mut found = candidates(&memory, runtime, types, fields)?;
    // SAFETY: the GIL is held.
    if let Some(interned) = unsafe { interned(&memory, runtime) } {
        let mut result = Ok(());
        // SAFETY: an exact dict.
        unsafe {
            runtime.items(interned, |key, _| {
                result = found.insert(key).map(drop);
                result.is_ok()
            });
        }
        result.map_err(Error::other)?;
    }
    Ok(found)
}

/// Objects that the data of extension modules refers to, and those words.
fn candidates(memory: &Memory, runtime: &Runtime, types: &AddressSet, fields: &[usize]) -> Result<AddressSet> {
    let mut values = MappedVec::new();
    for value in fields
        .iter()
        .filter(|value| memory.is_private(**value) && !memory.is_static(**value))
    {
        values.push(*value).map_err(Error::other)?;
    }
    let mut buffer = [0usize; 512 * HEAD];
    let mut result = Ok(());
    for segment in memory
        .data
        .all
        .iter()
        .filter(|segment| !(segment.0..segment.1).contains(&runtime.dict_type()))
    {
        memory.each_word(segment, &mut buffer, |_, value| {
            // What the allocators hand out is aligned to 16 bytes, static types to 8.
            if value % 8 == 0 && (memory.is_static(value) || value % 16 == 0 && memory.is_private(value)) {
                result = values.push(value).and(result);
            }
        });
    }
    result.map_err(Error::other)?;
    values.sort_unstable();
    let mut found = AddressSet::new();
    let (mut result, mut last) = (Ok(false), 0);
    memory.each_head(&values, |value, head| {
        let is_new = std::mem::replace(&mut last, value) != value;
        let is_object = runtime.count_in(head[0]).is_some() && types.contains(&head[1]) && !memory.is_own(value);
        if is_new && is_object && is_sound(memory, runtime, value, head) {
            result = found.insert(value).and(result);
        }
    });
    result.map_err(Error::other)?;
    Ok(found)
}

/// The dict of interned strings, to which only the runtime's own data refers.
///
/// # Safety
///
/// The GIL is held.
unsafe fn interned(memory: &Memory, runtime: &Runtime) -> Option<Address> {
    /// Where the runtime keeps it, once that is known.
    static VARIABLE: AtomicUsize = AtomicUsize::new(0);
    let mut head = [0; 1 + HEAD];
    let known = VARIABLE.load(Ordering::Relaxed);
    if known != 0 && memory.read([(known, 8)].into_iter(), &mut head) == 8 {
        let value = head[0];
        let is_whole = memory.is_heap(value) && memory.read([(value, HEAD * 8)].into_iter(), &mut head) == HEAD * 8;
        // SAFETY: the GIL is held.
        if is_whole && unsafe { is_interned(runtime, value, &head[..HEAD]) } {
            return Some(value);
        }
    }
    // Variables that nobody has given a value come last.
    const PIECE: usize = 64 << 10;
    let mut buffer = [0usize; 512 * HEAD];
    let own = |segment: &&Range| (segment.0..segment.1).contains(&runtime.dict_type());
    for segment in memory.data.all.iter().filter(own) {
        for from in (segment.0..segment.1).step_by(PIECE).rev() {
            let piece = (from, segment.1.min(from + PIECE));
            let (mut variables, mut values) = (MappedVec::new(), MappedVec::new());
            memory.each_word(&piece, &mut buffer, |at, value| {
                if value % 16 == 0 && memory.is_heap(value) && variables.push(at).is_ok() {
                    // Without room for it the search ends here.
                    let _ = values.push(value);
                }
            });
            let mut found = None;
            memory.each_head(&values, |value, head| {
                // SAFETY: the GIL is held.
                if found.is_none() && unsafe { is_interned(runtime, value, head) } {
                    found = Some(value);
                }
            });
            if let Some(at) = values.iter().position(|value| Some(*value) == found) {
                VARIABLE.store(variables[at], Ordering::Relaxed);
                return found;
            }
        }
    }
    None
}

/// Words at the start of an object that are looked at.
const HEAD: usize = 5;

/// Whether this is a `str` or a `bytes`, not of a subclass, or a static type.
fn is_sound(memory: &Memory, runtime: &Runtime, object: Address, head: &[usize]) -> bool {
    let [_, of, len, _, state] = *head else { return false };
    if memory.is_static(object) {
        // SAFETY: `of` is a type, and the object has the room of one.
        return unsafe { runtime.is_type(object) && runtime.is_static_type(object) };
    }
    if of == runtime.str_type() {
        // Bits of `PyASCIIObject.state` (Include/cpython/unicodeobject.h): interned 2, kind 3, compact 1. Nobody writes the
        // bytes above them.
        len <= 1 << 40 && matches!(state >> 2 & 7, 1 | 2 | 4) && state >> 5 & 1 == 1
    } else if of == runtime.bytes_type() {
        // The text ends with a zero byte (Include/cpython/bytesobject.h).
        let mut end = [0];
        let last = object.wrapping_add(32).wrapping_add(len);
        len <= 1 << 40
            && memory.is_heap(last)
            && memory.read([(last & !7, 8)].into_iter(), &mut end) == 8
            && end[0].to_ne_bytes()[last & 7] == 0
    } else {
        false
    }
}

/// Whether this is the dict of interned strings: a large one, in which each key is its own value.
///
/// # Safety
///
/// The GIL is held.
unsafe fn is_interned(runtime: &Runtime, object: Address, head: &[usize]) -> bool {
    const LEAST: usize = 300;
    const TRIED: usize = 20;
    if head[1] != runtime.dict_type() || runtime.count_in(head[0]).is_none() || head[2] < LEAST {
        return false;
    }
    let mut equal = 0;
    // SAFETY: a live object, and its type says that it is a dict.
    unsafe {
        runtime.items(object, |key, value| {
            equal += usize::from(key == value);
            key == value && equal < TRIED
        });
    }
    equal == TRIED
}

/// How the process's memory is laid out, and how to read it.
struct Memory {
    reader: leaktight_memory::Memory,
    pages: Pages,
    /// Private writable mappings.
    mappings: Ranges,
    /// Data of loaded objects.
    data: Ranges,
    /// Those that are tables of our own, which may go away as they grow.
    own: MappedVec<(usize, usize)>,
}

/// From and until.
type Range = (usize, usize);

/// Ranges by rising address.
struct Ranges {
    all: MappedVec<Range>,
    /// That which the last address lay in, or the gap between two.
    last: Cell<(usize, usize, bool)>,
}

impl From<MappedVec<Range>> for Ranges {
    fn from(mut all: MappedVec<Range>) -> Ranges {
        all.sort_unstable_by_key(|range| range.0);
        Ranges {
            all,
            last: Cell::new((0, 0, false)),
        }
    }
}

impl Ranges {
    /// Whether a range goes on for so many bytes from `address` on.
    fn has_room(&self, address: usize, room: usize) -> bool {
        let (start, end, _) = self.last.get();
        if !(start..end).contains(&address) {
            self.last.set(self.around(address));
        }
        let (_, end, is_range) = self.last.get();
        is_range && end - address >= room
    }

    fn around(&self, address: usize) -> (usize, usize, bool) {
        let after = self.all.partition_point(|(start, _)| *start <= address);
        let next = self.all.get(after).map_or(usize::MAX, |(start, _)| *start);
        let (start, end) = after.checked_sub(1).map_or((0, 0), |at| self.all[at]);
        if address < end {
            (start, end, true)
        } else {
            (end, next, false)
        }
    }
}

impl Memory {
    fn of_process() -> Result<Memory> {
        let own = own_memory();
        let mut private: MappedVec<Range> = MappedVec::new();
        for mapping in mappings()?.iter() {
            if mapping.readable && mapping.writable && !mapping.shared {
                private.push((mapping.start, mapping.end)).map_err(Error::other)?;
            }
        }
        let mut data: MappedVec<Range> = MappedVec::new();
        let mut result = Ok(());
        loaded_objects(|object| {
            for (start, len) in object.writable() {
                result = data.push((start, start + len)).and(result);
            }
        });
        result.map_err(Error::other)?;
        Ok(Memory {
            reader: leaktight_memory::Memory::open()?,
            pages: Pages::open(),
            mappings: private.into(),
            data: data.into(),
            own,
        })
    }

    /// Whether the head of an object may stand here, in memory that is no data of a loaded object.
    fn is_heap(&self, address: usize) -> bool {
        self.is_private(address) && !self.is_static(address) && !self.is_own(address)
    }

    /// Whether the head of an object has room here.
    fn is_private(&self, address: usize) -> bool {
        self.mappings.has_room(address, HEAD * 8)
    }

    /// Whether a static type may stand here.
    fn is_static(&self, address: usize) -> bool {
        const ROOM: usize = 256;
        self.data.has_room(address, ROOM)
    }

    fn is_own(&self, address: usize) -> bool {
        let mut own = self.own.iter();
        own.any(|(start, len)| address.wrapping_sub(*start).wrapping_add(HEAD * 8) < len + HEAD * 8)
    }

    /// Calls `each` with the address and the value of each word of a segment that is not zero. Pages that nobody has
    /// touched are not read, which would make them resident.
    fn each_word(&self, segment: &Range, buffer: &mut [usize], mut each: impl FnMut(usize, usize)) {
        let (start, end) = (segment.0.next_multiple_of(8), segment.1 & !7);
        self.pages.each(Which::Resident, segment.0..segment.1, &mut |run| {
            let (start, end) = (run.start.max(start), run.end.min(end));
            for from in (start..end).step_by(size_of_val(buffer)) {
                let len = size_of_val(buffer).min(end - from);
                let got = self.read([(from, len)].into_iter(), buffer) / 8;
                for (at, value) in buffer[..got].iter().enumerate().filter(|(_, value)| **value > 0xffff) {
                    each(from + at * 8, *value);
                }
            }
        });
    }

    /// Calls `each` with those of the addresses that can be read, and the words there.
    fn each_head(&self, addresses: &[usize], mut each: impl FnMut(usize, &[usize])) {
        const AT_A_TIME: usize = 512;
        let mut buffer = [0usize; AT_A_TIME * HEAD];
        let mut at = 0;
        while at < addresses.len() {
            let some = &addresses[at..addresses.len().min(at + AT_A_TIME)];
            let got = self.read(some.iter().map(|address| (*address, HEAD * 8)), &mut buffer) / (HEAD * 8);
            for (head, address) in buffer.chunks_exact(HEAD).zip(&some[..got]) {
                each(*address, head);
            }
            // What could not be read is passed over.
            at += got + usize::from(got < some.len());
        }
    }

    /// Reads pieces of memory, one behind the other, until one is gone; returns the bytes read.
    fn read(&self, pieces: impl Iterator<Item = (usize, usize)>, buffer: &mut [usize]) -> usize {
        self.reader.read_pieces(pieces, buffer)
    }
}

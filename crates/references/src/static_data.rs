//! Objects that only a variable of an extension module refers to, and interned strings.
//!
//! No collector knows these. A word of static data is taken for an object if what it points to is laid out as a
//! text, as bytes or as a static type in every field that can be checked: counts are written to, so nothing may be
//! taken for an object that is none. (Whatever else has a count and a type there is tracked by the collector, or
//! passed over.)

use std::io::{Error, Result};
use std::sync::atomic::{AtomicUsize, Ordering};

use leaktight_elf::loaded_objects;
use leaktight_liveset::{MappedVec, own_memory};
use leaktight_memory::mappings;

use crate::addresses::AddressSet;
use crate::runtime::{Address, Runtime};

/// What is found, given the `types` that are known.
///
/// # Safety
///
/// The types are alive, and the GIL is held.
pub(crate) unsafe fn objects(runtime: &Runtime, types: &AddressSet) -> Result<AddressSet> {
    let memory = Memory::of_process()?;
    let mut found = AddressSet::new();
    for object in candidates(&memory, runtime, types)?.iter() {
        found.insert(*object).map_err(Error::other)?;
    }
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

/// Sound objects that the data of extension modules refers to.
fn candidates(memory: &Memory, runtime: &Runtime, types: &AddressSet) -> Result<MappedVec<Address>> {
    let mut values = MappedVec::new();
    let mut buffer = [0usize; 512 * HEAD];
    let mut result = Ok(());
    for segment in memory
        .segments
        .iter()
        .filter(|segment| !segment.contains(runtime.dict_type()))
    {
        memory.each_word(segment, &mut buffer, |_, value| {
            // What the allocators hand out is aligned to 16 bytes, static types to 8.
            if value % 16 == 0 && memory.is_heap(value) || value % 8 == 0 && memory.is_static(value) {
                result = values.push(value).and(result);
            }
        });
    }
    result.map_err(Error::other)?;
    values.sort_unstable();
    let mut sound = MappedVec::new();
    let mut at = 0;
    while at < values.len() {
        let heads = values[at..].iter().take(512).map(|value| (*value, HEAD * 8));
        let wanted = heads.len();
        let got = memory.read(heads, &mut buffer) / (HEAD * 8);
        for (head, value) in buffer.chunks_exact(HEAD).take(got).zip(&values[at..]) {
            let is_new = sound.last() != Some(value);
            if is_new
                && runtime.count_in(head[0]).is_some()
                && types.contains(&head[1])
                && is_sound(memory, runtime, *value, head)
            {
                sound.push(*value).map_err(Error::other)?;
            }
        }
        // What could not be read is passed over.
        at += got + usize::from(got < wanted);
    }
    Ok(sound)
}

/// The dict of interned strings, to which only the runtime's own data refers.
///
/// # Safety
///
/// The GIL is held.
unsafe fn interned(memory: &Memory, runtime: &Runtime) -> Option<Address> {
    /// Where the runtime keeps it, once that is known.
    static VARIABLE: AtomicUsize = AtomicUsize::new(0);
    // SAFETY: the GIL is held; a dict, as far as can be told.
    let is_interned = |value: usize| memory.is_heap(value) && unsafe { is_interned(memory, runtime, value) };
    let mut word = [0];
    let known = VARIABLE.load(Ordering::Relaxed);
    if known != 0 && memory.read([(known, 8)].into_iter(), &mut word) == 8 && is_interned(word[0]) {
        return Some(word[0]);
    }
    let mut buffer = [0usize; 512 * HEAD];
    let mut found = None;
    for segment in memory
        .segments
        .iter()
        .filter(|segment| segment.contains(runtime.dict_type()))
    {
        memory.each_word(segment, &mut buffer, |at, value| {
            if found.is_none() && value % 16 == 0 && is_interned(value) {
                found = Some(value);
                VARIABLE.store(at, Ordering::Relaxed);
            }
        });
    }
    found
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
        // Bits of `PyASCIIObject.state` (Include/cpython/unicodeobject.h): interned 2, kind 3, compact 1.
        let state = state as u32;
        len <= 1 << 40 && matches!(state >> 2 & 7, 1 | 2 | 4) && state >> 5 & 1 == 1 && state >> 8 == 0
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
unsafe fn is_interned(memory: &Memory, runtime: &Runtime, object: Address) -> bool {
    const LEAST: usize = 300;
    const TRIED: usize = 20;
    let mut equal = 0;
    let mut head = [0; HEAD];
    if memory.read([(object, HEAD * 8)].into_iter(), &mut head) < HEAD * 8
        || head[1] != runtime.dict_type()
        || runtime.count_in(head[0]).is_none()
        || head[2] < LEAST
    {
        return false;
    }
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
    /// Private writable mappings by rising address, as start and end.
    mappings: MappedVec<(usize, usize)>,
    /// Those parts of them that are data of loaded objects.
    segments: MappedVec<Segment>,
    /// Those that are tables of our own, which may go away as they grow.
    own: MappedVec<(usize, usize)>,
}

/// From and until.
#[derive(Clone, Copy)]
struct Segment(usize, usize);

impl Segment {
    fn contains(&self, address: usize) -> bool {
        (self.0..self.1).contains(&address)
    }
}

impl Memory {
    fn of_process() -> Result<Memory> {
        let own = own_memory();
        let mut private = MappedVec::new();
        for mapping in mappings()?.iter() {
            if mapping.readable && mapping.writable && !mapping.shared {
                private.push((mapping.start, mapping.end)).map_err(Error::other)?;
            }
        }
        let mut segments = MappedVec::new();
        let mut result = Ok(());
        loaded_objects(|object| {
            for (start, len) in object.writable() {
                result = segments.push(Segment(start, start + len)).and(result);
            }
        });
        result.map_err(Error::other)?;
        segments.sort_unstable_by_key(|segment: &Segment| segment.0);
        Ok(Memory {
            reader: leaktight_memory::Memory::open()?,
            mappings: private,
            segments,
            own,
        })
    }

    /// Whether the head of an object may stand here, in memory that is no data of a loaded object.
    fn is_heap(&self, address: usize) -> bool {
        let last = self
            .mappings
            .partition_point(|(start, _)| *start <= address)
            .checked_sub(1);
        last.is_some_and(|at| has_room(address, self.mappings[at].1, HEAD * 8))
            && !self.is_static(address)
            && !self
                .own
                .iter()
                .any(|(start, len)| address.wrapping_sub(*start).wrapping_add(HEAD * 8) < len + HEAD * 8)
    }

    /// Whether a static type may stand here.
    fn is_static(&self, address: usize) -> bool {
        const ROOM: usize = 256;
        let last = self
            .segments
            .partition_point(|segment| segment.0 <= address)
            .checked_sub(1);
        last.is_some_and(|at| has_room(address, self.segments[at].1, ROOM))
    }

    /// Calls `each` with the address and the value of each word of a segment.
    fn each_word(&self, segment: &Segment, buffer: &mut [usize], mut each: impl FnMut(usize, usize)) {
        let (start, end) = (segment.0.next_multiple_of(8), segment.1 & !7);
        for from in (start..end).step_by(size_of_val(buffer)) {
            let len = size_of_val(buffer).min(end - from);
            let got = self.read([(from, len)].into_iter(), buffer) / 8;
            for (at, value) in buffer[..got].iter().enumerate().filter(|(_, value)| **value > 0xffff) {
                each(from + at * 8, *value);
            }
        }
    }

    /// Reads pieces of memory, one behind the other, until one is gone; returns the bytes read.
    fn read(&self, pieces: impl Iterator<Item = (usize, usize)>, buffer: &mut [usize]) -> usize {
        self.reader.read_pieces(pieces, buffer)
    }
}

fn has_room(from: usize, until: usize, room: usize) -> bool {
    until.checked_sub(from).is_some_and(|left| left >= room)
}

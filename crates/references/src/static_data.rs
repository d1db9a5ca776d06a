//! Objects that only a variable of an extension module refers to, and interned strings.
//!
//! No collector knows these. A word of static data is taken for an object if what it points to is laid out as a
//! text, as bytes or as a static type in every field that can be checked: counts are written to, so nothing may be
//! taken for an object that is none. (Whatever else has a count and a type there is tracked by the collector, or
//! passed over.) All of it is read through the kernel, since other threads may unmap memory at any time.

use std::io::{Error, Result};

use leaktight_elf::loaded_objects;
use leaktight_liveset::MappedVec;

use crate::addresses::AddressSet;
use crate::runtime::{Address, Runtime, type_of};

/// What is found, given the `types` that are known.
///
/// # Safety
///
/// The types are alive, and the GIL is held.
pub(crate) unsafe fn objects(runtime: &Runtime, types: &AddressSet) -> Result<AddressSet> {
    let mut found = AddressSet::new();
    for (object, is_runtime) in candidates(runtime, types)?.iter().copied() {
        // SAFETY: a sound object.
        let is_dict = unsafe { type_of(object) } == runtime.dict_type();
        if !is_runtime && !is_dict {
            found.insert(object).map_err(Error::other)?;
        }
        // The runtime's own data is full of free lists and of objects half made. Only its interned strings are found
        // nowhere else.
        // SAFETY: a dict, as far as can be told.
        if is_runtime && is_dict && unsafe { is_interned(runtime, object) } {
            let mut result = Ok(());
            // SAFETY: an exact dict.
            unsafe {
                runtime.items(object, |key, _| {
                    result = found.insert(key);
                    result.is_ok()
                });
            }
            result.map_err(Error::other)?;
        }
    }
    Ok(found)
}

/// Addresses that look like those of objects, each with whether the runtime itself refers to it.
fn candidates(runtime: &Runtime, types: &AddressSet) -> Result<MappedVec<(Address, bool)>> {
    let writable = writable()?;
    let is_mapped = |value: usize| {
        let last = writable.partition_point(|(start, _)| *start <= value).checked_sub(1);
        last.is_some_and(|at| value + 16 <= writable[at].1)
    };
    let mut segments = Vec::new();
    loaded_objects(|object| {
        let is_runtime = object.contains(runtime.dict_type());
        segments.extend(object.writable().map(|(start, len)| (start, len, is_runtime)));
    });
    let mut values = MappedVec::new();
    let mut buffer = [0usize; 512 * 8];
    for (start, len, is_runtime) in segments {
        let words = start.next_multiple_of(8)..(start + len) & !7;
        for from in words.clone().step_by(size_of_val(&buffer)) {
            let count = buffer.len().min((words.end - from) / 8);
            let got = read(&[(from, count * 8)], &mut buffer) / 8;
            for value in buffer[..got]
                .iter()
                .filter(|value| *value % 8 == 0 && is_mapped(**value))
            {
                values.push((*value, is_runtime)).map_err(Error::other)?;
            }
        }
    }
    let values = distinct(values)?;
    let mut sound = MappedVec::new();
    let mut at = 0;
    while at < values.len() {
        let heads: Vec<(usize, usize)> = values[at..]
            .iter()
            .take(512)
            .map(|(value, _)| (*value, HEAD * 8))
            .collect();
        let got = read(&heads, &mut buffer) / (HEAD * 8);
        for (head, value) in buffer.chunks_exact(HEAD).take(got).zip(&values[at..]) {
            if runtime.count_in(head[0]).is_some() && types.contains(&head[1]) && is_sound(runtime, value.0, head) {
                sound.push(*value).map_err(Error::other)?;
            }
        }
        // What could not be read is passed over.
        at += got + usize::from(got < heads.len());
    }
    Ok(sound)
}

/// Words at the start of an object that are looked at.
const HEAD: usize = 5;

/// Whether this is a `str`, a `bytes` or a `dict`, each not of a subclass, or a static type.
fn is_sound(runtime: &Runtime, object: Address, head: &[usize]) -> bool {
    let [_, of, len, _, state] = *head else { return false };
    if of == runtime.str_type() {
        // Bits of `PyASCIIObject.state` (Include/cpython/unicodeobject.h): interned 2, kind 3, compact 1.
        let state = state as u32;
        len <= 1 << 40 && matches!(state >> 2 & 7, 1 | 2 | 4) && state >> 5 & 1 == 1 && state >> 8 == 0
    } else if of == runtime.bytes_type() {
        // The text ends with a zero byte (Include/cpython/bytesobject.h); it is aligned as the object is.
        let mut end = [0];
        let last = object.wrapping_add(32).wrapping_add(len);
        len <= 1 << 40 && read(&[(last & !7, 8)], &mut end) == 8 && end[0].to_ne_bytes()[last & 7] == 0
    } else if of == runtime.dict_type() {
        let mut keys = [0];
        let mut field = [0];
        read(&[(object + 32, 8)], &mut field) == 8 && read(&[(field[0] & !7, 8)], &mut keys) == 8
    } else {
        // SAFETY: `of` is a type; a static type lies in the data of a loaded object in full.
        unsafe { runtime.is_type(object) && is_static(object) && runtime.is_static_type(object) }
    }
}

fn is_static(address: usize) -> bool {
    let mut found = false;
    loaded_objects(|object| {
        found |= object
            .writable()
            .any(|(start, len)| address >= start && address + 256 <= start + len);
    });
    found
}

/// Each address once; those that an extension refers to are its.
fn distinct(mut values: MappedVec<(Address, bool)>) -> Result<MappedVec<(Address, bool)>> {
    values.sort_unstable();
    let mut distinct: MappedVec<(Address, bool)> = MappedVec::new();
    for value in values.iter() {
        if distinct.last().is_none_or(|last| last.0 != value.0) {
            distinct.push(*value).map_err(Error::other)?;
        }
    }
    Ok(distinct)
}

/// Reads pieces of this process's own memory, one after the other, until one is not there; returns the bytes read.
fn read(pieces: &[(usize, usize)], buffer: &mut [usize]) -> usize {
    let remote: Vec<libc::iovec> = pieces
        .iter()
        .map(|(start, len)| libc::iovec {
            iov_base: *start as *mut _,
            iov_len: *len,
        })
        .collect();
    let local = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: size_of_val(buffer),
    };
    // SAFETY: writes at most the buffer's length into the buffer; what is read is checked by the kernel.
    let got = unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, remote.as_ptr(), remote.len() as _, 0) };
    usize::try_from(got).unwrap_or(0)
}

/// Whether this is the dict of interned strings: a large one, in which each key is its own value.
///
/// # Safety
///
/// `object` is alive, and the GIL is held.
unsafe fn is_interned(runtime: &Runtime, object: Address) -> bool {
    const LEAST: usize = 300;
    const TRIED: usize = 20;
    let mut equal = 0;
    // SAFETY: a live object, and its type says that it is a dict.
    unsafe {
        if type_of(object) != runtime.dict_type() || runtime.len(object) < LEAST {
            return false;
        }
        runtime.items(object, |key, value| {
            equal += usize::from(key == value);
            key == value && equal < TRIED
        });
    }
    equal == TRIED
}

/// The private writable mappings by rising address, as start and end.
fn writable() -> Result<MappedVec<(usize, usize)>> {
    let mut ranges = MappedVec::new();
    for line in std::fs::read_to_string("/proc/self/maps")?.lines() {
        let mut words = line.split_ascii_whitespace();
        let range = words.next().and_then(|range| range.split_once('-'));
        let (Some((start, end)), Some("rw-p")) = (range, words.next()) else {
            continue;
        };
        if let (Ok(start), Ok(end)) = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16)) {
            ranges.push((start, end)).map_err(Error::other)?;
        }
    }
    Ok(ranges)
}

//! The memory in which a pointer of the program's may stand.

use std::io::Result;
use std::ops::Range;

use leaktight_liveset::own_memory;

use crate::maps::{Kind, Mapping, mappings};
use crate::pages::{Pages, Which};

/// Calls `each` with all pieces of memory that hold anything, by rising address, but for our own tables and for dead
/// stack of the calling thread. What may no longer be written, or not even read, is among them, where the program has
/// changed it.
///
/// # Errors
///
/// When the system does not say what is mapped.
pub fn roots(each: &mut dyn FnMut(Range<usize>)) -> Result<()> {
    let own = own_memory();
    let here = 0u8;
    let stack_pointer = &raw const here as usize;
    let pages = Pages::open();
    for mapping in mappings()?.iter() {
        let Some(which) = which(mapping) else { continue };
        // What lies below the stack pointer is dead.
        let start = match mapping.contains(stack_pointer) {
            true => stack_pointer & !(4096 - 1),
            false => mapping.start,
        };
        pages.each(which, start..mapping.end, &mut |run| {
            let mut start = run.start;
            let inside = own.iter().filter(|(own, len)| *own < run.end && own + len > run.start);
            for (end, next) in inside.map(|(own, len)| (*own, own + len)).chain([(run.end, run.end)]) {
                if start < end {
                    each(start..end);
                }
                start = start.max(next);
            }
        });
    }
    Ok(())
}

fn which(mapping: &Mapping) -> Option<Which> {
    const MOST_PROTECTED: usize = 1 << 30;
    match mapping.kind {
        Kind::Device | Kind::Kernel => None,
        _ if mapping.writable || mapping.kind == Kind::Shared => Some(Which::Resident),
        _ if mapping.shared => None,
        // Address space that is reserved by the gigabyte holds nothing, and looking through it takes long.
        _ if !mapping.readable && mapping.size() > MOST_PROTECTED => None,
        _ => Some(Which::Changed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_root(address: usize) -> bool {
        let mut found = false;
        roots(&mut |run| found |= run.contains(&address)).unwrap();
        found
    }

    #[test]
    fn what_was_written_and_then_protected_is_a_root_and_our_own_memory_is_none() {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a mapping of its own, written while that is allowed.
        unsafe {
            let page = libc::mmap(
                std::ptr::null_mut(),
                4096,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                -1,
                0,
            );
            assert_ne!(page, libc::MAP_FAILED);
            assert!(!is_root(page as usize), "nothing was ever written there");
            page.cast::<u8>().write_volatile(1);
            assert!(is_root(page as usize));
            libc::mprotect(page, 4096, libc::PROT_READ);
            assert!(is_root(page as usize), "it holds what it held");
            libc::mprotect(page, 4096, libc::PROT_NONE);
            assert!(is_root(page as usize), "the program may open it again");
            libc::munmap(page, 4096);
        }
        let mut own = leaktight_liveset::MappedVec::zeroed(4096).unwrap();
        own[0] = 1;
        assert!(!is_root(own.as_ptr() as usize));
    }
}

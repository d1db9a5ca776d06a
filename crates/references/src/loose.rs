//! Objects that are neither held nor in the collector's list of frozen ones, so that they may be gone at any time.

use std::io::Result;

use leaktight_memory::Memory;

use crate::runtime::Address;

/// What the kernel reads in one call: a piece costs as much as some thousand bytes of it do.
const MOST_BYTES: usize = 32 << 10;
/// Neighbours that lie within so many bytes are read in one piece.
const PIECE: usize = 4096;
/// The count and the type of an object.
const HEAD: usize = 2;

/// One of them.
#[derive(Clone, Copy)]
pub(crate) struct Loose {
    pub(crate) address: Address,
    /// The first two words of it.
    pub(crate) head: [usize; HEAD],
}

/// Reads the heads of the objects, which come by rising address, again, and calls `each` with those that still have
/// memory and are of the type that they were of. Another object of that type may have come to the same place.
pub(crate) fn read_again(mut objects: &[Loose], mut each: impl FnMut(&Loose, [usize; HEAD])) -> Result<()> {
    let memory = Memory::open()?;
    let mut buffer = [0; MOST_BYTES / size_of::<usize>()];
    let mut tell = |object: &Loose, head: [usize; HEAD]| {
        if head[1] == object.head[1] {
            each(object, head);
        }
    };
    while !objects.is_empty() {
        let pieces: Vec<&[Loose]> = neighbours(objects).take(MOST_BYTES / PIECE).collect();
        let mut got = memory.read_pieces(pieces.iter().map(|piece| extent(piece)), &mut buffer);
        let mut words = &buffer[..];
        for piece in pieces {
            let (start, len) = extent(piece);
            objects = &objects[piece.len()..];
            if len <= got {
                for object in piece {
                    let at = (object.address - start) / size_of::<usize>();
                    tell(object, [words[at], words[at + 1]]);
                }
                (got, words) = (got - len, &words[len / size_of::<usize>()..]);
                continue;
            }
            // Part of it cannot be read.
            for object in piece {
                let mut head = [0; HEAD];
                if memory.read_pieces([extent(&[*object])].into_iter(), &mut head) == size_of_val(&head) {
                    tell(object, head);
                }
            }
            break;
        }
    }
    Ok(())
}

/// Objects of which several lie within one [`PIECE`].
fn neighbours(mut objects: &[Loose]) -> impl Iterator<Item = &[Loose]> {
    std::iter::from_fn(move || {
        let first = objects.first()?.address;
        let is_near = |object: &Loose| object.address - first <= PIECE - size_of::<[usize; HEAD]>();
        let (piece, rest) = objects.split_at(objects.partition_point(is_near));
        objects = rest;
        Some(piece)
    })
}

/// Start and length in bytes.
fn extent(piece: &[Loose]) -> (usize, usize) {
    let address = |object: Option<&Loose>| object.map_or(0, |object| object.address);
    let (first, last) = (address(piece.first()), address(piece.last()));
    (first, last - first + size_of::<[usize; HEAD]>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_or_has_another_type_is_passed_over() {
        let objects = [[3usize, 7], [4, 8], [5, 9]];
        let loose = |at: usize, of| Loose {
            address: objects[at].as_ptr() as usize,
            head: [0, of],
        };
        let gone = Loose {
            address: 64,
            head: [0, 7],
        };
        let mut some = [loose(0, 7), gone, loose(1, 1), loose(2, 9)];
        some.sort_unstable_by_key(|object| object.address);
        let mut read = Vec::new();
        read_again(&some, |_, head| read.push(head)).unwrap();
        assert_eq!(read, [objects[0], objects[2]]);
    }

    #[test]
    fn neighbours_are_read_though_memory_between_them_is_gone() {
        const SIZE: usize = 3 * PIECE;
        const PAGES: usize = 100 * SIZE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a mapping of its own, of which pages are given back that nobody uses.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), PAGES, rights, flags, -1, 0) } as usize;
        let mut some = Vec::new();
        for at in (0..PAGES).step_by(SIZE) {
            for address in [at + 16, at + 2 * PIECE - 32, at + 2 * PIECE - 16, at + 2 * PIECE + 48] {
                let head = [address, 7];
                // SAFETY: within the mapping, and aligned.
                unsafe { *((start + address) as *mut [usize; 2]) = head };
                some.push(Loose {
                    address: start + address,
                    head,
                });
            }
            // SAFETY: as above.
            unsafe { libc::munmap((start + at + 2 * PIECE) as *mut libc::c_void, PIECE) };
        }
        let mut read = Vec::new();
        read_again(&some, |object, head| {
            assert_eq!(object.head, head);
            read.push(object.address);
        })
        .unwrap();
        let left: Vec<usize> = some
            .iter()
            .map(|object| object.address)
            .filter(|address| (address - start) % SIZE < 2 * PIECE)
            .collect();
        assert_eq!(read, left);
        // SAFETY: as above.
        unsafe { libc::munmap(start as *mut libc::c_void, PAGES) };
    }
}

//! Objects that are neither held nor in the collector's list of frozen ones, so that they may be gone at any time.

use std::io::{Error, Result};

use leaktight_liveset::MappedVec;
use leaktight_memory::Memory;

use crate::runtime::Address;

/// Pieces that the kernel reads in one call.
const MOST_PIECES: usize = 512;
/// The count and the type of an object.
const HEAD: usize = 2;

/// One of them.
#[derive(Clone, Copy)]
pub(crate) struct Loose {
    pub(crate) address: Address,
    /// The first two words of it.
    pub(crate) head: [usize; HEAD],
}

/// Reads the heads of the objects again, and calls `each` with those that still have memory and are of the type that
/// they were of. Another object of that type may have come to the same place.
pub(crate) fn read_again(objects: &[Loose], mut each: impl FnMut(&Loose, [usize; HEAD])) -> Result<()> {
    let memory = Memory::open()?;
    let mut heads = MappedVec::new();
    for _ in 0..objects.len().min(MOST_PIECES) {
        heads.push([0usize; HEAD]).map_err(Error::other)?;
    }
    let mut at = 0;
    while at < objects.len() {
        let some = &objects[at..objects.len().min(at + MOST_PIECES)];
        let pieces = some.iter().map(|object| (object.address, size_of::<[usize; HEAD]>()));
        let got = memory.read_pieces(pieces, heads.as_flattened_mut()) / size_of::<[usize; HEAD]>();
        for (object, head) in some.iter().zip(&heads[..got]) {
            if head[1] == object.head[1] {
                each(object, *head);
            }
        }
        // One that cannot be read is passed over.
        at += got + usize::from(got < some.len());
    }
    Ok(())
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
        let mut read = Vec::new();
        read_again(&[loose(0, 7), gone, loose(1, 1), loose(2, 9)], |_, head| {
            read.push(head)
        })
        .unwrap();
        assert_eq!(read, [objects[0], objects[2]]);
    }
}

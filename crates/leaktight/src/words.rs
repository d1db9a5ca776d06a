//! How many words of memory could be a reference to an object.

use crate::scan::{Stretches, WORD, each_piece};

/// Some languages keep flags in the low bits of a reference.
const TAGS: usize = 7;

/// The number of words, at whatever address, that hold the address of each object, with any tag.
///
/// # Errors
///
/// When memory cannot be read.
pub(crate) fn words(objects: &[usize]) -> std::io::Result<Vec<i64>> {
    let mut sorted = objects.to_vec();
    sorted.sort_unstable();
    let (Some(lowest), Some(highest)) = (sorted.first(), sorted.last()) else {
        return Ok(Vec::new());
    };
    let span = highest - lowest + TAGS;
    let mut found = vec![0; sorted.len()];
    let stretches = Stretches::around(sorted.iter().map(|object| (*object, *object + TAGS)));
    each_piece(|bytes, from| {
        stretches.each_word(bytes, |offset, value| {
            if value.wrapping_sub(*lowest) <= span {
                // Who packs references so that they stand at odd addresses, as NumPy's structured arrays do, tags none.
                let tags = if (from + offset) % WORD == 0 { TAGS } else { 0 };
                if let Ok(at) = sorted.binary_search(&(value & !tags)) {
                    found[at] += 1;
                }
            }
            Ok(())
        })
    })?;
    // The copy of the addresses above, and the caller's own, are counted each time alike.
    let of = |object: &usize| sorted.binary_search(object).map_or(0, |at| found[at]);
    Ok(objects.iter().map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(16))]
    struct Object(#[expect(dead_code, reason = "only its address matters")] [u64; 8]);

    #[test]
    fn each_word_that_is_added_is_counted() {
        static OBJECT: Object = Object([0; 8]);
        let address = &raw const OBJECT as usize;
        let mut references = Vec::with_capacity(3000);
        let before = words(&[address]).unwrap()[0];
        for _ in 0..1000 {
            references.extend(std::hint::black_box([address, address | 1, address + 8]));
        }
        let added = words(&[address]).unwrap()[0] - before;
        // A few copies stay on the stack.
        assert!((2000..2010).contains(&added), "{added}");
        drop(references);
    }

    #[test]
    fn words_at_odd_addresses_are_counted_and_those_that_only_look_like_it_are_not() {
        // An address that no other test has left behind in freed memory.
        static OBJECT: Object = Object([0; 8]);
        let address = &raw const OBJECT as usize;
        let packed = |value: usize| {
            let record: Vec<u8> = std::iter::once(1).chain(value.to_ne_bytes()).collect();
            record.repeat(1000)
        };
        let before = words(&[address]).unwrap()[0];
        let references = std::hint::black_box(packed(address));
        let others = std::hint::black_box(packed(address + 1));
        let added = words(&[address]).unwrap()[0] - before;
        // Of the others each eighth stands at an even address, where the last bits may be a tag.
        assert!((1100..1140).contains(&added), "{added}");
        drop((references, others));
    }
}

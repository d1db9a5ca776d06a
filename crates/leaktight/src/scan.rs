//! All memory in which the program may keep a pointer, piece by piece.

use std::io::{Error, Result};

use leaktight_liveset::MappedVec;
use leaktight_memory::{Memory, roots};

pub(crate) const WORD: usize = size_of::<usize>();
/// Fits into the processor's cache.
const CHUNK: usize = 1 << 18;

/// Calls `each` with the content of every piece and its address. A piece repeats the last bytes of the one before
/// it, so that each word is whole in some piece, and just one: those that start in its first `bytes.len() - WORD + 1`
/// bytes.
///
/// # Errors
///
/// When memory cannot be read, or `each` fails.
pub(crate) fn each_piece(mut each: impl FnMut(&[u8], usize) -> Result<()>) -> Result<()> {
    let memory = Memory::open()?;
    let mut buffer = MappedVec::zeroed(CHUNK + WORD).map_err(Error::other)?;
    let mut result = Ok(());
    roots(&mut |run| {
        for from in run.clone().step_by(CHUNK) {
            let len = (run.end - from).min(CHUNK + WORD - 1);
            if result.is_ok() && len >= WORD {
                memory.read(from, &mut buffer[..len]);
                result = each(&buffer[..len], from);
            }
        }
    })?;
    result
}

/// Where the addresses lie that words are looked for by: a few stretches, told apart by bits 16 to 47.
pub(crate) struct Stretches {
    /// The lowest of these bits in a stretch, and how many more there are. Empty = anywhere.
    stretches: Vec<(u32, u32)>,
}

impl Stretches {
    /// Stretches around these addresses, which rise; each with the last byte that counts for it.
    pub(crate) fn around(addresses: impl Iterator<Item = (usize, usize)>) -> Stretches {
        /// More are not worth it.
        const MOST: usize = 4;
        /// Closer ones are one.
        const GAP: u32 = 1 << 8;
        let mut stretches: Vec<(u32, u32)> = Vec::new();
        for (first, last) in addresses {
            let (first, last) = ((first >> 16) as u32, (last >> 16) as u32);
            match stretches.last_mut() {
                Some((start, more)) if first.saturating_sub(*start + *more) <= GAP => {
                    *more = (*more).max(last.saturating_sub(*start));
                }
                _ => stretches.push((first, last - first)),
            }
        }
        if stretches.len() > MOST {
            stretches.clear();
        }
        Stretches { stretches }
    }

    /// Calls `each` with the offset and the value of each word in `bytes` that may lie in a stretch, at whatever offset
    /// it starts.
    #[inline]
    pub(crate) fn each_word(&self, bytes: &[u8], mut each: impl FnMut(usize, usize) -> Result<()>) -> Result<()> {
        /// So many words' starts are looked at together.
        const STEP: usize = 64;
        let starts = (bytes.len() + 1).saturating_sub(WORD);
        let mut at = 0;
        while at < starts {
            let some = match bytes[at..].first_chunk::<{ STEP + WORD }>() {
                Some(block) => self.may_hold(block),
                None => true,
            };
            let end = starts.min(at + STEP);
            if some {
                for offset in at..end {
                    each(offset, word_at(&bytes[offset..]))?;
                }
            }
            at = end;
        }
        Ok(())
    }

    /// Whether bits 16 to 47 of a word that starts in this block, but for its last bytes, fit a stretch. Four rows of
    /// comparisons of as many neighbours as a register holds.
    #[inline(always)]
    fn may_hold(&self, block: &[u8; 64 + WORD]) -> bool {
        let mut found = self.stretches.is_empty();
        for (low, more) in &self.stretches {
            for row in 0..4 {
                for place in 0..16 {
                    let at = 2 + row + 4 * place;
                    let bits = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
                    found |= bits.wrapping_sub(*low) <= *more;
                }
            }
        }
        found
    }
}

/// The word at the start of these bytes.
#[inline(always)]
pub(crate) fn word_at(bytes: &[u8]) -> usize {
    let mut word = [0; WORD];
    word.copy_from_slice(&bytes[..WORD]);
    usize::from_ne_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn no_word_is_passed_over(
            mut bytes in proptest::collection::vec(0u8..4, 0..400),
            places in proptest::collection::vec((0usize..400, 0usize..3), 0..8),
        ) {
            let targets = [0x5555_0001_2340_usize, 0x7f00_1234_5678, 0x7f00_1234_9999];
            let mut expected = std::collections::BTreeSet::new();
            for (at, which) in places {
                if let Some(word) = bytes.get_mut(at..at + WORD) {
                    word.copy_from_slice(&targets[which].to_ne_bytes());
                }
            }
            for (offset, word) in bytes.windows(WORD).enumerate() {
                if targets.contains(&word_at(word)) {
                    expected.insert(offset);
                }
            }
            for stretches in [Stretches::around(targets.iter().map(|at| (*at, *at))), Stretches { stretches: Vec::new() }] {
                let mut found = std::collections::BTreeSet::new();
                stretches.each_word(&bytes, |offset, value| {
                    if targets.contains(&value) {
                        found.insert(offset);
                    }
                    Ok(())
                }).unwrap();
                proptest::prop_assert_eq!(&found, &expected);
            }
        }
    }
}

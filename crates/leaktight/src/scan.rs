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
    pub(crate) fn each_word(&self, bytes: &[u8], each: impl FnMut(usize, usize) -> Result<()>) -> Result<()> {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has them.
            return unsafe { self.each_word_in_wide_registers(bytes, each) };
        }
        self.each_word_here(bytes, each)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn each_word_in_wide_registers(&self, bytes: &[u8], each: impl FnMut(usize, usize) -> Result<()>) -> Result<()> {
        self.each_word_here(bytes, each)
    }

    #[inline(always)]
    fn each_word_here(&self, bytes: &[u8], mut each: impl FnMut(usize, usize) -> Result<()>) -> Result<()> {
        let starts = (bytes.len() + 1).saturating_sub(WORD);
        let mut at = 0;
        while at < starts {
            let Some(block) = bytes[at..].first_chunk::<{ STEP + WORD }>() else {
                for offset in at..starts {
                    each(offset, word_at(&bytes[offset..]))?;
                }
                break;
            };
            for row in 0..WORD / 2 {
                let middles = middles(block, row);
                if self.may_hold(&middles) {
                    for (place, middle) in middles.iter().enumerate() {
                        if self.fits(*middle) {
                            let offset = at + row + 4 * place;
                            each(offset, word_at(&bytes[offset..]))?;
                        }
                    }
                }
            }
            at += STEP;
        }
        Ok(())
    }

    /// Whether one of them fits a stretch: as many comparisons at a time as a register holds.
    #[inline(always)]
    fn may_hold(&self, middles: &[u32; STEP / 4]) -> bool {
        let mut found = self.stretches.is_empty();
        for (low, more) in &self.stretches {
            let mut any = false;
            for middle in middles {
                any |= middle.wrapping_sub(*low) <= *more;
            }
            found |= any;
        }
        found
    }

    #[inline(always)]
    fn fits(&self, middle: u32) -> bool {
        let mut stretches = self.stretches.iter();
        self.stretches.is_empty() || stretches.any(|(low, more)| middle.wrapping_sub(*low) <= *more)
    }
}

/// So many words' starts are looked at together.
const STEP: usize = 64;

/// Bits 16 to 47 of every fourth word that starts in this block, from the one at `row` on.
#[inline(always)]
fn middles(block: &[u8; STEP + WORD], row: usize) -> [u32; STEP / 4] {
    let bytes = &block[2 + row..][..STEP];
    // SAFETY: as many bytes as are read, which have no alignment and of which any are a value. (The optimiser makes
    // one load of it, and none of the same in safe words.)
    let mut middles = unsafe { bytes.as_ptr().cast::<[u32; STEP / 4]>().read_unaligned() };
    for middle in &mut middles {
        *middle = u32::from_le(*middle);
    }
    middles
}

/// The word at the start of these bytes.
#[inline(always)]
pub(crate) fn word_at(bytes: &[u8]) -> usize {
    usize::from_ne_bytes(*bytes.first_chunk().expect("a word starts here"))
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
                for wide in [true, false] {
                    let mut found = std::collections::BTreeSet::new();
                    let note = |offset, value| {
                        if targets.contains(&value) {
                            found.insert(offset);
                        }
                        Ok(())
                    };
                    match wide {
                        true => stretches.each_word(&bytes, note),
                        false => stretches.each_word_here(&bytes, note),
                    }.unwrap();
                    proptest::prop_assert_eq!(&found, &expected);
                }
            }
        }
    }
}

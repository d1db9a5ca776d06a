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

/// The word at the start of these bytes.
#[inline(always)]
pub(crate) fn word_at(bytes: &[u8]) -> usize {
    let mut word = [0; WORD];
    word.copy_from_slice(&bytes[..WORD]);
    usize::from_ne_bytes(word)
}

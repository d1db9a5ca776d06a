//! Captured stacks, each kept once and known by a number.

use std::sync::Once;

use leaktight_liveset::{MappedVec, OutOfMemory, SpinLock};

use crate::python::{Interpreter, PythonFrame};
use crate::spare;

/// One stack: code addresses, innermost first, then Python frames, innermost first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CapturedStack {
    /// Addresses inside calls (return address less one), up to the evaluation loop.
    pub native: Vec<u64>,
    /// The Python frames behind it.
    pub python: Vec<PythonFrame>,
}

impl CapturedStack {
    /// Without the native frames behind the innermost evaluation loop, as [`capture`](crate::capture) leaves them out.
    pub fn up_to_evaluation(mut self) -> CapturedStack {
        let is_evaluation = |address: &u64| Interpreter::current().is_some_and(|it| it.evaluates(*address));
        let end = self.native.iter().position(is_evaluation);
        self.native.truncate(end.map_or(usize::MAX, |end| end + 1));
        self
    }
}

static STORE: SpinLock<Store> = SpinLock::new(Store::new());

/// Word 0 of a stack: number of native frames, and in the high half the number of Python frames.
struct Store {
    words: MappedVec<u64>,
    /// Open addressing, by hash of the words; holds stack numbers, 0 = free.
    index: MappedVec<u32>,
    used: usize,
    full: bool,
}

const MAX_WORDS: usize = 1 << 27;

/// Interns an encoded stack and returns its number; 0 when there is no room.
pub(crate) fn intern(words: &[u64]) -> u32 {
    register_fork_handler();
    let mut store = STORE.lock();
    match store.intern(words) {
        Ok((number, new)) => {
            drop(store);
            if new {
                code_objects(words, |interpreter, code| {
                    // SAFETY: the frame that runs this code is on the calling thread's stack, and Python
                    // frames are held only where the thread holds the GIL (else they are followed).
                    unsafe { (interpreter.hold)(code as *mut _) }
                });
            }
            number
        }
        Err(OutOfMemory) => {
            store.full = true;
            0
        }
    }
}

/// The stack with this number; `None` for 0.
pub fn stack(number: u32) -> Option<CapturedStack> {
    let store = STORE.lock();
    let words = store.get(number)?;
    let (native, python) = lengths(words[0]);
    Some(CapturedStack {
        native: words[1..1 + native].to_vec(),
        python: words[1 + native..][..2 * python]
            .chunks_exact(2)
            .map(|pair| PythonFrame {
                code: (pair[0] & !FOLLOWED) as usize,
                offset: pair[1] as i32,
            })
            .collect(),
    })
}

/// Whether stacks had to be dropped since the last [`clear`].
pub fn full() -> bool {
    STORE.lock().full
}

/// Forgets every stack and lets go of their code objects.
///
/// # Safety
///
/// With an [`Interpreter`] installed the caller holds the GIL. Nobody captures meanwhile.
pub unsafe fn clear() {
    let old = std::mem::replace(&mut *STORE.lock(), Store::new());
    let mut at = 0;
    while let Some(words) = old.at(at) {
        code_objects(words, |interpreter, code| {
            // SAFETY: the reference that `intern` took; the GIL is held.
            unsafe { (interpreter.release)(code as *mut _) }
        });
        at += words.len();
    }
}

/// How many references to a code object are held here. Linear in what is stored.
pub fn references_to(code: usize) -> u64 {
    let store = STORE.lock();
    let (mut at, found) = (0, std::cell::Cell::new(0));
    while let Some(words) = store.at(at) {
        code_objects(words, |_, held| found.set(found.get() + u64::from(held == code as u64)));
        at += words.len();
    }
    found.get()
}

/// The code objects that this stack keeps alive.
fn code_objects(words: &[u64], each: impl Fn(&Interpreter, u64)) {
    let (native, python) = lengths(words[0]);
    if let Some(interpreter) = Interpreter::current()
        && python > 0
    {
        words[1 + native..]
            .chunks_exact(2)
            .filter(|pair| pair[0] & FOLLOWED == 0)
            .for_each(|pair| each(interpreter, pair[0]));
    }
}

/// The first word for a stack of so many frames.
pub(crate) fn header(native: usize, python: usize) -> u64 {
    native as u64 | (python as u64) << 32
}

/// In the word of a code object, whose address is even: it is not kept alive.
const FOLLOWED: u64 = 1;

/// The word for a code object, which is kept alive unless it is followed.
pub(crate) fn code_word(code: usize, followed: bool) -> u64 {
    code as u64 | if followed { FOLLOWED } else { 0 }
}

fn lengths(header: u64) -> (usize, usize) {
    (header as u32 as usize, (header >> 32) as usize)
}

impl Store {
    const fn new() -> Self {
        Store {
            words: MappedVec::new(),
            index: MappedVec::new(),
            used: 0,
            full: false,
        }
    }

    fn intern(&mut self, words: &[u64]) -> Result<(u32, bool), OutOfMemory> {
        if (self.used + 1) * 2 > self.index.len() {
            self.grow_index()?;
        }
        let mask = self.index.len() - 1;
        let mut slot = hash(words) as usize & mask;
        while self.index[slot] != 0 {
            if self.get(self.index[slot]) == Some(words) {
                return Ok((self.index[slot], false));
            }
            slot = (slot + 1) & mask;
        }
        if self.words.len() + words.len() > MAX_WORDS {
            return Err(OutOfMemory);
        }
        let number = self.words.len() as u32 + 1;
        for word in words {
            self.words.push(*word)?;
        }
        self.index[slot] = number;
        self.used += 1;
        Ok((number, true))
    }

    fn get(&self, number: u32) -> Option<&[u64]> {
        self.at((number as usize).checked_sub(1)?)
    }

    fn at(&self, start: usize) -> Option<&[u64]> {
        let words = self.words.get(start..)?;
        let (native, python) = lengths(*words.first()?);
        words.get(..1 + native + 2 * python)
    }

    fn grow_index(&mut self) -> Result<(), OutOfMemory> {
        let size = (self.index.len() * 2).max(1024);
        let mut bigger = MappedVec::new();
        for _ in 0..size {
            bigger.push(0u32)?;
        }
        for number in self.index.iter().copied().filter(|number| *number != 0) {
            let mut slot = hash(self.get(number).unwrap_or_default()) as usize & (size - 1);
            while bigger[slot] != 0 {
                slot = (slot + 1) & (size - 1);
            }
            bigger[slot] = number;
        }
        self.index = bigger;
        Ok(())
    }
}

fn hash(words: &[u64]) -> u64 {
    let mixed = words.iter().fold(0u64, |hash, word| {
        (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95)
    });
    mixed ^ mixed >> 32
}

/// A child that is forked while another thread holds the lock must not find it taken for ever.
fn register_fork_handler() {
    static ONCE: Once = Once::new();
    unsafe extern "C" fn child() {
        // SAFETY: the forking thread is the only one here, and does not hold the lock while it forks.
        unsafe {
            STORE.force_unlock();
            spare::unlock_after_fork();
        }
    }
    // SAFETY: the handler only touches the lock.
    ONCE.call_once(|| unsafe {
        libc::pthread_atfork(None, None, Some(child));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_stacks_have_one_number_and_come_back_whole() {
        let mut store = Store::new();
        let stacks: Vec<Vec<u64>> = (0..5000u64)
            .map(|n| {
                let mut words = vec![header((n % 7) as usize, 0)];
                words.extend((0..n % 7).map(|frame| n / 7 + frame));
                words
            })
            .collect();
        let numbers: Vec<u32> = stacks.iter().map(|words| store.intern(words).unwrap().0).collect();
        for (words, number) in stacks.iter().zip(numbers) {
            assert_eq!(store.intern(words).unwrap(), (number, false));
            assert_eq!(store.get(number), Some(&words[..]));
        }
        assert_eq!(store.get(0), None);
    }
}

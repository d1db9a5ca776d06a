//! What the hooks call: the calling thread's stack as a number.

use std::mem::MaybeUninit;

use crate::python::Interpreter;
use crate::store;
use crate::unwind::native_frames;

/// Deeper frames are cut off; the innermost are the ones that name a leak.
const MAX_NATIVE: usize = 48;
const MAX_PYTHON: usize = 32;

/// Captures the calling thread's stack and returns its number in the store, 0 when nothing could be
/// captured. Leaves out the frame that `inside` lies in and all frames that it called, and the one that
/// `outside` (0: none) lies in and all that called it. Takes
/// about a microsecond and allocates from no heap.
///
/// A thread without the GIL (in a system call, say) cannot keep the code objects of its frames alive:
/// `not_held` is told the address of each, and must find out by itself if it is freed.
pub fn capture(inside: usize, outside: usize, not_held: fn(usize)) -> u32 {
    let interpreter = Interpreter::current();
    let mut native = [const { MaybeUninit::<u64>::uninit() }; MAX_NATIVE];
    let count = native_frames(&mut native, (inside, outside), |address| {
        interpreter.is_some_and(|it| it.evaluates(address))
    });

    let mut words = [0u64; 1 + MAX_NATIVE + 2 * MAX_PYTHON];
    for (word, frame) in words[1..].iter_mut().zip(&native[..count]) {
        // SAFETY: `native_frames` has written the first `count`.
        *word = unsafe { frame.assume_init() };
    }
    let mut python = 0;
    let mut held = true;
    if let Some(interpreter) = interpreter {
        held = interpreter.frames(|frame| {
            let at = 1 + count + 2 * python;
            words[at] = frame.code as u64;
            words[at + 1] = u64::from(frame.offset as u32);
            python += 1;
            python < MAX_PYTHON
        });
    }
    if count + python == 0 {
        return 0;
    }
    if !held {
        words[1 + count..][..2 * python]
            .chunks_exact(2)
            .for_each(|pair| not_held(pair[0] as usize));
    }
    words[0] = store::header(count, python, held);
    store::intern(&words[..1 + count + 2 * python])
}

//! What the hooks call: the calling thread's stack as a number.

use std::mem::MaybeUninit;

use crate::python::Interpreter;
use crate::spare::on_spare_stack;
use crate::store;
use crate::unwind::{Here, Interrupted, here, native_frames};

/// Deeper frames are cut off; the innermost are the ones that name a leak.
const MAX_NATIVE: usize = 48;
const MAX_PYTHON: usize = 32;

/// Captures the calling thread's stack and returns its number in the store, 0 when nothing could be
/// captured. Leaves out the frame that `inside` lies in and all frames that it called, and the one that
/// `outside` (0: none) lies in and all that called it. Takes
/// about a microsecond and allocates from no heap.
///
/// `followed` is asked of each code object, with whether the thread holds the GIL: if it returns true, nothing keeps
/// the object alive, and whoever asks for its name must know by other means that it was not freed. So it must be for
/// a thread without the GIL (in a system call, say), which cannot touch a reference count.
#[inline(never)]
pub fn capture(inside: usize, outside: usize, followed: fn(usize, bool) -> bool) -> u32 {
    let here = here();
    on_spare_stack(|| capture_from(here, None, (inside, outside), followed)).unwrap_or(0)
}

/// The same, from where a signal has interrupted the calling thread, and for its handler: with the innermost frame itself,
/// and with the native frames behind the evaluation loop, out to the one that `outside` lies in.
///
/// May be called by a handler that can interrupt anything but this crate, once [`prepare`] was called on the thread. Python
/// frames are read through the kernel, as they may be half made; `followed` must return true, since the thread may be
/// in the middle of counting a reference to the code.
#[inline(never)]
pub fn capture_at(interrupted: &Interrupted, outside: usize, followed: fn(usize, bool) -> bool) -> u32 {
    let here = Here::at(interrupted);
    // Inside the instruction, as for return addresses.
    let innermost = interrupted.pc as u64 - 1;
    on_spare_stack(|| capture_from(here, Some(innermost), (0, outside), followed)).unwrap_or(0)
}

/// Makes all that is made at the first use, which a signal handler could not do.
pub fn prepare() {
    capture_at(&Interrupted::here(), 0, |_, _| true);
}

#[inline(never)]
fn capture_from(here: Here, innermost: Option<u64>, between: (usize, usize), followed: fn(usize, bool) -> bool) -> u32 {
    let interpreter = Interpreter::current();
    let mut native = [const { MaybeUninit::<u64>::uninit() }; MAX_NATIVE];
    let mut count = 0;
    if let Some(innermost) = innermost {
        native[0].write(innermost);
        count = 1;
    }
    count += native_frames(here, &mut native[count..], between, |address| {
        innermost.is_none() && interpreter.is_some_and(|it| it.evaluates(address))
    });

    let mut words = [0u64; 1 + MAX_NATIVE + 2 * MAX_PYTHON];
    for (word, frame) in words[1..].iter_mut().zip(&native[..count]) {
        // SAFETY: `native_frames` has written the first `count`.
        *word = unsafe { frame.assume_init() };
    }
    let mut python = 0;
    if let Some(interpreter) = interpreter {
        interpreter.frames(innermost.is_some(), |frame, holds_gil| {
            let at = 1 + count + 2 * python;
            let is_followed = followed(frame.code, holds_gil);
            words[at] = store::code_word(frame.code, is_followed);
            words[at + 1] = u64::from(frame.offset as u32);
            python += 1;
            python < MAX_PYTHON
        });
    }
    if count + python == 0 {
        return 0;
    }
    words[0] = store::header(count, python);
    store::intern(&words[..1 + count + 2 * python])
}

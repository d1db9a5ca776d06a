//! The handler of SIGTRAP, and where it notes what it saw. It makes system calls, touches atomics and memory that was
//! there before, and allocates nothing.

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use leaktight_liveset::Region;

use crate::kernel::{self, Errno};
use crate::log::Write;
use crate::perf::{self, Told};
use crate::processor;
use crate::setting::Setting;
use crate::signal::pass_on;
use crate::step::{Next, Step, Words};
use crate::watch::{MOST_WORDS, Width, Word};

/// Called by the signal handler after each write, on the thread that wrote, with the registers as they are behind
/// the instruction that did. Returns a number for the stack, which goes into [`Write::stack`].
///
/// It may do what a signal handler may (signal-safety(7)): it interrupts any code whatever, with any lock held. It must
/// not panic. All signals but those that an instruction raises are blocked meanwhile. Writes to watched words that it
/// makes itself are not noted.
pub type Capture = fn(&Interrupted<'_>) -> u32;

/// The thread at a write.
#[derive(Clone, Copy)]
pub struct Interrupted<'a>(&'a libc::ucontext_t);

impl<'a> Interrupted<'a> {
    /// The address behind the instruction that wrote, like a return address.
    pub fn program_counter(&self) -> usize {
        processor::registers(self.0)[0]
    }

    /// The stack pointer.
    pub fn stack_pointer(&self) -> usize {
        processor::registers(self.0)[1]
    }

    /// The register that holds the frame pointer in code that has one.
    pub fn frame_pointer(&self) -> usize {
        processor::registers(self.0)[2]
    }

    /// The link register, on a processor that has one (aarch64): where a function returns to, until it has saved that.
    pub fn link_register(&self) -> usize {
        processor::registers(self.0)[3]
    }

    /// All that the kernel has saved.
    pub fn context(&self) -> &'a libc::ucontext_t {
        self.0
    }
}

/// One, as the handler of a signal is one for the process. All but `thread` is for the watched thread alone, in the
/// handler and outside of it.
pub(crate) static NOTER: Noter = Noter {
    thread: AtomicI32::new(0),
    addresses: [const { AtomicUsize::new(0) }; MOST_WORDS],
    widths: [const { AtomicUsize::new(0) }; MOST_WORDS],
    known: [const { AtomicU64::new(0) }; MOST_WORDS],
    count: AtomicUsize::new(0),
    mark: AtomicU32::new(0),
    capture: AtomicUsize::new(0),
    setting: AtomicPtr::new(null_mut()),
    records: AtomicPtr::new(null_mut()),
    room: AtomicUsize::new(0),
    noted: AtomicUsize::new(0),
    dropped: AtomicU64::new(0),
    unknown: AtomicU64::new(0),
    own: AtomicU64::new(0),
    late: AtomicU64::new(0),
    step: Step::none(),
    stop_after: AtomicU64::new(0),
    stopped: AtomicBool::new(false),
    is_inside: AtomicBool::new(false),
};

pub(crate) struct Noter {
    /// Whose writes are noted; 0: nobody's.
    thread: AtomicI32,
    addresses: [AtomicUsize; MOST_WORDS],
    widths: [AtomicUsize; MOST_WORDS],
    /// The value that the last write left.
    known: [AtomicU64; MOST_WORDS],
    count: AtomicUsize,
    pub mark: AtomicU32,
    capture: AtomicUsize,
    setting: AtomicPtr<Setting>,
    records: AtomicPtr<Write>,
    /// So many fit.
    room: AtomicUsize,
    pub noted: AtomicUsize,
    pub dropped: AtomicU64,
    pub unknown: AtomicU64,
    /// Made by the handler.
    pub own: AtomicU64,
    /// So many were told of late where only the first is told of until the handler has run ([`Events::renew`]).
    ///
    /// [`Events::renew`]: crate::perf::Events::renew
    pub late: AtomicU64,
    pub step: Step,
    stop_after: AtomicU64,
    pub stopped: AtomicBool,
    is_inside: AtomicBool,
}

impl Noter {
    /// Notes, from now on, the calling thread's writes to these words, which have these values.
    pub(crate) fn begin(&self, words: &[Word], values: &[u64; MOST_WORDS], capture: Option<Capture>) {
        self.end();
        for (at, word) in words.iter().enumerate() {
            self.addresses[at].store(word.address, Ordering::SeqCst);
            self.widths[at].store(word.width.bytes(), Ordering::SeqCst);
            self.known[at].store(values[at], Ordering::SeqCst);
        }
        self.count.store(words.len(), Ordering::SeqCst);
        self.capture
            .store(capture.map_or(0, |capture| capture as usize), Ordering::SeqCst);
        self.mark.store(0, Ordering::SeqCst);
        self.noted.store(0, Ordering::SeqCst);
        for counter in [&self.dropped, &self.unknown, &self.own, &self.late] {
            counter.store(0, Ordering::SeqCst);
        }
        self.step.forget();
        self.stopped.store(false, Ordering::SeqCst);
        self.is_inside.store(false, Ordering::SeqCst);
        self.thread.store(kernel::thread(), Ordering::SeqCst);
    }

    /// Another word from now on instead of the one with this number, of which no write may come in meanwhile.
    pub(crate) fn aim(&self, at: usize, word: Word, value: u64) {
        if at < self.count.load(Ordering::SeqCst) {
            self.addresses[at].store(word.address, Ordering::SeqCst);
            self.widths[at].store(word.width.bytes(), Ordering::SeqCst);
            self.known[at].store(value, Ordering::SeqCst);
        }
    }

    /// Those that are watched.
    pub(crate) fn words(&self) -> Watched {
        let word = |at: usize| Word {
            address: self.addresses[at].load(Ordering::SeqCst),
            width: self.width(at),
        };
        Watched {
            all: std::array::from_fn(word),
            count: self.count.load(Ordering::SeqCst),
        }
    }

    fn width(&self, at: usize) -> Width {
        match self.widths[at].load(Ordering::SeqCst) {
            4 => Width::Four,
            _ => Width::Eight,
        }
    }

    /// Where the writes go. `region` has room for `most` of them and stays until [`retire`](Self::retire).
    pub(crate) fn note_into(&self, region: &Region, most: usize) {
        self.records.store(region.start().cast(), Ordering::SeqCst);
        self.room.store(most, Ordering::SeqCst);
    }

    /// By what the words are watched. It stays until [`end`](Self::end).
    pub(crate) fn works_with(&self, setting: &Setting) {
        self.setting.store((&raw const *setting).cast_mut(), Ordering::SeqCst);
    }

    /// Watching ends after so many dropped writes.
    pub(crate) fn stop_after(&self, dropped: u64) {
        self.stop_after.store(dropped, Ordering::SeqCst);
    }

    /// Notes nothing more; traps are still swallowed.
    pub(crate) fn retire(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.room.store(0, Ordering::SeqCst);
        self.stop_after.store(u64::MAX, Ordering::SeqCst);
        self.records.store(null_mut(), Ordering::SeqCst);
        self.capture.store(0, Ordering::SeqCst);
    }

    /// Traps are nobody's from now on.
    pub(crate) fn end(&self) {
        self.thread.store(0, Ordering::SeqCst);
        self.retire();
        self.setting.store(null_mut(), Ordering::SeqCst);
    }

    fn setting(&self) -> Option<&Setting> {
        // SAFETY: `works_with` was given one that stays for as long as the pointer does.
        unsafe { self.setting.load(Ordering::SeqCst).as_ref() }
    }

    /// How many writes the handler has seen.
    pub(crate) fn seen(&self) -> u64 {
        let noted = self.noted.load(Ordering::SeqCst) as u64;
        [&self.dropped, &self.unknown, &self.own]
            .iter()
            .fold(noted, |sum, counter| sum + counter.load(Ordering::SeqCst))
    }

    /// The write that a trap tells of, once it is done; `None`: it is still to come.
    ///
    /// # Errors
    ///
    /// When it can never be done, as it would trap again and again.
    fn done(&self, told: Option<Told>, context: &mut libc::ucontext_t) -> Result<Option<Done>, Errno> {
        let ends_step = matches!(told, Some(Told::StepEnds));
        let (words, is_late) = match told {
            Some(Told::Write { word, is_late }) => (Some(1 << word), is_late),
            _ => (None, false),
        };
        let done = Done { words, is_late };
        let Some(setting) = self.setting().filter(|_| processor::TRAPS_BEFORE) else {
            return Ok(Some(done));
        };
        let program_counter = processor::registers(context)[0];
        let is_end = self.step.ends_at(program_counter);
        if is_end || ends_step {
            self.step.end(context);
            let words = self.watch_again();
            return Ok(Some(Done {
                words: ends_step.then_some(words),
                is_late: !is_end,
            }));
        }
        let let_go = || self.step.let_go.fetch_or(words.unwrap_or(Words::MAX), Ordering::SeqCst);
        if is_late {
            self.late.fetch_add(1, Ordering::SeqCst);
            let_go();
            return Ok(Some(done));
        }
        match processor::next(program_counter) {
            Next::Done => {
                let_go();
                return Ok(Some(done));
            }
            Next::At(end) if !self.stopped.load(Ordering::SeqCst) => {
                if setting.step(words.unwrap_or(Words::MAX), end)? {
                    let_go();
                    self.step.begin(end, context);
                    return Ok(None);
                }
                self.unknown.fetch_add(1, Ordering::SeqCst);
            }
            _ => {
                self.unknown.fetch_add(1, Ordering::SeqCst);
                self.stopped.store(true, Ordering::SeqCst);
                setting.clear_for_sure()?;
            }
        }
        Ok(None)
    }

    /// A write by the handler itself, which is not to trap again.
    fn let_go(&self, told: Option<Told>) -> Result<(), Errno> {
        self.own.fetch_add(1, Ordering::SeqCst);
        let words = match told {
            Some(Told::Write { word, .. }) => 1 << word,
            _ => Words::MAX,
        };
        match self.setting().filter(|_| processor::TRAPS_BEFORE) {
            Some(setting) => {
                self.step.let_go.fetch_or(words, Ordering::SeqCst);
                setting.let_go(words)
            }
            None => Ok(()),
        }
    }

    /// Watches again what was let go, and tells which words that are.
    fn watch_again(&self) -> Words {
        let words = self.step.let_go.swap(0, Ordering::SeqCst);
        if words != 0
            && !self.stopped.load(Ordering::SeqCst)
            && let Some(setting) = self.setting()
            && setting.watch_again(words).is_err()
        {
            // They are let go for good.
            self.unknown.fetch_add(1, Ordering::SeqCst);
            self.stopped.store(true, Ordering::SeqCst);
        }
        words
    }

    /// Notes a write.
    fn note(&self, done: &Done, interrupted: &Interrupted<'_>) {
        let count = self.count.load(Ordering::SeqCst);
        let mut found = [None; MOST_WORDS];
        for (at, found) in found[..count].iter_mut().enumerate() {
            let known = self.known[at].load(Ordering::SeqCst);
            *found = match done.words {
                Some(words) => (words & 1 << at != 0).then(|| self.value(at)),
                None => Some(self.value(at)).filter(|value| count == 1 || *value != known),
            };
        }
        if found == [None; MOST_WORDS] {
            self.unknown.fetch_add(1, Ordering::SeqCst);
        }
        let mut stack = None;
        for (at, value) in found.iter().enumerate() {
            let Some(after) = *value else {
                continue;
            };
            let place = self.noted.load(Ordering::SeqCst);
            let before = self.known[at].swap(after, Ordering::SeqCst);
            if place == self.room.load(Ordering::SeqCst) {
                self.dropped.fetch_add(1, Ordering::SeqCst);
                continue;
            }
            let write = Write {
                word: at,
                mark: self.mark.load(Ordering::SeqCst),
                before,
                after,
                stack: *stack.get_or_insert_with(|| if done.is_late { 0 } else { self.capture(interrupted) }),
            };
            // SAFETY: `note_into` was given room for more than `place`, and nobody else writes there.
            unsafe { self.records.load(Ordering::SeqCst).add(place).write(write) };
            self.noted.store(place + 1, Ordering::SeqCst);
        }
        if self.own.load(Ordering::SeqCst) > 0 {
            // What the capture has done to them is no part of the next write.
            (0..count).for_each(|at| self.known[at].store(self.value(at), Ordering::SeqCst));
        }
    }

    /// The value of a word; if it cannot be read, the last known one.
    fn value(&self, at: usize) -> u64 {
        let value = kernel::read_word(self.addresses[at].load(Ordering::SeqCst), self.width(at));
        value.unwrap_or_else(|| self.known[at].load(Ordering::SeqCst))
    }

    fn capture(&self, interrupted: &Interrupted<'_>) -> u32 {
        match self.capture.load(Ordering::SeqCst) {
            0 => 0,
            capture => {
                // SAFETY: `begin` has stored it from a `Capture`.
                let capture = unsafe { std::mem::transmute::<usize, Capture>(capture) };
                capture(interrupted)
            }
        }
    }

    fn stop_if_due(&self) {
        let is_due = self.dropped.load(Ordering::SeqCst) > self.stop_after.load(Ordering::SeqCst);
        if is_due
            && !self.stopped.swap(true, Ordering::SeqCst)
            && let Some(setting) = self.setting()
        {
            // Where it fails, it is tried again at the end.
            let _ = setting.clear();
        }
    }
}

/// A write that is done.
struct Done {
    /// The words that it went to; `None`: those that have changed.
    words: Option<Words>,
    /// The thread is no longer at it.
    is_late: bool,
}

/// Up to as many words as can be watched.
pub(crate) struct Watched {
    all: [Word; MOST_WORDS],
    count: usize,
}

impl std::ops::Deref for Watched {
    type Target = [Word];

    fn deref(&self) -> &[Word] {
        &self.all[..self.count]
    }
}

/// Whose `si_code` says that a debug register was hit, as set by ptrace (`TRAP_HWBKPT`).
const HARDWARE_BREAKPOINT: c_int = 4;

pub(crate) extern "C" fn handler(_signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes it.
    let (told, code) = unsafe { (perf::told(info), (*info).si_code) };
    // In a forked child the number is another one.
    let is_watched = NOTER.thread.load(Ordering::SeqCst) == kernel::thread();
    if !is_watched || (told.is_none() && code != HARDWARE_BREAKPOINT) {
        return pass_on(info);
    }
    // SAFETY: a thread's own; libc functions that are called from here may change it.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    let result = if NOTER.is_inside.swap(true, Ordering::SeqCst) {
        NOTER.let_go(told)
    } else {
        // SAFETY: the kernel passes the registers of the interrupted thread, and nobody else has them.
        let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
        let result = NOTER.done(told, context).map(|done| {
            if let Some(done) = done {
                NOTER.note(&done, &Interrupted(context));
                NOTER.stop_if_due();
                NOTER.watch_again();
            }
        });
        NOTER.is_inside.store(false, Ordering::SeqCst);
        result
    };
    if result.is_err() {
        // The thread can go neither on nor back.
        pass_on(info);
    }
    // SAFETY: as above.
    unsafe { *errno = before };
}

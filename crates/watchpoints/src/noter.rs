//! The handler of SIGTRAP, and where it notes what it saw. It makes system calls, touches atomics and memory that was
//! there before, and allocates nothing.

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use leaktight_liveset::Region;

use crate::kernel;
use crate::log::Write;
use crate::perf;
use crate::processor;
use crate::signal::pass_on;
use crate::watch::{MOST_WORDS, Setting, Width, Word};

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
        for counter in [&self.dropped, &self.unknown, &self.own] {
            counter.store(0, Ordering::SeqCst);
        }
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
    pub(crate) fn words(&self) -> Words {
        let word = |at: usize| Word {
            address: self.addresses[at].load(Ordering::SeqCst),
            width: self.width(at),
        };
        Words {
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

    /// What the handler clears after so many dropped writes. It stays until [`retire`](Self::retire).
    pub(crate) fn stop_by(&self, setting: &Setting, stop_after: u64) {
        self.setting.store((&raw const *setting).cast_mut(), Ordering::SeqCst);
        self.stop_after.store(stop_after, Ordering::SeqCst);
    }

    /// Notes nothing more; traps are still swallowed.
    pub(crate) fn retire(&self) {
        self.room.store(0, Ordering::SeqCst);
        self.stop_after.store(u64::MAX, Ordering::SeqCst);
        self.setting.store(null_mut(), Ordering::SeqCst);
        self.records.store(null_mut(), Ordering::SeqCst);
        self.capture.store(0, Ordering::SeqCst);
    }

    /// Traps are nobody's from now on.
    pub(crate) fn end(&self) {
        self.thread.store(0, Ordering::SeqCst);
        self.retire();
    }

    /// How many writes the handler has seen.
    pub(crate) fn seen(&self) -> u64 {
        let noted = self.noted.load(Ordering::SeqCst) as u64;
        [&self.dropped, &self.unknown, &self.own]
            .iter()
            .fold(noted, |sum, counter| sum + counter.load(Ordering::SeqCst))
    }

    /// Notes the write that `told` speaks of, or by ptrace, where it does not say which, those words that have changed.
    fn note(&self, told: Option<perf::Told>, interrupted: &Interrupted<'_>) {
        let count = self.count.load(Ordering::SeqCst);
        let is_late = told.as_ref().is_some_and(|told| told.is_late);
        let mut found = [None; MOST_WORDS];
        match told {
            Some(told) if told.word < count => found[told.word] = Some(self.value(told.word)),
            Some(_) => {}
            None if count == 1 => found[0] = Some(self.value(0)),
            None => (0..count).for_each(|at| {
                let value = self.value(at);
                found[at] = (value != self.known[at].load(Ordering::SeqCst)).then_some(value);
            }),
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
                stack: *stack.get_or_insert_with(|| if is_late { 0 } else { self.capture(interrupted) }),
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
        if is_due && !self.stopped.swap(true, Ordering::SeqCst) {
            // SAFETY: `stop_by` was given one that stays.
            if let Some(setting) = unsafe { self.setting.load(Ordering::SeqCst).as_ref() } {
                // Where it fails, it is tried again at the end.
                let _ = setting.clear();
            }
        }
    }
}

/// Up to as many words as can be watched.
pub(crate) struct Words {
    all: [Word; MOST_WORDS],
    count: usize,
}

impl std::ops::Deref for Words {
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
    if NOTER.is_inside.swap(true, Ordering::SeqCst) {
        NOTER.own.fetch_add(1, Ordering::SeqCst);
        return;
    }
    // SAFETY: a thread's own; libc functions that the capture calls may change it.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    // SAFETY: the kernel passes the registers of the interrupted thread.
    NOTER.note(told, &Interrupted(unsafe { &*context.cast::<libc::ucontext_t>() }));
    NOTER.stop_if_due();
    // SAFETY: as above.
    unsafe { *errno = before };
    NOTER.is_inside.store(false, Ordering::SeqCst);
}

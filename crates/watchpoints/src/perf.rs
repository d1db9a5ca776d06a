//! Setting the registers by perf events, each of which is a descriptor.

use std::ffi::{c_int, c_ulong};

use crate::kernel::{Errno, call};
use crate::processor::TRAPS_BEFORE;
use crate::step::Words;
use crate::watch::{MOST_WORDS, Word};

/// In `si_perf_data` of our signals, above the place of the word.
const OUR_DATA: u64 = 0x6c65_616b_7469_0000;

/// `struct perf_event_attr` of Linux 5.13 (linux/perf_event.h, PERF_ATTR_SIZE_VER7).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    bp_addr: u64,
    bp_len: u64,
    unused: [u64; 6],
    sig_data: u64,
}

const _: () = assert!(size_of::<Attributes>() == 128);

/// The number of the event that tells of the end of a step, behind those of the words.
const STEP: usize = MOST_WORDS;

/// Events of the calling thread.
pub(crate) struct Events {
    /// So many words.
    count: usize,
    words: [Event; MOST_WORDS],
    /// The end of a step, where a trap comes before the write.
    step: Option<Event>,
}

/// A descriptor, and the number of its event, since somebody may close the descriptor and get another of the same
/// number.
#[derive(Clone, Copy, Default)]
struct Event {
    descriptor: c_int,
    id: u64,
}

impl Events {
    /// A signal for each write to one of these words, at most [`MOST_WORDS`], once they are [renewed](Self::renew).
    ///
    /// Errors that say something: `ENOSPC`, the registers are in use; `EPERM`, `EACCES` and `ENOSYS`, forbidden;
    /// `E2BIG` and `EINVAL`, the kernel is older than 5.13.
    pub(crate) fn open(words: &[Word]) -> Result<Events, Errno> {
        let mut events = Events {
            count: 0,
            words: [Event::default(); MOST_WORDS],
            step: None,
        };
        match events.open_all(words) {
            Ok(()) => Ok(events),
            Err(error) => {
                events.close();
                Err(error)
            }
        }
    }

    fn open_all(&mut self, words: &[Word]) -> Result<(), Errno> {
        for (at, word) in words.iter().enumerate() {
            self.words[at] = Event::open(&Attributes::of_word(word, at).disabled())?;
            self.count += 1;
        }
        if TRAPS_BEFORE {
            self.step = Some(Event::open(&Attributes::of_instruction(0).disabled())?);
        }
        Ok(())
    }

    /// Those that nobody has closed.
    fn own(&self) -> impl Iterator<Item = &Event> {
        let all = self.words[..self.count].iter().chain(&self.step);
        all.filter(|event| event.is_own())
    }

    /// The event of a word, unless somebody has closed it.
    fn word(&self, at: usize) -> Option<&Event> {
        self.words[..self.count].get(at).filter(|event| event.is_own())
    }

    fn some(&self, words: Words) -> impl Iterator<Item = &Event> {
        let is_one = move |at: &usize| words & 1 << at != 0;
        (0..self.count).filter(is_one).filter_map(|at| self.word(at))
    }

    /// Signals for these words from now on. Where a trap comes before the write it is one signal for each: should
    /// somebody else handle it, who does not step over the write, it is made all the same.
    pub(crate) fn renew(&self, words: Words) {
        const ENABLE: c_ulong = 0x2400;
        const REFRESH: c_ulong = 0x2402;
        for event in self.some(words) {
            match TRAPS_BEFORE {
                true => event.request(REFRESH, 1),
                false => event.request(ENABLE, 0),
            }
        }
    }

    /// No signals from now on. May be called by a signal handler.
    ///
    /// By name and not by closing: a forked child may have the descriptors, too, and keep the events alive.
    pub(crate) fn disable(&self) {
        self.own().for_each(Event::disable);
    }

    /// No signals for these words, but one at the instruction at `end`.
    pub(crate) fn step(&self, words: Words, end: usize) -> Result<(), Errno> {
        let step = self.step.as_ref().filter(|event| event.is_own());
        step.ok_or(libc::EBADF)?.change(&Attributes::of_instruction(end))?;
        self.let_go(words);
        Ok(())
    }

    pub(crate) fn let_go(&self, words: Words) {
        self.some(words).for_each(Event::disable);
    }

    pub(crate) fn end_step(&self) {
        self.step.iter().filter(|event| event.is_own()).for_each(Event::disable);
    }

    /// Moves the event of one word to another. May be called wherever an allocator may be interrupted.
    pub(crate) fn aim(&self, at: usize, word: &Word) -> Result<(), Errno> {
        self.word(at).ok_or(libc::EBADF)?.change(&Attributes::of_word(word, at))
    }

    /// How many writes the processor has counted.
    pub(crate) fn hits(&self) -> u64 {
        self.some(Words::MAX).map(Event::hits).sum()
    }

    /// Closes all; `false` if somebody had closed one of them before.
    pub(crate) fn close(&mut self) -> bool {
        let opened = self.count + usize::from(self.step.is_some());
        let mut closed = 0;
        for event in self.own() {
            // SAFETY: a descriptor of ours, and nobody uses it after this.
            let _ = unsafe { call(libc::SYS_close, [event.descriptor as usize, 0, 0, 0, 0, 0]) };
            closed += 1;
        }
        (self.count, self.step) = (0, None);
        closed == opened
    }
}

impl Attributes {
    /// Writes to a word, the one with this number.
    fn of_word(word: &Word, at: usize) -> Attributes {
        const WRITE: u32 = 2;
        Attributes::of(WRITE, word.address, word.width.bytes(), at)
    }

    /// An instruction that is reached.
    fn of_instruction(address: usize) -> Attributes {
        const EXECUTE: u32 = 4;
        /// `sizeof(long)` (perf_event_open(2)).
        const LENGTH: usize = 8;
        Attributes::of(EXECUTE, address, LENGTH, STEP)
    }

    fn of(bp_type: u32, address: usize, bytes: usize, number: usize) -> Attributes {
        const TYPE_BREAKPOINT: u32 = 5;
        const EXCLUDE_KERNEL: u64 = 1 << 5;
        const EXCLUDE_HYPERVISOR: u64 = 1 << 6;
        const REMOVE_ON_EXEC: u64 = 1 << 36;
        const SIGTRAP: u64 = 1 << 37;
        Attributes {
            kind: TYPE_BREAKPOINT,
            size: size_of::<Attributes>() as u32,
            sample_period: 1,
            flags: EXCLUDE_KERNEL | EXCLUDE_HYPERVISOR | REMOVE_ON_EXEC | SIGTRAP,
            bp_type,
            bp_addr: address as u64,
            bp_len: bytes as u64,
            sig_data: OUR_DATA | number as u64,
            ..Attributes::default()
        }
    }

    fn disabled(mut self) -> Attributes {
        const DISABLED: u64 = 1;
        self.flags |= DISABLED;
        self
    }
}

impl Event {
    fn open(attributes: &Attributes) -> Result<Event, Errno> {
        const CLOSE_ON_EXEC: usize = 1 << 3;
        const NO_GROUP: usize = usize::MAX;
        const ANY_PROCESSOR: usize = usize::MAX;
        const CALLING_THREAD: usize = 0;
        let place = (&raw const *attributes) as usize;
        let arguments = [place, CALLING_THREAD, ANY_PROCESSOR, NO_GROUP, CLOSE_ON_EXEC, 0];
        // SAFETY: reads the attributes; the handler for the signals is in place.
        let descriptor = unsafe { call(libc::SYS_perf_event_open, arguments) }? as c_int;
        let mut event = Event { descriptor, id: 0 };
        event.id = event.current_id().unwrap_or(0);
        Ok(event)
    }

    fn current_id(&self) -> Option<u64> {
        const ID: c_ulong = 0x8008_2407;
        let mut id = 0u64;
        let arguments = [self.descriptor as usize, ID as usize, (&raw mut id) as usize, 0, 0, 0];
        // SAFETY: an event stores 8 bytes; any other descriptor refuses, since no other kind knows the request.
        unsafe { call(libc::SYS_ioctl, arguments) }.ok()?;
        Some(id)
    }

    /// Another address, and signals from there. The rest of the attributes must be as it was.
    fn change(&self, attributes: &Attributes) -> Result<(), Errno> {
        /// `PERF_EVENT_IOC_MODIFY_ATTRIBUTES` (Linux 4.17), which takes another address for a breakpoint, and nothing else.
        const MODIFY: usize = 0x4008_240b;
        let place = (&raw const *attributes) as usize;
        // SAFETY: reads the attributes.
        unsafe { call(libc::SYS_ioctl, [self.descriptor as usize, MODIFY, place, 0, 0, 0]) }.map(drop)
    }

    fn disable(&self) {
        const DISABLE: c_ulong = 0x2401;
        self.request(DISABLE, 0);
    }

    fn request(&self, request: c_ulong, argument: usize) {
        let arguments = [self.descriptor as usize, request as usize, argument, 0, 0, 0];
        // SAFETY: requests that take a number and not a pointer, to an event of ours.
        let _ = unsafe { call(libc::SYS_ioctl, arguments) };
    }

    fn is_own(&self) -> bool {
        self.current_id() == Some(self.id)
    }

    fn hits(&self) -> u64 {
        let mut hits = 0u64;
        let arguments = [
            self.descriptor as usize,
            (&raw mut hits) as usize,
            size_of::<u64>(),
            0,
            0,
            0,
        ];
        // SAFETY: an event with `read_format` 0 stores one number of 8 bytes.
        let read = unsafe { call(libc::SYS_read, arguments) };
        if read == Ok(size_of::<u64>()) { hits } else { 0 }
    }
}

/// What a signal of an event of ours says.
pub(crate) enum Told {
    /// A write to the word with this number.
    Write {
        word: usize,
        /// The signal comes later than the write, since SIGTRAP was blocked.
        is_late: bool,
    },
    /// The end of a step.
    StepEnds,
}

/// Whether a signal comes from one of our events.
///
/// # Safety
///
/// What the kernel passes to a handler.
pub(crate) unsafe fn told(info: *const libc::siginfo_t) -> Option<Told> {
    /// `TRAP_PERF` and `TRAP_PERF_FLAG_ASYNC` (asm-generic/siginfo.h).
    const CODE: c_int = 6;
    const LATE: u32 = 1;
    /// Behind the address: the data, the type, and the flags.
    #[repr(C)]
    struct PerfInfo {
        number: c_int,
        error: c_int,
        code: c_int,
        address: usize,
        data: u64,
        kind: u32,
        flags: u32,
    }
    // SAFETY: the caller's promise; siginfo_t has 128 bytes, aligned to 8.
    let info = unsafe { &*info.cast::<PerfInfo>() };
    let number = info.data.wrapping_sub(OUR_DATA);
    match usize::try_from(number) {
        _ if info.code != CODE => None,
        Ok(word) if word < MOST_WORDS => Some(Told::Write {
            word,
            is_late: info.flags & LATE != 0,
        }),
        Ok(STEP) => Some(Told::StepEnds),
        _ => None,
    }
}

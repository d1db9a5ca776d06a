//! Setting the registers by perf events, each of which is a descriptor.

use std::ffi::{c_int, c_ulong};

use crate::kernel::{Errno, call};
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

/// Events of the calling thread.
pub(crate) struct Events {
    count: usize,
    all: [Event; MOST_WORDS],
}

/// A descriptor, and the number of its event, since somebody may close the descriptor and get another of the same
/// number.
#[derive(Clone, Copy, Default)]
struct Event {
    descriptor: c_int,
    id: u64,
}

impl Events {
    /// A signal after each write to one of these words, at most [`MOST_WORDS`].
    ///
    /// Errors that say something: `ENOSPC`, the registers are in use; `EPERM`, `EACCES` and `ENOSYS`, forbidden;
    /// `E2BIG` and `EINVAL`, the kernel is older than 5.13.
    pub(crate) fn open(words: &[Word]) -> Result<Events, Errno> {
        let mut events = Events {
            count: 0,
            all: [Event::default(); MOST_WORDS],
        };
        for (at, word) in words.iter().enumerate() {
            match Event::open(word, OUR_DATA | at as u64) {
                Ok(event) => events.all[at] = event,
                Err(error) => {
                    events.disable();
                    events.close();
                    return Err(error);
                }
            }
            events.count += 1;
        }
        Ok(events)
    }

    fn own(&self) -> impl Iterator<Item = &Event> {
        self.all[..self.count].iter().filter(|event| event.is_own())
    }

    /// No signals from now on. May be called by a signal handler.
    ///
    /// By name and not by closing: a forked child may have the descriptors, too, and keep the events alive.
    pub(crate) fn disable(&self) {
        const DISABLE: c_ulong = 0x2401;
        for event in self.own() {
            // SAFETY: a request without an argument, to an event of ours.
            let _ = unsafe {
                call(
                    libc::SYS_ioctl,
                    [event.descriptor as usize, DISABLE as usize, 0, 0, 0, 0],
                )
            };
        }
    }

    /// Moves the event of one word to another. May be called wherever an allocator may be interrupted.
    pub(crate) fn aim(&self, at: usize, word: &Word) -> Result<(), Errno> {
        /// `PERF_EVENT_IOC_MODIFY_ATTRIBUTES` (Linux 4.17), which takes another address for a breakpoint, and nothing else.
        const MODIFY: usize = 0x4008_240b;
        let event = self.all[..self.count].get(at).filter(|event| event.is_own());
        let descriptor = event.ok_or(libc::EBADF)?.descriptor;
        let attributes = Attributes::of(word, OUR_DATA | at as u64);
        let place = (&raw const attributes) as usize;
        // SAFETY: reads the attributes.
        unsafe { call(libc::SYS_ioctl, [descriptor as usize, MODIFY, place, 0, 0, 0]) }.map(drop)
    }

    /// How many writes the processor has counted.
    pub(crate) fn hits(&self) -> u64 {
        self.own().map(Event::hits).sum()
    }

    /// Closes all; `false` if somebody had closed one of them before.
    pub(crate) fn close(&mut self) -> bool {
        let mut closed = 0;
        for event in self.own() {
            // SAFETY: a descriptor of ours, and nobody uses it after this.
            let _ = unsafe { call(libc::SYS_close, [event.descriptor as usize, 0, 0, 0, 0, 0]) };
            closed += 1;
        }
        closed == std::mem::take(&mut self.count)
    }
}

impl Attributes {
    fn of(word: &Word, sig_data: u64) -> Attributes {
        const TYPE_BREAKPOINT: u32 = 5;
        const BREAKPOINT_WRITE: u32 = 2;
        const EXCLUDE_KERNEL: u64 = 1 << 5;
        const EXCLUDE_HYPERVISOR: u64 = 1 << 6;
        const REMOVE_ON_EXEC: u64 = 1 << 36;
        const SIGTRAP: u64 = 1 << 37;
        Attributes {
            kind: TYPE_BREAKPOINT,
            size: size_of::<Attributes>() as u32,
            sample_period: 1,
            flags: EXCLUDE_KERNEL | EXCLUDE_HYPERVISOR | REMOVE_ON_EXEC | SIGTRAP,
            bp_type: BREAKPOINT_WRITE,
            bp_addr: word.address as u64,
            bp_len: word.width.bytes() as u64,
            sig_data,
            ..Attributes::default()
        }
    }
}

impl Event {
    fn open(word: &Word, sig_data: u64) -> Result<Event, Errno> {
        const CLOSE_ON_EXEC: usize = 1 << 3;
        const NO_GROUP: usize = usize::MAX;
        const ANY_PROCESSOR: usize = usize::MAX;
        const CALLING_THREAD: usize = 0;
        let attributes = Attributes::of(word, sig_data);
        let place = (&raw const attributes) as usize;
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
pub(crate) struct Told {
    /// The place of the word.
    pub word: usize,
    /// It came later than the write, since SIGTRAP was blocked.
    pub is_late: bool,
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
    let word = info.data.wrapping_sub(OUR_DATA);
    (info.code == CODE && word < MOST_WORDS as u64).then_some(Told {
        word: word as usize,
        is_late: info.flags & LATE != 0,
    })
}

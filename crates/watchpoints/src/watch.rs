//! A watch: set, and cleared again however it ends.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use leaktight_liveset::Region;

use crate::kernel::{self, Errno, error};
use crate::log::{Log, Write};
use crate::noter::{Capture, NOTER, handler};
use crate::processor;
use crate::refusal::Refusal;
use crate::setting::Setting;
use crate::signal::Installed;

/// So many words can be watched at a time: x86-64 has so many debug registers, and most aarch64 processors.
pub const MOST_WORDS: usize = 4;

/// A place in memory to watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// A multiple of the width.
    pub address: usize,
    /// How many bytes from there on.
    pub width: Width,
}

/// How long a word is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 4 bytes.
    Four,
    /// 8 bytes.
    Eight,
}

impl Width {
    /// As a number of bytes.
    pub fn bytes(self) -> usize {
        match self {
            Width::Four => 4,
            Width::Eight => 8,
        }
    }
}

/// How the registers are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By `perf_event_open`, which Linux has since 5.13.
    ///
    /// While the watch lives there is a descriptor for each word. A child that is forked meanwhile has them, too, and
    /// with them the registers, though nothing comes of it: until it ends or executes another program, the thread has so
    /// many less.
    Perf,
    /// By a helper that attaches by ptrace. Takes about a millisecond each time.
    ///
    /// Code that writes to a watched word while it has *blocked* SIGTRAP is then ended by the kernel. And the thread
    /// keeps its registers, though they are clear: perf events for debug registers get none on it from then on.
    ///
    /// On aarch64, where a trap comes before the write, each write takes two helpers more, as the registers must be clear
    /// meanwhile. Code that has forbidden itself ptrace since the start is ended by SIGTRAP at the write, and code that
    /// handles SIGTRAP itself meanwhile, and returns to the write, traps again and again.
    Ptrace,
}

/// How to watch.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The only way to try; `None`: perf, and where that is refused, ptrace.
    pub way: Option<Way>,
    /// So many writes are noted, and later ones counted.
    pub most_writes: usize,
    /// So many are dropped before watching ends by itself: each write costs its thread tens of microseconds.
    pub stop_after_dropping: u64,
    /// What tells the stack of a write.
    pub capture: Option<Capture>,
}

impl Default for Options {
    /// Either way, 64 Ki writes, as many dropped, no stacks.
    fn default() -> Self {
        Options {
            way: None,
            most_writes: 1 << 16,
            stop_after_dropping: 1 << 16,
            capture: None,
        }
    }
}

/// Runs `work` with these words watched, and returns what it does and the writes that it made, on this thread.
///
/// # Errors
///
/// As for [`Watch::start`]; `work` is not run then.
pub fn watched<R>(words: &[Word], options: &Options, work: impl FnOnce(&Watch) -> R) -> Result<(R, Log), Refusal> {
    let watch = Watch::start(words, options)?;
    let result = work(&watch);
    Ok((result, watch.stop()))
}

/// The calling thread's writes to some words are being noted. One at a time in a process.
///
/// Dropping it ends that, in a panic, too. In a forked child nothing is watched, and a drop there changes nothing in
/// the parent.
pub struct Watch {
    running: Option<Running>,
    way: Way,
    /// The registers are those of this thread.
    _not_send: PhantomData<*mut ()>,
}

// In the order in which it is taken down.
struct Running {
    setting: Box<Setting>,
    installed: Installed,
    records: Region,
    process: i32,
    _turn: Turn,
}

impl Watch {
    /// Sets the registers.
    ///
    /// For as long as the watch lives, SIGTRAP is handled here, and the calling thread lets it in. Words may be unmapped
    /// meanwhile, and used for something else.
    ///
    /// # Errors
    ///
    /// See [`Refusal`]; nothing is left changed then.
    pub fn start(words: &[Word], options: &Options) -> Result<Watch, Refusal> {
        if !processor::SUPPORTED {
            return Err(Refusal::Processor);
        }
        if words.is_empty() || words.len() > MOST_WORDS {
            return Err(Refusal::Count(words.len()));
        }
        values(words)?;
        let turn = Turn::take()?;
        match kernel::tracer() {
            0 => {}
            tracer => return Err(Refusal::Traced(tracer)),
        }
        let bytes = options
            .most_writes
            .checked_mul(size_of::<Write>())
            .ok_or(Refusal::OutOfMemory)?;
        let records = Region::new(bytes.max(1)).map_err(|_| Refusal::OutOfMemory)?;
        let installed = Installed::new(handler).ok_or(Refusal::Handled)?;
        let (way, setting) = set(words, options).inspect_err(|_| NOTER.end())?;
        NOTER.note_into(&records, options.most_writes);
        NOTER.stop_after(options.stop_after_dropping);
        let running = Running {
            setting,
            installed,
            records,
            process: kernel::process(),
            _turn: turn,
        };
        Ok(Watch {
            running: Some(running),
            way,
            _not_send: PhantomData,
        })
    }

    /// How the registers were set.
    pub fn way(&self) -> Way {
        self.way
    }

    /// What comes from now on is noted with this number ([`Write::mark`]), such as that of the call that begins. 0 at
    /// first.
    pub fn mark(&self, mark: u32) {
        NOTER.mark.store(mark, Ordering::SeqCst);
    }

    /// Watches another word instead of the one with this number. Allocates nothing, so it may be called inside an allocator,
    /// on the thread that is watched.
    ///
    /// # Errors
    ///
    /// When the registers cannot be set; then it is not known which word is watched, and the log must not be relied on
    /// for it.
    pub fn aim(&self, at: usize, word: Word) -> std::io::Result<()> {
        let value = values(&[word]).map_err(|_| error(libc::EFAULT))?[0];
        let running = self.running.as_ref().ok_or_else(|| error(libc::EBADF))?;
        NOTER.aim(at, word, value);
        running.setting.aim(at, &word).map_err(error)
    }

    /// So many writes were noted until now.
    pub fn len(&self) -> usize {
        NOTER.noted.load(Ordering::SeqCst)
    }

    /// The writes that were noted until now.
    pub fn writes(&self) -> Vec<Write> {
        let Some(running) = &self.running else {
            return Vec::new();
        };
        // SAFETY: the noter has written so many from the start on, and does so on this thread only.
        unsafe { std::slice::from_raw_parts(running.records.start().cast::<Write>(), self.len()) }.to_vec()
    }

    /// Whether no write was noted until now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Clears the registers and puts everything back.
    pub fn stop(mut self) -> Log {
        match self.running.take() {
            Some(running) => running.end(),
            None => unreachable!("only `stop` and a drop end it, and both once"),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.end();
        }
    }
}

impl Running {
    fn end(mut self) -> Log {
        let is_parent = self.process == kernel::process();
        // From here on the handler sets no register again.
        let stopped_early = NOTER.stopped.swap(true, Ordering::SeqCst);
        let cleared = if is_parent {
            self.setting.clear_for_sure()
        } else {
            Ok(())
        };
        // Before the counters are read: a trap that was blocked comes now.
        let undisturbed = match cleared {
            Ok(()) => self.installed.put_back(),
            Err(_) => true,
        };
        let seen = NOTER.seen();
        let (missed, closed) = match &mut *self.setting {
            Setting::Perf(events) if is_parent => (events.hits().saturating_sub(seen), events.close()),
            Setting::Perf(events) => (0, events.close()),
            Setting::Ptrace(_) => (u64::from(NOTER.step.is_under_way()), true),
        };
        let noted = NOTER.noted.load(Ordering::SeqCst);
        match cleared {
            Ok(()) => NOTER.end(),
            Err(_) => {
                NOTER.retire();
                self.installed.leave();
                self._turn.keep();
                // The handler goes on using it.
                Box::leak(self.setting);
            }
        }
        // SAFETY: the noter has written so many from the start on, and no longer knows the region.
        let mut log = unsafe { Log::new(self.records, noted) };
        log.dropped = NOTER.dropped.load(Ordering::SeqCst);
        log.unknown = NOTER.unknown.load(Ordering::SeqCst);
        log.missed = missed + NOTER.late.load(Ordering::SeqCst);
        log.stopped_early = stopped_early;
        log.disturbed = !undisturbed || !closed;
        log.not_cleared = cleared.err().map(error);
        log
    }
}

/// Sets the registers in one of the ways asked for.
fn set(words: &[Word], options: &Options) -> Result<(Way, Box<Setting>), Refusal> {
    let mut refused = [None, None];
    for (way, refused) in [Way::Perf, Way::Ptrace].into_iter().zip(&mut refused) {
        if options.way.is_some_and(|only| only != way) {
            continue;
        }
        let result = prove(way).and_then(|is_proven| match is_proven {
            true => {
                let values = values(words).map_err(|_| libc::EFAULT)?;
                begin(way, words, &values, options.capture).map(Some)
            }
            false => Ok(None),
        });
        match result {
            Ok(Some(setting)) => return Ok((way, setting)),
            Ok(None) => return Err(Refusal::NoTrap),
            Err(error) => *refused = Some(error),
        }
    }
    Err(refusal(refused))
}

fn begin(
    way: Way,
    words: &[Word],
    values: &[u64; MOST_WORDS],
    capture: Option<Capture>,
) -> Result<Box<Setting>, Errno> {
    NOTER.begin(words, values, capture);
    let setting = Box::new(Setting::new(way, words)?);
    NOTER.works_with(&setting);
    setting.begin().inspect_err(|_| NOTER.end())?;
    Ok(setting)
}

/// Whether a trap comes in this way. Tried once with a word of ours, since there are machines that let registers be set
/// and do nothing then.
fn prove(way: Way) -> Result<bool, Errno> {
    static PROVEN: [AtomicBool; 2] = [const { AtomicBool::new(false) }; 2];
    static TRY: AtomicU64 = AtomicU64::new(0);
    let proven = &PROVEN[way as usize];
    if !proven.load(Ordering::SeqCst) {
        let word = Word {
            address: TRY.as_ptr() as usize,
            width: Width::Eight,
        };
        let mut setting = begin(way, &[word], &[0; MOST_WORDS], None)?;
        TRY.fetch_add(1, Ordering::SeqCst);
        let cleared = setting.clear_for_sure();
        NOTER.end();
        if let Setting::Perf(events) = &mut *setting {
            events.close();
        }
        cleared?;
        proven.store(NOTER.seen() == 1, Ordering::SeqCst);
    }
    Ok(proven.load(Ordering::SeqCst))
}

/// What the errors of perf and of ptrace mean together.
fn refusal(refused: [Option<Errno>; 2]) -> Refusal {
    const IN_USE: [Errno; 2] = [libc::ENOSPC, libc::EBUSY];
    const NONE: [Errno; 5] = [libc::EIO, libc::ENODEV, libc::ENOENT, libc::EOPNOTSUPP, libc::ENXIO];
    // What was tried last says most, but that it is forbidden says nothing of the registers.
    let mut by_weight = refused.into_iter().flatten();
    if by_weight.clone().any(|error| IN_USE.contains(&error)) {
        return Refusal::InUse;
    }
    match by_weight.find(|error| NONE.contains(error)) {
        Some(none) => Refusal::NoRegisters(error(none)),
        None => Refusal::Forbidden {
            perf: refused[0].map(error),
            ptrace: refused[1].map(error),
        },
    }
}

/// The values of the words, if they can be watched.
fn values(words: &[Word]) -> Result<[u64; MOST_WORDS], Refusal> {
    let mut values = [0; MOST_WORDS];
    for (value, word) in values.iter_mut().zip(words) {
        let is_aligned = word.address.is_multiple_of(word.width.bytes());
        let read = kernel::read_word(word.address, word.width);
        *value = read.filter(|_| is_aligned).ok_or(Refusal::Address(word.address))?;
    }
    Ok(values)
}

/// Whoever has it may use the signal.
struct Turn {
    is_kept: bool,
}

static TAKEN: AtomicBool = AtomicBool::new(false);

impl Turn {
    fn take() -> Result<Turn, Refusal> {
        match TAKEN.swap(true, Ordering::SeqCst) {
            true => Err(Refusal::Busy),
            false => Ok(Turn { is_kept: false }),
        }
    }

    /// Nobody gets it after this.
    fn keep(&mut self) {
        self.is_kept = true;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.is_kept {
            TAKEN.store(false, Ordering::SeqCst);
        }
    }
}

//! The registers as they were set: begun, stepped over, let go and cleared.

use std::time::Duration;

use leaktight_liveset::Region;

use crate::helper;
use crate::kernel::Errno;
use crate::noter::NOTER;
use crate::perf::Events;
use crate::processor::Registers;
use crate::step::Words;
use crate::watch::{Way, Word};

/// How often, and after which pause, what may be short for a moment is asked for again.
const TRIES: usize = 50;
const PAUSE: Duration = Duration::from_millis(1);

/// The registers, as they were set.
pub(crate) enum Setting {
    Perf(Events),
    /// The stack for a helper.
    Ptrace(Region),
}

impl Setting {
    /// As yet nothing traps.
    pub(crate) fn new(way: Way, words: &[Word]) -> Result<Setting, Errno> {
        match way {
            Way::Perf => {
                // A child that was forked during an earlier watch has its events, too: disabled, but each with a register,
                // until the child ends or executes another program.
                let mut result = Events::open(words);
                for _ in 0..TRIES {
                    if !matches!(result, Err(libc::ENOSPC)) {
                        break;
                    }
                    std::thread::sleep(PAUSE);
                    result = Events::open(words);
                }
                result.map(Setting::Perf)
            }
            Way::Ptrace => {
                let stack = Region::new(helper::STACK_BYTES).map_err(|_| libc::ENOMEM)?;
                Ok(Setting::Ptrace(stack))
            }
        }
    }

    /// Traps for the words that the noter knows, from now on.
    pub(crate) fn begin(&self) -> Result<(), Errno> {
        match self {
            Setting::Perf(events) => {
                events.renew(Words::MAX);
                Ok(())
            }
            Setting::Ptrace(stack) => {
                let result = helper::write_registers(Registers::new(&NOTER.words()), stack);
                if result == Err(libc::ESRCH) {
                    // The helper was killed, maybe after it had set them.
                    let _ = helper::write_registers(Registers::CLEAR, stack);
                }
                result
            }
        }
    }

    /// Watches another word, which the noter knows already, instead of the one with this number.
    pub(crate) fn aim(&self, at: usize, word: &Word) -> Result<(), Errno> {
        match self {
            Setting::Perf(events) => events.aim(at, word),
            Setting::Ptrace(stack) => helper::write_registers(Registers::CLEAR, stack)
                .and_then(|()| helper::write_registers(Registers::new(&NOTER.words()), stack)),
        }
    }

    /// Lets go of these words, by ptrace of all, until the instruction at `end` traps. `false` if there will be no such
    /// trap; they are let go all the same. To be called by the handler, as are the next two.
    pub(crate) fn step(&self, words: Words, end: usize) -> Result<bool, Errno> {
        match self {
            Setting::Perf(events) => Ok(events.step(words, end).is_ok()),
            Setting::Ptrace(stack) => again(|| helper::write_registers(Registers::at(end), stack)).map(|()| true),
        }
    }

    /// Lets go of these words, by ptrace of all.
    pub(crate) fn let_go(&self, words: Words) -> Result<(), Errno> {
        match self {
            Setting::Perf(events) => {
                events.let_go(words);
                Ok(())
            }
            Setting::Ptrace(_) => self.clear_for_sure(),
        }
    }

    /// The end of both.
    pub(crate) fn watch_again(&self, words: Words) -> Result<(), Errno> {
        match self {
            Setting::Perf(events) => {
                events.end_step();
                events.renew(words);
                Ok(())
            }
            Setting::Ptrace(stack) => again(|| helper::write_registers(Registers::new(&NOTER.words()), stack)),
        }
    }

    /// No traps from now on. May be called again, and by a signal handler.
    pub(crate) fn clear(&self) -> Result<(), Errno> {
        match self {
            Setting::Perf(events) => {
                events.disable();
                Ok(())
            }
            Setting::Ptrace(stack) => helper::write_registers(Registers::CLEAR, stack),
        }
    }

    pub(crate) fn clear_for_sure(&self) -> Result<(), Errno> {
        again(|| self.clear())
    }
}

/// Does it again and again: there may be no room for one more process just now.
fn again(work: impl Fn() -> Result<(), Errno>) -> Result<(), Errno> {
    let mut result = work();
    for _ in 0..TRIES {
        match result {
            Err(libc::EAGAIN | libc::ENOMEM | libc::ESRCH) => std::thread::sleep(PAUSE),
            _ => break,
        }
        result = work();
    }
    result
}

//! Who took the references that are never given back: a few calls more, with the counts of the suspects watched.
//!
//! The processor's debug registers trap each write to a count (`watchpoints`); what the writes mean is the verdict's
//! business (`account`). Here the calls are made, and stacks are turned into words.

use std::time::{Duration, Instant};

use leaktight_hooks as hooks;
use leaktight_memory::{Memory, has_other_threads};
use leaktight_report::{Finding, Frame, sentence};
use leaktight_stacks as stacks;
use leaktight_verdict::writes::{Account, Candidate, Change, Frame as Place, Owner, Unknown, account, account_exactly};
use leaktight_watchpoints::{Interrupted, MOST_WORDS, Options, Watch, Way, Width, Word, Write};

use crate::makers::Wanted;
pub(crate) use crate::names::Names;
use crate::session::Session;
use crate::subject::Subject;

/// By what means reference counts can be watched here.
///
/// # Errors
///
/// Why they cannot be, in words.
pub fn watchpoints() -> Result<&'static str, String> {
    let word = 0u64;
    let word = Word {
        address: std::ptr::from_ref(std::hint::black_box(&word)) as usize,
        width: Width::Eight,
    };
    match Watch::start(&[word], &Options::default()).map(|watch| watch.way()) {
        Ok(Way::Perf) => Ok("perf_event_open"),
        Ok(Way::Ptrace) => Ok("ptrace"),
        Err(why) => Err(why.to_string()),
    }
}

/// An object whose count drifts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Suspect {
    pub object: usize,
    /// So many bytes at its start are its count.
    pub count_bytes: usize,
    /// By so much per call; negative where references are given back too often.
    pub per_call: f64,
    /// It drifts once in so many calls, if that is known.
    pub every: u32,
}

/// Functions of a suspect's type, and of the suspect if it is a type.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Functions {
    /// Frees the instances of the type that the suspect is.
    pub deallocator: Option<usize>,
    /// Exports a buffer of the suspect.
    pub exporter: Option<usize>,
}

/// What is known of the places.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// The places, the likeliest first; empty: not known.
    pub stacks: Vec<Vec<Frame>>,
    /// It is one of them; otherwise each is one.
    pub one_of: bool,
    /// So many other places take references and give them back.
    pub balanced: Option<u64>,
    /// All of them are buffers that were exported.
    pub buffer_export: bool,
    /// What the finding is to say more, behind its sentence.
    pub cause: &'static str,
    /// Why they are not known, worded to follow "because".
    pub why_not: Option<String>,
}

impl Taken {
    /// Says it in the finding.
    pub(crate) fn tell(self, finding: &mut Finding) {
        let mut stacks = self.stacks.into_iter();
        finding.stack = stacks.next().unwrap_or_default();
        finding.also = stacks.collect();
        finding.one_of = self.one_of;
        finding.stack_note = self.why_not;
        finding.buffer_export = self.buffer_export;
        finding.message = sentence(finding) + self.cause;
        if let Some(references) = &mut finding.references {
            references.balanced = self.balanced;
        }
    }

    fn unknown(why: impl Into<String>) -> Taken {
        Taken {
            why_not: Some(why.into()),
            ..Taken::default()
        }
    }
}

/// So many show that references are lost where they were before.
pub(crate) const FEWEST_CALLS: u32 = 1;
/// Fewer calls say nothing of a place that is not known, and more are not needed.
pub(crate) const LEAST_CALLS: u32 = 8;
const MOST_CALLS: u32 = 64;
/// Unless the least calls take longer.
const TIME: Duration = Duration::from_millis(250);
/// Each costs some tens of microseconds.
const MOST_WRITES: usize = 4096;
/// So many counts are watched at a time.
pub(crate) const MOST_WATCHED: usize = MOST_WORDS;

pub(crate) const NO_CALLS: &str = "no calls were left to watch the reference count";
const OTHER_THREAD: &str = "other threads may take references to it, and only the one that makes the calls is watched";

/// How many calls should show where the references of all these come from.
pub(crate) fn calls_for(suspects: &[Suspect]) -> u32 {
    let rarest = suspects.iter().map(|suspect| suspect.every).max().unwrap_or(1);
    LEAST_CALLS.saturating_mul(rarest).clamp(LEAST_CALLS, MOST_CALLS)
}

/// Counts are being watched, on the calling thread.
pub(crate) struct Watching {
    watch: Watch,
    words: Vec<Word>,
    before: Vec<Option<u64>>,
    calls: u32,
    started: Instant,
    others: bool,
    /// Threads that calls had started until then, and live blocks.
    threads: u64,
    blocks: u64,
}

impl Watching {
    /// # Errors
    ///
    /// Why it cannot be done, worded to follow "because".
    pub(crate) fn start(suspects: &[Suspect], session: &Session) -> Result<Watching, String> {
        let word = |suspect: &Suspect| Word {
            address: suspect.object,
            width: if suspect.count_bytes == 4 {
                Width::Four
            } else {
                Width::Eight
            },
        };
        let words: Vec<Word> = suspects.iter().map(word).collect();
        let options = Options {
            most_writes: MOST_WRITES,
            stop_after_dropping: 0,
            capture: Some(capture),
            ..Options::default()
        };
        session.know_modules();
        stacks::prepare();
        let (threads, blocks) = (hooks::threads_ever_started(), hooks::totals().own.blocks);
        let before = values(&words);
        Ok(Watching {
            watch: Watch::start(&words, &options).map_err(|why| why.to_string())?,
            words,
            before,
            calls: 0,
            started: Instant::now(),
            others: has_other_threads(),
            threads,
            blocks,
        })
    }

    /// Whether so many calls have not been made yet, and there is the time and the room for one more.
    pub(crate) fn wants_more(&self, calls: u32) -> bool {
        let is_late = self.calls >= LEAST_CALLS && self.started.elapsed() > TIME;
        self.calls < calls && !is_late && self.watch.len() < MOST_WRITES
    }

    /// To be said before each call.
    pub(crate) fn next_call(&mut self) {
        self.watch.mark(self.calls);
        self.calls += 1;
    }

    pub(crate) fn end(self) -> Watched {
        let log = self.watch.stop();
        let is_whole = log.missed + log.unknown == 0 && !log.disturbed;
        Watched {
            writes: log.writes().to_vec(),
            is_whole,
            is_full: !log.is_complete(),
            calls: self.calls,
            others: self.others || has_other_threads(),
            helpers: self.threads != hooks::threads_ever_started() || hooks::threads_under_way() > 0,
            blocks: self.blocks,
            loses_blocks: true,
            values: [self.before, values(&self.words)],
        }
    }
}

fn values(words: &[Word]) -> Vec<Option<u64>> {
    let memory = Memory::open().ok();
    let value = |word: &Word| {
        let value = memory.as_ref()?.try_word(word.address)?;
        Some(match word.width {
            Width::Four => u64::from(value as u32),
            Width::Eight => value as u64,
        })
    };
    words.iter().map(value).collect()
}

/// What came of calls with some counts watched.
pub(crate) struct Watched {
    writes: Vec<Write>,
    /// Each write up to the last one is there,
    is_whole: bool,
    /// but there was no room for later ones.
    is_full: bool,
    /// So many calls were made from the beginning to the end.
    calls: u32,
    /// Other threads ran meanwhile,
    others: bool,
    /// and some that calls had started.
    helpers: bool,
    /// Live blocks before the calls.
    blocks: u64,
    /// Calls leave blocks behind.
    loses_blocks: bool,
    /// The words before and after the calls.
    values: [Vec<Option<u64>>; 2],
}

/// In the handler of a signal: allocates nothing.
pub(crate) fn capture(interrupted: &Interrupted<'_>) -> u32 {
    let interrupted = stacks::Interrupted {
        pc: interrupted.program_counter(),
        sp: interrupted.stack_pointer(),
        fp: interrupted.frame_pointer(),
        lr: interrupted.link_register(),
    };
    stacks::capture_at(&interrupted, hooks::outermost(), |code, _| {
        hooks::follow(code);
        true
    })
}

impl Watched {
    /// To be said when the subject is at rest again.
    pub(crate) fn settled(&mut self) {
        let more = hooks::totals().own.blocks.saturating_sub(self.blocks);
        self.loses_blocks = more >= u64::from(self.calls).div_ceil(2);
    }

    /// Where the references to a suspect come from, whose count was the word with this number. `functions`: those
    /// of the runtime that may have to do with it.
    pub(crate) fn taken<S: Subject>(
        &self,
        at: usize,
        suspect: &Suspect,
        functions: Functions,
        names: &mut Names,
        subject: &mut S,
    ) -> Taken {
        if self.helpers {
            return Taken::unknown(OTHER_THREAD);
        }
        if !self.is_whole {
            return Taken::unknown("not all writes to the reference count were seen");
        }
        let mut calls = self.calls;
        if self.is_full {
            // The last call is not there as a whole.
            calls = self.writes.last().map_or(0, |last| last.mark);
            if calls < LEAST_CALLS / 2 {
                return Taken::unknown("too many references to it are taken and given back in a call");
            }
        }
        let writes = self
            .writes
            .iter()
            .filter(|write| write.word == at && write.mark < calls);
        let (mut changes, mut origins) = (Vec::new(), Vec::new());
        for write in writes {
            let by = change(write, suspect.count_bytes);
            // Of other threads only the sum is seen, as a part of the next write of this one.
            if self.others && by.abs() != 1 {
                return Taken::unknown(OTHER_THREAD);
            }
            let mut stack = names.frames(write.stack, subject);
            let inner = names.exports_buffer(write.stack, &stack, functions.exporter);
            // What an exporter does is done for who asks for the buffer.
            stack.drain(..inner);
            changes.push(Change {
                call: write.mark,
                by,
                stack,
            });
            origins.push((write.stack, inner));
        }
        let last = self.writes.iter().rev().find(|write| write.word == at);
        let last = last.map(|write| write.after).or(self.values[0][at]);
        if !self.is_full && last != self.values[1][at] {
            return Taken::unknown(OTHER_THREAD);
        }
        let functions = Functions {
            deallocator: functions.deallocator.filter(|_| !self.loses_blocks),
            ..functions
        };
        if let Some(deallocator) = functions.deallocator
            && never_given_back(&changes, calls, suspect.per_call, deallocator, names)
            && let Some(function) = names.origins().function(deallocator as u64, subject)
        {
            return Taken {
                stacks: vec![vec![function]],
                cause: FORGOTTEN,
                ..Taken::default()
            };
        }
        let account = match calls {
            FEWEST_CALLS => account_exactly(&changes, calls, suspect.per_call),
            _ => account(&changes, calls, suspect.per_call),
        };
        told(functions, &account, &changes, &origins, names, subject)
    }
}

/// Where the references come from that keep objects. `lives`: of each the writes to its count, the making first.
pub(crate) fn kept_by<S: Subject>(lives: &[Vec<Write>], wanted: &Wanted, names: &mut Names, subject: &mut S) -> Taken {
    let (mut changes, mut origins) = (Vec::new(), Vec::new());
    for (call, life) in (0..).zip(lives) {
        for (number, write) in life.iter().enumerate() {
            let by = if number == 0 {
                1
            } else {
                change(write, wanted.count_bytes)
            };
            if by.abs() != 1 {
                return Taken::unknown(OTHER_THREAD);
            }
            let mut stack = names.frames(write.stack, subject);
            let inner = names.exports_buffer(write.stack, &stack, wanted.exporter);
            stack.drain(..inner);
            changes.push(Change { call, by, stack });
            origins.push((write.stack, inner));
        }
    }
    let all: i64 = changes.iter().map(|change| change.by).sum();
    let mut account = account(&changes, lives.len() as u32, all as f64 / lives.len() as f64);
    // In a cycle the objects hold each other as well, and the interpreter has put them there.
    let is_library = |stack: &[Place]| stack.iter().any(|frame| frame.owner != Owner::Interpreter);
    let is_by_library = |candidate: &Candidate| is_library(&changes[candidate.change].stack);
    account
        .origins
        .retain(|origin| origin.candidates.iter().any(is_by_library));
    told(Functions::default(), &account, &changes, &origins, names, subject)
}

fn change(write: &Write, count_bytes: usize) -> i64 {
    match count_bytes {
        4 => i64::from((write.after as i32).wrapping_sub(write.before as i32)),
        _ => write.change(),
    }
}

/// Whether the count of a type drifts by the instances that were made, less those for which the function that frees them
/// has given a reference back. What the program itself does with the type is a matter of others then.
fn never_given_back(changes: &[Change], calls: u32, per_call: f64, deallocator: usize, names: &mut Names) -> bool {
    let own = |change: &&Change| match change.by > 0 {
        true => names.makes_instance(&change.stack),
        false => change.stack.iter().any(|frame| frame.function == deallocator as u64),
    };
    let own: i64 = changes.iter().filter(own).map(|change| change.by).sum();
    let all: i64 = changes.iter().map(|change| change.by).sum();
    own == all && own as f64 == per_call * f64::from(calls)
}

fn told<S: Subject>(
    functions: Functions,
    account: &Account,
    changes: &[Change],
    origins: &[(u32, usize)],
    names: &mut Names,
    subject: &mut S,
) -> Taken {
    if let Some(unknown) = account.unknown {
        return Taken::unknown(why_unknown(unknown));
    }
    let mut taken = Taken {
        one_of: account.origins.iter().any(|origin| origin.candidates.len() > 1),
        ..Taken::default()
    };
    let (mut is_export, mut forgets) = (Vec::new(), false);
    for candidate in account.origins.iter().flat_map(|origin| &origin.candidates) {
        if let Some(deallocator) = functions.deallocator
            && names.makes_instance(&changes[candidate.change].stack)
            && let Some(function) = names.origins().function(deallocator as u64, subject)
        {
            forgets = true;
            is_export.push(false);
            if !taken.stacks.contains(&vec![function.clone()]) {
                taken.stacks.push(vec![function]);
            }
            continue;
        }
        let is_library = |frame: &Place| frame.owner != Owner::Interpreter;
        let (number, inner) = origins[candidate.change];
        if !changes[candidate.change].stack.iter().any(is_library) {
            return Taken::unknown(format!(
                "only the interpreter's own code is left over, which is taken to be right{}",
                names.whereabouts(number, subject)
            ));
        }
        let frames = names.words(number, inner, subject);
        if frames.is_empty() {
            return Taken::unknown("a place that takes references has no stack");
        }
        is_export.push(inner > 0);
        if !taken.stacks.contains(&frames) {
            taken.stacks.push(frames);
        }
    }
    if forgets && taken.stacks.len() == 1 {
        taken.cause = FORGOTTEN;
    }
    taken.buffer_export = !is_export.is_empty() && is_export.iter().all(|is| *is);
    // What a binding generator writes is taken to be right, too.
    if taken.one_of && !taken.stacks.iter().all(|stack| is_generated(stack)) {
        taken.stacks.retain(|stack| !is_generated(stack));
    }
    taken.one_of &= taken.stacks.len() > 1;
    let is_balanced = |place: &&leaktight_verdict::writes::Place| place.left_over == 0;
    taken.balanced = Some(account.places.iter().filter(is_balanced).count() as u64);
    taken
}

const FORGOTTEN: &str = ": each instance takes one, and the function that frees it (tp_dealloc) does not give it back";

/// Whether the innermost frame is what PyO3 puts around a function.
fn is_generated(stack: &[Frame]) -> bool {
    let function = stack
        .first()
        .and_then(|frame| frame.function.as_deref())
        .unwrap_or_default();
    let name = function.rsplit("::").next().unwrap_or_default();
    ["__pyfunction_", "__pymethod_"]
        .iter()
        .any(|start| name.starts_with(start))
}

fn why_unknown(unknown: Unknown) -> &'static str {
    match unknown {
        Unknown::TooShort => "too few references were taken in the calls that were watched",
        Unknown::OtherRate => "in the calls that were watched the count did not move as before",
        Unknown::Scattered => "no place stands out among those that take and give back references to it",
        Unknown::Returned => {
            "what is left over is given back by the interpreter itself, as where a function returns a reference that it \
             has only borrowed"
        }
        _ => "the writes to the reference count do not tell",
    }
}

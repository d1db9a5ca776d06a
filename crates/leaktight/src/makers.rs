//! Who made an object whose memory had another owner before: CPython keeps dead objects on free lists and hands them out
//! again without asking its allocator, so the stack of the block is that of an earlier owner.
//!
//! The count of an object goes from 0 to 1 when it is made. So a few calls more are made, in which the count is watched from
//! the birth of each block that is allocated where those of the finding were; of an object that is still there a call later
//! the last such write is its maker's.

use std::cell::Cell;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use leaktight_hooks as hooks;
use leaktight_liveset::Block;
use leaktight_report::Finding;
use leaktight_stacks as stacks;
use leaktight_watchpoints::{MOST_WORDS, Options, Watch, Width, Word, Write};

use crate::budget::Budget;
use crate::check::Error;
use crate::origin::{Origin, Origins};
use crate::places::capture;
use crate::room::with_room;
use crate::session::Session;
use crate::subject::Subject;

/// What to look for: such blocks, and where in them an object has its count.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub stacks: Vec<u32>,
    pub size: usize,
    pub offset: usize,
    pub count_bytes: usize,
}

/// What the calls are made with.
pub(crate) struct Calls<'a, S> {
    pub subject: &'a mut S,
    pub session: &'a Session,
    pub budget: &'a Budget,
    /// So many were made until now.
    pub made: &'a mut u32,
    /// No more than so many.
    pub most: u32,
}

/// So many objects with the same maker are believed.
const ENOUGH: usize = 3;
const MOST_CALLS: u32 = 32;
const TIME: Duration = Duration::from_millis(100);
const MOST_WRITES: usize = 4096;

/// Gives findings the stack of the maker, where it is found.
///
/// # Errors
///
/// When a call is interrupted. (If it fails in another way, the findings stay as they are.)
pub(crate) fn find<S: Subject>(
    findings: &mut [Finding],
    unsure: Vec<(Finding, Wanted)>,
    mut calls: Calls<'_, S>,
) -> Result<(), Error<S::Error>> {
    let started = Instant::now();
    let mut origins = None;
    for (told, wanted) in unsure {
        let Some(finding) = findings.iter_mut().find(|finding| **finding == told) else {
            continue;
        };
        if let Some(stack) = calls.maker(&wanted, started)? {
            let stack = stacks::stack(stack).unwrap_or_default().up_to_evaluation();
            let origins = origins.get_or_insert_with(Origins::new);
            let origin = with_room(|| origins.of(&stack, calls.subject));
            if !origin.frames.is_empty() {
                tell(finding, origin);
            }
        }
    }
    Ok(())
}

fn tell(finding: &mut Finding, origin: Origin) {
    let before = leaktight_report::sentence(finding);
    let cause = finding.message.strip_prefix(&before).unwrap_or_default().to_owned();
    finding.stack = origin.frames;
    finding.via = origin.via;
    finding.earlier_owner = false;
    finding.message = leaktight_report::sentence(finding) + &cause;
}

impl<S: Subject> Calls<'_, S> {
    /// The number of the stack in which most of these objects were made.
    fn maker(&mut self, wanted: &Wanted, started: Instant) -> Result<Option<u32>, Error<S::Error>> {
        self.session.know_modules();
        stacks::prepare();
        let Some(aim) = with_room(|| Aim::start(wanted)) else {
            return Ok(None);
        };
        let mut makers: Vec<u32> = Vec::new();
        // What is on a free list already would not be seen.
        hooks::watched(|| self.subject.settle());
        for _ in 0..MOST_CALLS {
            let per_call = self.budget.elapsed() / (*self.made).max(1);
            let is_late = started.elapsed() > TIME || per_call > self.budget.left() / 4;
            let is_full = aim.watch.len() == MOST_WRITES || aim.failed.get();
            if is_late || is_full || *self.made == self.most || makers.len() >= ENOUGH {
                break;
            }
            *self.made += 1;
            aim.next_call(*self.made);
            hooks::enter_call(*self.made);
            match crate::run::call(self.subject, self.session) {
                Err(Error::Call(why)) if !self.subject.is_interruption(&why) => return Ok(None),
                result => result?,
            }
            makers.extend(aim.makers_of_survivors());
        }
        let is_same = makers.windows(2).all(|two| two[0] == two[1]);
        Ok(makers.first().copied().filter(|_| makers.len() >= ENOUGH && is_same))
    }
}

/// Counts are watched from the birth of blocks on.
struct Aim {
    watch: Watch,
    wanted: Wanted,
    call: Cell<u32>,
    /// So many of such blocks were born in this call.
    born: Cell<usize>,
    /// So many are passed over in this call: more than can be watched at a time may be born.
    skipped: Cell<usize>,
    aimed: [Cell<Option<Aimed>>; MOST_WORDS],
    failed: Cell<bool>,
}

/// A block that is watched.
#[derive(Clone, Copy)]
struct Aimed {
    address: usize,
    birth: u32,
    /// So many writes were noted before.
    since: usize,
}

/// Of the one check that runs; null: nothing is aimed.
static AIM: AtomicPtr<Aim> = AtomicPtr::new(null_mut());
/// The thread whose births are of interest; 0: none's.
static THREAD: AtomicI32 = AtomicI32::new(0);
/// What is watched while there is nothing else.
static NOTHING: [AtomicU64; MOST_WORDS] = [const { AtomicU64::new(0) }; MOST_WORDS];

impl Aim {
    fn start(wanted: &Wanted) -> Option<Box<Aim>> {
        let nothing = |word: &AtomicU64| Word {
            address: word.as_ptr() as usize,
            width: Width::Eight,
        };
        let options = Options {
            most_writes: MOST_WRITES,
            stop_after_dropping: 0,
            capture: Some(capture),
            ..Options::default()
        };
        let aim = Box::new(Aim {
            watch: Watch::start(&NOTHING.each_ref().map(nothing), &options).ok()?,
            wanted: wanted.clone(),
            call: Cell::new(0),
            born: Cell::new(0),
            skipped: Cell::new(0),
            aimed: [const { Cell::new(None) }; MOST_WORDS],
            failed: Cell::new(false),
        });
        AIM.store((&raw const *aim).cast_mut(), Ordering::SeqCst);
        THREAD.store(this_thread(), Ordering::SeqCst);
        hooks::tell_births(Some(born));
        Some(aim)
    }

    /// From the next call on others are watched, if there are more than can be at a time.
    fn next_call(&self, call: u32) {
        let before = self.born.replace(0);
        let skipped = self.skipped.get() + MOST_WORDS;
        self.skipped.set(if skipped < before { skipped } else { 0 });
        self.call.set(call);
        self.watch.mark(call);
    }

    fn aim_at(&self, block: &Block) {
        let wanted = &self.wanted;
        if block.size != wanted.size || !wanted.stacks.contains(&block.stack) {
            return;
        }
        let number = self.born.replace(self.born.get() + 1);
        let free = self.aimed.iter().position(|aimed| aimed.get().is_none());
        let Some(at) = free.filter(|_| number >= self.skipped.get()) else {
            return;
        };
        let word = Word {
            address: block.address + wanted.offset,
            width: if wanted.count_bytes == 4 {
                Width::Four
            } else {
                Width::Eight
            },
        };
        self.aimed[at].set(Some(Aimed {
            address: block.address,
            birth: block.birth,
            since: self.watch.len(),
        }));
        self.failed.set(self.failed.get() || self.watch.aim(at, word).is_err());
    }

    /// The stacks in which those objects were made that an earlier call has left behind. Memory of dead ones is watched for
    /// some calls, as it may be handed on.
    fn makers_of_survivors(&self) -> Vec<u32> {
        const PATIENCE: u32 = 4;
        let (live, writes, call) = (hooks::live_blocks(), self.watch.writes(), self.call.get());
        let mut makers = Vec::new();
        for (at, slot) in self.aimed.iter().enumerate() {
            let Some(aimed) = slot.get() else { continue };
            let is_same = |block: &Block| block.address == aimed.address && block.birth == aimed.birth;
            let own = writes.get(aimed.since..).unwrap_or_default().iter();
            let own: Vec<&Write> = own.filter(|write| write.word == at).collect();
            let is_making = |write: &&&Write| [write.before as u32, write.after as u32] == [0, 1];
            let made = own.iter().rev().find(is_making);
            let is_dead = own.last().is_none_or(|last| last.after as u32 == 0);
            if !live.iter().any(is_same) || is_dead && aimed.birth + PATIENCE < call {
                slot.set(None);
            } else if let Some(made) = made.filter(|made| !is_dead && made.mark < call) {
                makers.extend((made.stack != 0).then_some(made.stack));
                slot.set(None);
            }
        }
        makers
    }
}

impl Drop for Aim {
    fn drop(&mut self) {
        hooks::tell_births(None);
        THREAD.store(0, Ordering::SeqCst);
        AIM.store(null_mut(), Ordering::SeqCst);
    }
}

/// Called inside an allocator, on any thread.
fn born(block: &Block) {
    if THREAD.load(Ordering::SeqCst) == this_thread()
        // SAFETY: null, or a box that lives as long as the pointer stands there; this is the one thread that takes it away.
        && let Some(aim) = unsafe { AIM.load(Ordering::SeqCst).as_ref() }
    {
        aim.aim_at(block);
    }
}

fn this_thread() -> i32 {
    // SAFETY: asks for a number.
    unsafe { libc::gettid() }
}

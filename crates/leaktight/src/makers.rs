//! Who made an object that is left behind, and who keeps it.
//!
//! The stack of its block may be that of an earlier owner: CPython keeps dead objects on free lists and hands them out again
//! without asking its allocator. And who made it may have done right: what keeps it is a reference that another function
//! takes and nothing gives back.
//!
//! The count of an object goes from 0 to 1 when it is made. So a few calls more are made, in which the count is watched from
//! the birth of each block that is allocated where those of the finding were. Of an object that is still there a call later
//! the last such write is its maker's, and the writes from there on say which reference is left over.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use leaktight_hooks as hooks;
use leaktight_liveset::{Block, MappedVec};
use leaktight_report::{Finding, Frame, Kind, Report, Verdict, sentence};
use leaktight_stacks as stacks;
use leaktight_watchpoints::{MOST_WORDS, Options, Watch, Width, Word, Write};

use crate::budget::Budget;
use crate::check::Error;
use crate::names::Names;
use crate::origin::Origin;
use crate::places::{self, capture};
use crate::reason::of_findings;
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
    /// The function of the type that exports buffers.
    pub exporter: Option<usize>,
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

/// So many objects with the same fate are believed.
const ENOUGH: usize = 3;
const MOST_CALLS: u32 = 32;
/// In so many calls that are all alike they are found.
const LEAST_CALLS: u32 = 6;
/// More calls are not made for any finding after this, and none for another one after that.
const TIME: Duration = Duration::from_millis(100);
const MOST_TIME: Duration = Duration::from_secs(1);
const MOST_WRITES: usize = 4096;
/// So many blocks of one place are told apart in a call.
const MOST_BIRTHS: usize = 1 << 16;

/// Gives findings the stack of the maker where it is not sure, and of who keeps the objects, as far as these are found.
///
/// # Errors
///
/// When a call is interrupted. (If it fails in another way, the findings stay as they are.)
pub(crate) fn find<S: Subject>(
    report: &mut Report,
    unsure: Vec<(Finding, Wanted)>,
    mut calls: Calls<'_, S>,
) -> Result<(), Error<S::Error>> {
    let started = Instant::now();
    let mut names = Names::default();
    for (told, wanted) in unsure {
        let Some(finding) = report.findings.iter_mut().find(|finding| **finding == told) else {
            continue;
        };
        let lives = calls.survivors(&wanted, started)?;
        if lives.len() < ENOUGH {
            continue;
        }
        if finding.earlier_owner
            && let Some(maker) = with_room(|| maker_of(&lives, &mut names, calls.subject))
        {
            tell(finding, maker);
        }
        let kept = with_room(|| places::kept_by(&lives, &wanted, &mut names, calls.subject));
        let is_maker = |stack: &Vec<Frame>| match (stack.first(), finding.stack.first()) {
            (Some(keeper), Some(maker)) => (&keeper.function, &keeper.file) == (&maker.function, &maker.file),
            _ => true,
        };
        if !kept.stacks.iter().all(is_maker) {
            finding.buffer_export = kept.buffer_export;
            finding.kept_by = kept.stacks;
            say(finding, &sentence(&told));
        }
    }
    join(&mut report.findings);
    if report.verdict == Verdict::Leak {
        report.reason = of_findings(&report.findings);
    }
    Ok(())
}

/// Where all of these objects were made: the frames that their makers have in common, from the innermost on.
fn maker_of(lives: &[Vec<Write>], names: &mut Names, subject: &mut impl Subject) -> Option<Origin> {
    let makers: Option<BTreeSet<u32>> = lives
        .iter()
        .map(|life| life.first().map(|making| making.stack))
        .collect();
    let mut origins = makers?.into_iter().map(|maker| {
        let stack = stacks::stack(maker).unwrap_or_default().up_to_evaluation();
        names.origins().of(&stack, subject)
    });
    let mut common = origins.next()?;
    for other in origins {
        let alike = common
            .frames
            .iter()
            .zip(&other.frames)
            .take_while(|(one, another)| one == another);
        let alike = alike.count();
        common.frames.truncate(alike);
        common.via = common.via.filter(|via| other.via.as_ref() == Some(via));
    }
    (!common.frames.is_empty()).then_some(common)
}

/// Makes one of findings that turn out to have the same maker: some of their objects came from a free list. So did what is
/// told of a few such objects beside many whose maker is known, at a place where an earlier owner may have been.
fn join(findings: &mut Vec<Finding>) {
    const FEW: f64 = 1.0 / 16.0;
    let mut at = 1;
    while at < findings.len() {
        let (before, [finding, ..]) = findings.split_at_mut(at) else {
            return;
        };
        let is_same = |other: &&mut Finding| {
            let what = |of: &Finding| (of.kind, of.certainty, of.severity, of.type_name.clone());
            let are_few = finding.earlier_owner
                && !other.earlier_owner
                && finding.block_size == other.block_size
                && finding.blocks_per_call < FEW * other.blocks_per_call;
            what(other) == what(finding)
                && finding.kind == Kind::Memory
                && finding.type_name.is_some()
                && (other.stack == finding.stack || are_few)
        };
        let Some(first) = before.iter_mut().find(is_same) else {
            at += 1;
            continue;
        };
        let before = sentence(first);
        first.blocks_per_call += finding.blocks_per_call;
        first.bytes_per_call += finding.bytes_per_call;
        first.objects_per_call = first.objects_per_call.zip(finding.objects_per_call).map(|(a, b)| a + b);
        first.block_size = first.block_size.filter(|size| finding.block_size == Some(*size));
        first.every = None;
        first.earlier_owner &= finding.earlier_owner;
        say(first, &before);
        findings.remove(at);
    }
}

fn tell(finding: &mut Finding, origin: Origin) {
    let before = sentence(finding);
    finding.stack = origin.frames;
    finding.via = origin.via;
    finding.earlier_owner = false;
    say(finding, &before);
}

/// Words the message anew; `before`: the sentence that it began with.
fn say(finding: &mut Finding, before: &str) {
    let cause = finding.message.strip_prefix(before).unwrap_or_default().to_owned();
    finding.message = sentence(finding) + &cause;
}

impl<S: Subject> Calls<'_, S> {
    /// Of some of these objects that outlive their call the writes to the count, the making first.
    fn survivors(&mut self, wanted: &Wanted, started: Instant) -> Result<Vec<Vec<Write>>, Error<S::Error>> {
        self.session.know_modules();
        stacks::prepare();
        let Some(aim) = with_room(|| Aim::start(wanted)) else {
            return Ok(Vec::new());
        };
        let mut lives: Vec<Vec<Write>> = Vec::new();
        // What is on a free list already would not be seen.
        hooks::watched(|| self.subject.settle());
        if started.elapsed() > MOST_TIME {
            return Ok(lives);
        }
        for call in 0..MOST_CALLS {
            let per_call = self.budget.elapsed() / (*self.made).max(1);
            let is_late = call >= LEAST_CALLS && started.elapsed() > TIME || per_call > self.budget.left() / 4;
            let is_full = aim.watch.len() == MOST_WRITES || aim.failed.get();
            if is_late || is_full || *self.made == self.most || lives.len() >= ENOUGH {
                break;
            }
            *self.made += 1;
            aim.next_call(*self.made);
            hooks::enter_call(*self.made);
            match crate::run::call(self.subject, self.session) {
                Err(Error::Call(why)) if !self.subject.is_interruption(&why) => return Ok(Vec::new()),
                result => result?,
            }
            lives.extend(aim.lives_of_survivors());
        }
        Ok(lives)
    }
}

/// Counts are watched from the birth of blocks on.
struct Aim {
    watch: Watch,
    wanted: Wanted,
    call: Cell<u32>,
    /// So many calls have begun.
    calls: Cell<u32>,
    /// Where such blocks were born in this call, in turn.
    born: RefCell<MappedVec<usize>>,
    /// Which of them are watched: more may be born than can be at a time.
    chosen: RefCell<Chosen>,
    aimed: [Cell<Option<Aimed>>; MOST_WORDS],
    failed: Cell<bool>,
}

/// Of the blocks that one place allocates in a call those that are watched, by their turn.
enum Chosen {
    Turns(Vec<usize>),
    From(usize),
}

impl Chosen {
    fn has(&self, turn: usize) -> bool {
        match self {
            Chosen::Turns(turns) => turns.binary_search(&turn).is_ok(),
            Chosen::From(first) => turn >= *first,
        }
    }
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
            calls: Cell::new(0),
            born: RefCell::default(),
            chosen: RefCell::new(Chosen::From(0)),
            aimed: [const { Cell::new(None) }; MOST_WORDS],
            failed: Cell::new(false),
        });
        AIM.store((&raw const *aim).cast_mut(), Ordering::SeqCst);
        THREAD.store(this_thread(), Ordering::SeqCst);
        hooks::tell_births(Some(born));
        Some(aim)
    }

    /// From the next call on others are watched, if there are more than can be at a time: those in whose turn the call before
    /// has left one behind, or the next few.
    fn next_call(&self, call: u32) {
        let before = self.call.replace(call);
        let is_left = |address: usize| {
            let block = hooks::live_block(address);
            block.is_some_and(|block| block.birth == before)
        };
        let mut born = self.born.borrow_mut();
        let last_at: HashMap<usize, usize> = born.iter().copied().zip(0..).collect();
        let mut left: Vec<usize> = last_at
            .into_iter()
            .filter(|(address, _)| is_left(*address))
            .map(|(_, turn)| turn)
            .collect();
        left.sort_unstable();
        let mut chosen = self.chosen.borrow_mut();
        let are_alike = self.calls.get() < LEAST_CALLS + 2 && born.len() < MOST_BIRTHS;
        self.calls.set(self.calls.get() + 1);
        *chosen = match &*chosen {
            _ if !left.is_empty() && are_alike => Chosen::Turns(left),
            Chosen::From(turn) if turn + MOST_WORDS < born.len() => Chosen::From(turn + MOST_WORDS),
            _ => Chosen::From(0),
        };
        born.clear();
        self.watch.mark(call);
    }

    fn aim_at(&self, block: &Block) {
        let wanted = &self.wanted;
        if block.size != wanted.size || !wanted.stacks.contains(&block.stack) {
            return;
        }
        let mut born = self.born.borrow_mut();
        let turn = born.len();
        if turn < MOST_BIRTHS && born.push(block.address).is_err() {
            return;
        }
        let free = self.aimed.iter().position(|aimed| aimed.get().is_none());
        let Some(at) = free.filter(|_| self.chosen.borrow().has(turn)) else {
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

    /// What happened to the counts of those objects that an earlier call has left behind, from their making on. Memory of
    /// dead ones is watched for some calls, as it may be handed on.
    fn lives_of_survivors(&self) -> Vec<Vec<Write>> {
        const PATIENCE: u32 = 4;
        let (live, writes, call) = (hooks::live_blocks(), self.watch.writes(), self.call.get());
        let mut lives = Vec::new();
        for (at, slot) in self.aimed.iter().enumerate() {
            let Some(aimed) = slot.get() else { continue };
            let is_same = |block: &Block| block.address == aimed.address && block.birth == aimed.birth;
            let own = writes.get(aimed.since..).unwrap_or_default().iter();
            let own: Vec<Write> = own.filter(|write| write.word == at).copied().collect();
            // What fresh memory holds before is not known.
            let is_making =
                |number: usize| own[number].after as u32 == 1 && (number == 0 || own[number].before as u32 == 0);
            let made = (0..own.len()).rev().find(|number| is_making(*number));
            let is_dead = own.last().is_none_or(|last| last.after as u32 == 0);
            if !live.iter().any(is_same) || is_dead && aimed.birth + PATIENCE < call {
                slot.set(None);
            } else if let Some(made) = made.filter(|made| !is_dead && own[*made].mark < call) {
                lives.push(own[made..].to_vec());
                slot.set(None);
            }
        }
        lives
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

//! What the engine needs to be told of the calls that it judges.

use std::time::Duration;

use leaktight_liveset::{Block, MappedVec};
use leaktight_references::Frozen;
use leaktight_report::{Frame, Step};
use leaktight_stacks::PythonFrame;

/// Something that can be called again and again, and the runtime that it lives in.
///
/// All methods run on the thread that started the check.
pub trait Subject {
    /// Why a call failed.
    type Error;

    /// Makes one call. An error ends the check.
    fn call(&mut self) -> Result<(), Self::Error>;

    /// Whether a call failed since somebody wants the check to end, and not by itself.
    fn is_interruption(&self, _error: &Self::Error) -> bool {
        true
    }

    /// Whether [`Subject::call`] itself runs what counts within [`watched`](crate::watched).
    fn watches_itself(&self) -> bool {
        false
    }

    /// Brings the runtime to rest, so that only what is really kept stays alive: collects garbage,
    /// empties caches and free lists. Called between calls, and watched like them.
    fn settle(&mut self) {}

    /// Whether that also frees what the program itself keeps.
    fn trims(&self) -> bool {
        false
    }

    /// Does something that does not concern the runtime, while other threads of the runtime may run.
    fn away<R: Send>(&mut self, work: impl FnOnce() -> R + Send) -> R {
        work()
    }

    /// Lets the time pass while nothing is called, and lets other threads of the runtime run.
    fn idle(&mut self, time: Duration) {
        self.away(|| std::thread::sleep(time));
    }

    /// Told from time to time, between calls, how far the check is.
    fn progress(&mut self, _calls: u32, _elapsed: Duration) {}

    /// What is called, in one line.
    fn name(&self) -> String;

    /// The language runtime and its version.
    fn runtime(&self) -> String;

    /// Whether CPython's allocators are to be watched too. If so, the check's thread is attached to the interpreter: it holds
    /// the GIL, where there is one.
    fn is_python(&self) -> bool {
        false
    }

    /// Allocates blocks of the runtime's own kinds, as a positive control; see [`Planted`].
    fn plant(&mut self) -> Vec<Planted>;

    /// The address inside `block` where the runtime keeps the links of a doubly linked list of all its
    /// objects (next, then previous). Such links hold nothing alive. `None` for blocks without.
    fn list_links(&mut self, _block: &Block) -> Option<usize> {
        None
    }

    /// Whether the runtime's garbage collector looks after the object in a live `block`.
    fn is_collected(&mut self, block: &Block) -> bool {
        self.list_links(block).is_some()
    }

    /// The type of the runtime's object in a live `block`; `None` unless it is certain.
    fn type_name(&mut self, _block: &Block) -> Option<String> {
        None
    }

    /// Where the object in a live `block` has its reference count: bytes from the start of the block, and how many bytes
    /// it has.
    fn reference_count(&mut self, _block: &Block) -> Option<(usize, usize)> {
        None
    }

    /// Whether the object in a live `block` is of a kind that refers to no other, such as a text.
    fn is_plain(&mut self, _block: &Block) -> bool {
        false
    }

    /// Whether the runtime hands memory of dead objects of a type on to new ones without asking its allocator.
    fn may_be_handed_on(&self, _type_name: &str) -> bool {
        false
    }

    /// Whether a live `block` belongs to the code object of a function, and will stay one of a few for each: of the function
    /// that was running when it was allocated, if that is known (`code`, otherwise 0), or of the one that it called.
    fn is_of_code(&self, _block: &Block, _code: usize) -> bool {
        false
    }

    /// Called before a row of questions about blocks: types may be new.
    fn before_naming(&mut self) {}

    /// What in the runtime holds `block`, by the word at `address`, worded to follow "held by". Asked
    /// when all calls are made.
    fn holder(&mut self, _block: &Block, _address: usize) -> Option<String> {
        None
    }

    /// The way in the runtime to the object in `block`, or, where that is none, to the one that the word at `address` lies
    /// in or whose memory points to `block`; the block is then the last step. Asked when all calls are made.
    fn path(&mut self, _block: &Block, _address: usize) -> Option<Way> {
        None
    }

    /// The cache that holds `block`, if it says how large it may become. Asked when all calls are made.
    fn capacity(&mut self, _block: &Block) -> Option<Capacity> {
        None
    }

    /// A frame of the runtime's language by name.
    fn frame(&mut self, _frame: &PythonFrame) -> Option<Frame> {
        None
    }

    /// Whether a source file of the runtime's language is part of the tracker: it and what called it is
    /// not the subject's.
    fn is_tracker(&self, _file: &str) -> bool {
        false
    }

    /// What the runtime could not let us see, such as frames of a version that is not known.
    fn blind_spots(&self) -> Vec<String> {
        Vec::new()
    }

    /// How many objects the runtime's garbage collector has given up on.
    fn uncollectable(&mut self) -> usize {
        0
    }

    /// A readable name for one of them, by its place in the list, and its type.
    fn uncollectable_name(&mut self, _at: usize) -> Option<(String, Option<String>)> {
        None
    }

    /// The runtime's name for a running thread, by the kernel's number for it, and the type of its object.
    fn thread(&mut self, _number: i32) -> Option<(String, String)> {
        None
    }

    /// What else there is to say of garbage; asked once, after the last judged call.
    fn remarks(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// The collector's list of the objects that it has been told to leave alone since the start of the check. Without it
    /// no references are counted.
    fn frozen_objects(&mut self) -> Option<Frozen> {
        None
    }

    /// The other objects that the runtime's garbage collector tracks. In memory of our own, where no search for
    /// references finds them.
    fn tracked_objects(&mut self) -> MappedVec<usize> {
        MappedVec::new()
    }

    /// Whether the user has asked for an end, of which the next call will tell. Asked in the middle of long looks; it
    /// runs nothing of the program's.
    fn is_interrupted(&mut self) -> bool {
        false
    }

    /// The only objects whose references are to be counted, for calls that are few and cheap. `None`: all that can be
    /// found.
    fn chosen_objects(&mut self) -> Option<Vec<usize>> {
        None
    }

    /// Objects that the calls use, which the collector may not know, and of which nobody drops the last reference before
    /// the subject is gone: arguments and the like.
    fn named_objects(&mut self) -> Vec<usize> {
        Vec::new()
    }

    /// Takes so many references to an object of the subject's own that nobody holds, and as many to another one
    /// that are held where the collector sees them; both are among the named objects. Returns the two.
    fn plant_references(&mut self, _count: u32) -> Option<[usize; 2]> {
        None
    }

    /// Gives all of them back.
    fn return_references(&mut self) {}

    /// What an object is, without running code of the program.
    fn describe(&mut self, _object: usize) -> Description {
        Description::default()
    }

    /// Whether an object file belongs to the runtime itself, so that its frames are not to blame.
    fn is_runtime(&self, _module: &str) -> bool {
        false
    }
}

/// An object in words.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// Its type.
    pub type_name: Option<String>,
    /// What a person knows it by, such as ``the `str` 'timeout' (argument 1)``.
    pub name: String,
    /// It is a value that the call was not given and that anybody may have, such as a word in the code.
    pub is_constant: bool,
    /// It is a type.
    pub is_type: bool,
    /// It lives for as long as the program anyway, and few references to it cost nothing: a type that a module has, or
    /// a singleton.
    pub is_permanent: bool,
}

/// A way to a block through the runtime's objects.
#[derive(Clone, Debug, Default)]
pub struct Way {
    /// From the outermost that is known to the block.
    pub steps: Vec<Step>,
    /// The object at its start, if that is no root: who holds it is not known to the runtime.
    pub start: Option<usize>,
}

/// How full a cache is.
#[derive(Clone, Debug)]
pub struct Capacity {
    /// The cache, worded to follow "held by".
    pub name: String,
    /// The entries that it has,
    pub entries: u64,
    /// and may have at most.
    pub most: u64,
}

/// A block that was leaked on purpose and must be found at its exact size.
pub struct Planted {
    /// What it is, as the report names it when it was missed.
    pub name: &'static str,
    /// Where the block starts.
    pub address: usize,
    /// Its exact size in bytes.
    pub size: usize,
    /// Frees it.
    pub free: Box<dyn FnOnce()>,
}

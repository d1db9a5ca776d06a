//! How allocations are seen: relocation slots of the loaded objects, and CPython's
//! allocator hooks.
//!
//! The only large unsafe room. [`start`] puts our functions into the slots, every
//! allocation then passes through `native`, `operators`, `mapping` or `pymem`, is noted in the live set, and goes on to
//! the real function; [`stop`] takes them out again. `threads`, `descriptors`, `names` and `children` stand in front of
//! what starts threads, opens descriptors, makes files and the like, and starts processes, and leave a `Mark` of who
//! did it.
//! Nothing here judges, and nothing here allocates from a heap that it watches.
//!
//! The hooks are never unmapped: a function pointer that a program copied while we
//! were in its slot goes on working after [`stop`], and just passes through.

mod children;
mod descriptors;
mod entries;
mod followed;
mod made;
mod mapping;
mod marks;
mod names;
mod native;
mod operators;
mod pymem;
mod slots;
mod state;
mod thread;
mod threads;
mod vfork;

pub use entries::not_at_entry;
pub use followed::{follow, unless_freed, was_freed};
pub use made::{Made, take_made};
pub use marks::{Mark, opened};
pub use slots::{PatchCount, ReplacedFunction, replaced_functions};
pub use state::{
    Error, Frames, Options, Threads, around_unloading, capture_with, enter_call, forked, freed_memory, is_alive,
    is_tracked, keep_hooks, leave_call, live_block, live_blocks, outermost, overflowed, patch_new_objects, patched,
    start, stay_installed, stop, tell_births, totals, unwatched, watched, with_stacks,
};
pub use threads::{StartedThread, started_threads, threads_ever_started, threads_under_way};

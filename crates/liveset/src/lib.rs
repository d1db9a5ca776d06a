//! Which blocks are alive: address → size, birth call, stack.
//!
//! Here live the tables that the allocation hooks write to and that the engine
//! reads between calls. Nothing here decides anything, and nothing here calls an
//! allocator: every table lies in a mapping of its own ([`Region`]), so the hot
//! path allocates from no heap that is being watched, and the reachability scan
//! can leave our own copies of addresses out ([`is_own_memory`]).
//!
//! Data flows in through [`LiveSet::insert`] and [`LiveSet::remove`] (any thread),
//! and out through [`LiveSet::totals`] and [`LiveSet::for_each`].

mod atomic;
mod block;
mod kernel;
mod mappings;
mod region;
mod set;
mod shard;
mod spin;
mod vector;

pub use block::{Block, Family};
pub use kernel::system_call;
pub use mappings::Mappings;
pub use region::{OutOfMemory, Region, is_own_memory, own_bytes, own_memory};
pub use set::{Amount, LiveSet, Totals};
pub use spin::{SpinGuard, SpinLock};
pub use vector::MappedVec;

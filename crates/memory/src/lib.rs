//! This process's memory: what is mapped, which pages hold anything, and reading it.
//!
//! The only place where `/proc/self/maps` is parsed and where memory that is not ours is read. It is read through the
//! kernel, which reports what is gone, guarded or protected instead of faulting: other threads may unmap, and the
//! program may protect, at any time. What is told of memory lies in memory of our own, since the start of a mapping
//! may be the address of a block that is looked for.
//!
//! Sources: proc(5), process_vm_readv(2), the kernel's Documentation/admin-guide/mm/pagemap.rst.

mod maps;
mod pages;
mod process;
mod reading;
mod roots;
mod stacks;
mod unseen;

pub use maps::{Kind, Mapping, mapping_around, mappings, name_of};
pub use pages::{Pages, Which};
pub use process::{Meter, Sizes, has_other_threads, others_sleep, own_thread, resident_of_files};
pub use reading::Memory;
pub use roots::roots;
pub use stacks::thread_with_stack;
pub use unseen::Unseen;

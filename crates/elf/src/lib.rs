//! What the dynamic loader has in memory: objects, their symbols and their relocations.
//!
//! Read only: nothing here writes to a slot (that is the hooks' business). Linux and other systems with ELF
//! and `dl_iterate_phdr`. The loader says where an object lies ([`loaded_objects`]); its dynamic section says
//! where the tables are; `memory` keeps every read inside of the object, whatever the tables say.
//!
//! Sources: the System V ABI (dynamic section, `DT_*`, `DT_HASH`), its AMD64 and AArch64 supplements
//! (relocation types), glibc's elf/dl-lookup.c (`DT_GNU_HASH`, which definitions count), and
//! `dl_iterate_phdr(3)`.

mod dynamic;
mod memory;
mod object;
mod relocations;
mod symbols;

#[cfg(test)]
mod images;
#[cfg(test)]
mod properties;

pub use object::{LoadedObject, loaded_objects, objects_generation};
pub use relocations::Slot;

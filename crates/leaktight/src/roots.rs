//! The memory in which a pointer of the program's may stand.

use leaktight_liveset::own_memory;

use crate::maps::Mapping;
use crate::resident::Pages;

/// Calls `each` with all pieces of `mappings` that hold anything, but for our own tables and for dead stack.
pub(crate) fn roots(mappings: &[Mapping], each: &mut dyn FnMut(Mapping)) {
    let own = own_memory();
    let here = 0u8;
    let stack_pointer = &raw const here as usize;
    let pages = Pages::open();
    for mapping in mappings {
        let mut mapping = *mapping;
        if (mapping.start..mapping.end).contains(&stack_pointer) {
            // What lies below the stack pointer is dead.
            mapping.start = stack_pointer & !(4096 - 1);
        }
        pages.resident(mapping, &mut |run| {
            let mut start = run.start;
            let inside = own.iter().filter(|(own, len)| *own < run.end && own + len > run.start);
            for (end, next) in inside.map(|(own, len)| (*own, own + len)).chain([(run.end, run.end)]) {
                if start < end {
                    each(Mapping { start, end });
                }
                start = start.max(next);
            }
        });
    }
}

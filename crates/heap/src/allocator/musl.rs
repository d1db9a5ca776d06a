//! musl's malloc. It keeps no statistics and cannot trim, so there is no figure to tell, and none is made up.

use super::any::{Heap, Told};
use crate::functions::Functions;
use crate::mappings;
use crate::{Error, HeapInfo};

/// The malloc of musl's libc.
pub(crate) struct Musl;

impl Musl {
    pub(crate) fn find(functions: &Functions) -> Option<Musl> {
        // The libc that a program for musl was started by is musl's, and has its malloc.
        functions.address(c"__libc_start_main").map(|_| Musl)
    }
}

impl Heap for Musl {
    fn name(&self) -> &'static str {
        "musl"
    }

    fn version(&self) -> Option<String> {
        None
    }

    fn heap_info(&self) -> Result<HeapInfo, Error> {
        Err(unsupported("heap_info", "keeps no statistics"))
    }

    fn statistics(&self) -> Result<Told, Error> {
        let why = format!("musl's malloc keeps none; {}", mappings::upper_limit());
        Err(Error::Unsupported {
            what: "allocators",
            why,
        })
    }

    fn trim(&self) -> Result<(), Error> {
        Err(unsupported("heap_trim", "cannot give memory back on demand"))
    }
}

fn unsupported(what: &'static str, why: &str) -> Error {
    Error::Unsupported {
        what,
        why: format!("musl's malloc {why}; preload an allocator that does, such as jemalloc or mimalloc"),
    }
}

//! musl: its malloc keeps no statistics, so there is no figure to tell, and none is made up.

use std::{fs, io};

use crate::{Allocator, Error, HeapInfo};

pub(crate) fn heap_info() -> Result<HeapInfo, Error> {
    Err(unsupported("heap_info", "keeps no statistics"))
}

pub(crate) fn heap_trim() -> Result<(), Error> {
    Err(unsupported("heap_trim", "has no call that gives memory back"))
}

pub(crate) fn allocators() -> Vec<Allocator> {
    vec![Allocator {
        name: "musl",
        version: None,
        object: String::new(),
        serves_malloc: true,
        statistics: Err(no_statistics(fs::read_to_string("/proc/self/maps"))),
    }]
}

fn unsupported(what: &'static str, why: &str) -> Error {
    Error::Unsupported {
        what,
        why: format!("musl's malloc {why}; link or preload one that does, such as jemalloc or mimalloc"),
    }
}

/// What can be said instead is an upper limit: thread stacks and every other anonymous mapping look the same
/// as malloc's.
fn no_statistics(maps: io::Result<String>) -> String {
    let known = match maps {
        Ok(maps) => format!(
            "its mappings are among the {} bytes of the process that are private, writable and of no file",
            anonymous_bytes(&maps)
        ),
        Err(error) => format!("/proc/self/maps cannot be read: {error}"),
    };
    format!("it keeps none; {known}")
}

/// Private and writable memory in `/proc/self/maps` that is neither a file's nor the main stack.
fn anonymous_bytes(maps: &str) -> u64 {
    let bytes = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let permissions = fields.next()?;
        let (inode, name) = (fields.nth(2)?, fields.next().unwrap_or_default());
        let counts = permissions.starts_with("rw") && permissions.ends_with('p') && inode == "0";
        let address = |digits| u64::from_str_radix(digits, 16).ok();
        (counts && matches!(name, "" | "[heap]")).then(|| Some(address(end)? - address(start)?))?
    };
    maps.lines().filter_map(bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
555555554000-555555556000 r-xp 00000000 fd:00 1234                       /usr/bin/program
555555556000-555555557000 rw-p 00002000 fd:00 1234                       /usr/bin/program
555555557000-555555558000 rw-p 00000000 00:00 0
555555600000-555555604000 rw-p 00000000 00:00 0                          [heap]
7ffff0000000-7ffff0010000 rw-s 00000000 00:01 99                         /dev/zero (deleted)
7ffff1000000-7ffff1020000 rw-p 00000000 00:00 0
7ffff1020000-7ffff1021000 ---p 00000000 00:00 0
7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0                          [stack]
";

    #[test]
    fn only_private_writable_memory_of_no_file_is_summed() {
        assert_eq!(anonymous_bytes(MAPS), 0x1000 + 0x4000 + 0x20000);
    }

    #[test]
    fn what_is_told_is_no_figure_of_the_allocator() {
        let told = no_statistics(Ok(MAPS.into()));
        assert!(
            told.starts_with("it keeps none; its mappings are among the 151552 bytes"),
            "{told}"
        );
        let told = no_statistics(Err(io::ErrorKind::NotFound.into()));
        assert!(told.contains("/proc/self/maps cannot be read"), "{told}");
    }
}

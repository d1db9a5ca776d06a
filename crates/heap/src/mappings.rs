//! What the system knows of a `malloc` that cannot be asked: an upper limit.

use std::{fs, io};

/// Thread stacks and every other anonymous mapping look the same as malloc's, so this is no figure of its own.
pub(crate) fn upper_limit() -> String {
    in_words(fs::read_to_string("/proc/self/maps"))
}

fn in_words(maps: io::Result<String>) -> String {
    match maps {
        Ok(maps) => format!(
            "its mappings are among {} bytes of private and writable memory of no file",
            anonymous_bytes(&maps)
        ),
        Err(error) => format!("/proc/self/maps cannot be read: {error}"),
    }
}

/// Private and writable memory in `/proc/self/maps` that is neither a file's nor the main stack.
fn anonymous_bytes(maps: &str) -> u64 {
    maps.lines().filter_map(anonymous).sum()
}

fn anonymous(line: &str) -> Option<u64> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?;
    let (inode, name) = (fields.nth(2)?, fields.next().unwrap_or_default());
    if !permissions.starts_with("rw") || !permissions.ends_with('p') || inode != "0" || !matches!(name, "" | "[heap]") {
        return None;
    }
    let address = |digits| u64::from_str_radix(digits, 16).ok();
    address(end)?.checked_sub(address(start)?)
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
        assert_eq!(
            in_words(Ok(MAPS.into())),
            "its mappings are among 151552 bytes of private and writable memory of no file"
        );
    }

    #[test]
    fn where_the_map_cannot_be_read_there_is_no_figure() {
        let error = io::Error::from_raw_os_error(libc::ENOENT);
        assert!(in_words(Err(error)).starts_with("/proc/self/maps cannot be read: No such file"));
    }
}

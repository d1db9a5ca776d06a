//! How far the calling thread's stack reaches, found without allocating.

use std::cell::Cell;

thread_local! {
    /// Start and end of the mapping that this thread's stack pointer lay in last. Its first use may allocate
    /// inside the loader; the hook that we are called from is guarded by then, so that passes through.
    static STACK: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// The end of the stack that `sp` points into: words below it can be read. 0 when unknown.
///
/// Asks the kernel again when `sp` left the known range, so coroutines that switch stacks
/// and a main stack that has grown are met.
pub(crate) fn stack_end(sp: usize) -> usize {
    let known = STACK.get();
    if (known.0..known.1).contains(&sp) {
        return known.1;
    }
    let found = mapping_around(sp).unwrap_or((0, 0));
    STACK.set(found);
    found.1
}

/// The line of `/proc/self/maps` that covers `address`.
fn mapping_around(address: usize) -> Option<(usize, usize)> {
    // SAFETY: opens a constant path; the descriptor is closed below and not shared.
    let file = unsafe { libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if file < 0 {
        return None;
    }
    let mut lines = Lines::default();
    let mut buffer = [0u8; 4096];
    let found = loop {
        // SAFETY: reads at most the buffer's length into the buffer.
        let got = unsafe { libc::read(file, buffer.as_mut_ptr().cast(), buffer.len()) };
        if got <= 0 {
            break None;
        }
        let range = buffer[..got as usize].iter().find_map(|&byte| {
            let range = lines.feed(byte)?;
            (range.0..range.1).contains(&address).then_some(range)
        });
        if range.is_some() {
            break range;
        }
    };
    // SAFETY: the descriptor opened above.
    unsafe { libc::close(file) };
    found
}

/// Reads `start-end …` lines byte by byte; total on any input.
#[derive(Default)]
struct Lines {
    start: usize,
    value: usize,
    rest: bool,
}

impl Lines {
    /// The range of a line, at the byte that ends it.
    fn feed(&mut self, byte: u8) -> Option<(usize, usize)> {
        if self.rest {
            self.rest = byte != b'\n';
            return None;
        }
        match (byte as char).to_digit(16) {
            Some(digit) => self.value = self.value << 4 | digit as usize,
            None if byte == b'-' => self.start = std::mem::take(&mut self.value),
            None => {
                self.rest = byte != b'\n';
                return Some((self.start, std::mem::take(&mut self.value)));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_lines_are_read_and_garbage_does_no_harm() {
        let mut lines = Lines::default();
        let text = b"1000-2fff r--p 0 00:00 0 /a-b\nzz\n\nffffffffff600000-ffffffffff601000 --xp 0";
        let ranges: Vec<_> = text.iter().filter_map(|&byte| lines.feed(byte)).collect();
        assert_eq!(ranges[0], (0x1000, 0x2fff));
        assert_eq!(*ranges.last().unwrap(), (0xffff_ffff_ff60_0000, 0xffff_ffff_ff60_1000));
    }

    #[test]
    fn the_own_stack_is_found_on_any_thread() {
        let here = || {
            let local = 0u8;
            let at = &raw const local as usize;
            assert!(stack_end(at) > at);
        };
        here();
        std::thread::spawn(here).join().unwrap();
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_taken_for_maps(bytes: Vec<u8>) {
            let mut lines = Lines::default();
            for byte in bytes {
                let _ = lines.feed(byte);
            }
        }
    }
}

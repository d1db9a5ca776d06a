//! What is mapped (proc(5), `/proc/pid/maps`).

use std::io::{Error, Result};

use leaktight_liveset::MappedVec;

/// One mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its first byte.
    pub start: usize,
    /// The byte behind its last.
    pub end: usize,
    /// It may be read.
    pub readable: bool,
    /// It may be written.
    pub writable: bool,
    /// It may be executed.
    pub executable: bool,
    /// What is written to it, others see.
    pub shared: bool,
    /// Where in the file it starts, in bytes.
    pub offset: u64,
    /// The file, by the number of its device (major · 2^32 + minor) and its inode; 0 of no file.
    pub file: (u64, u64),
    /// What it is of.
    pub kind: Kind,
}

/// What a mapping is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Memory of no file.
    Anonymous,
    /// The program break: `[heap]`.
    Heap,
    /// The main thread's stack.
    Stack,
    /// A device, which reading may disturb.
    Device,
    /// Of the kernel: `[vdso]`, `[vsyscall]` and the like.
    Kernel,
    /// Memory that processes share by name or descriptor: `/dev/shm`, memfd_create(2), System V.
    Shared,
    /// A file.
    File,
}

/// Enough of a line to hold all fields and the beginning of the name.
const HEAD: usize = 112;

impl Mapping {
    /// Whether `address` lies in it.
    pub fn contains(&self, address: usize) -> bool {
        (self.start..self.end).contains(&address)
    }

    /// Its length in bytes.
    pub fn size(&self) -> usize {
        self.end - self.start
    }

    fn parse(line: &[u8]) -> Option<Mapping> {
        let line = std::str::from_utf8(line).unwrap_or_else(|bad| {
            // Only names hold anything else than ASCII, and their beginning says enough.
            std::str::from_utf8(&line[..bad.valid_up_to()]).unwrap_or_default()
        });
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let rights = words.next()?.as_bytes();
        let offset = u64::from_str_radix(words.next()?, 16).ok()?;
        let (major, minor) = words.next()?.split_once(':')?;
        let device = u64::from_str_radix(major, 16).ok()? << 32 | u64::from_str_radix(minor, 16).ok()?;
        let inode = words.next()?.parse().ok()?;
        let [read, write, execute, share] = *rights else {
            return None;
        };
        let mapping = Mapping {
            start: usize::from_str_radix(start, 16).ok()?,
            end: usize::from_str_radix(end, 16).ok()?,
            readable: read == b'r',
            writable: write == b'w',
            executable: execute == b'x',
            shared: share == b's',
            offset,
            file: (device, inode),
            kind: kind(words.next().unwrap_or_default()),
        };
        (mapping.start < mapping.end).then_some(mapping)
    }
}

fn kind(name: &str) -> Kind {
    match name {
        // The kernel shows shared memory of no file, and what programs have named, like this.
        "" => Kind::Anonymous,
        _ if name.starts_with("/dev/zero") || name.starts_with("[anon") => Kind::Anonymous,
        "[heap]" => Kind::Heap,
        _ if name.starts_with("[stack") => Kind::Stack,
        _ if name.starts_with('[') => Kind::Kernel,
        _ if ["/dev/shm/", "/memfd:", "/SYSV"]
            .iter()
            .any(|start| name.starts_with(start)) =>
        {
            Kind::Shared
        }
        _ if name.starts_with("/dev/") => Kind::Device,
        _ => Kind::File,
    }
}

/// All mappings, by rising address.
///
/// # Errors
///
/// When the system does not tell, or there is no memory for the list.
pub fn mappings() -> Result<MappedVec<Mapping>> {
    let mut all = MappedVec::new();
    let mut result = Ok(());
    let mut buffer = MappedVec::zeroed(1 << 16).map_err(Error::other)?;
    each_line(&mut buffer, &mut |line| {
        if let Some(mapping) = Mapping::parse(line) {
            result = all.push(mapping);
        }
        result.is_ok()
    })?;
    result.map_err(Error::other)?;
    Ok(all)
}

/// Start and end of the mapping around `address`. Allocates nothing and needs little stack.
pub fn mapping_around(address: usize) -> Option<(usize, usize)> {
    let mut found = None;
    let mut buffer = [0; 512];
    let told = each_line(&mut buffer, &mut |line| {
        found = Mapping::parse(line).filter(|mapping| mapping.contains(address));
        found.is_none()
    });
    told.ok()?;
    found.map(|mapping| (mapping.start, mapping.end))
}

/// The name of the mapping around `address`, whole; `None` if it has none.
pub fn name_of(address: usize) -> Option<String> {
    const FIELDS_BEFORE: usize = 5;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| {
        let mapping = Mapping::parse(line.as_bytes());
        mapping.is_some_and(|mapping| mapping.contains(address))
    })?;
    let mut rest = line;
    for _ in 0..FIELDS_BEFORE {
        rest = rest.trim_start().split_once(' ').map_or("", |(_, rest)| rest);
    }
    let name = rest.trim_start();
    (!name.is_empty()).then(|| name.to_owned())
}

/// Calls `each` with the beginning of each line, until it returns false.
fn each_line(buffer: &mut [u8], each: &mut dyn FnMut(&[u8]) -> bool) -> Result<()> {
    // SAFETY: opens a constant path; the descriptor is closed below and not shared.
    let file = unsafe { libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if file < 0 {
        return Err(Error::last_os_error());
    }
    let mut lines = Lines::default();
    let mut go_on = true;
    let result = loop {
        // SAFETY: reads at most the buffer's length into the buffer.
        let got = unsafe { libc::read(file, buffer.as_mut_ptr().cast(), buffer.len()) };
        let Ok(got) = usize::try_from(got) else {
            break Err(Error::last_os_error());
        };
        if got == 0 || !go_on {
            break Ok(());
        }
        for byte in &buffer[..got] {
            go_on = go_on && lines.feed(*byte).is_none_or(&mut *each);
        }
    };
    // SAFETY: the descriptor opened above.
    unsafe { libc::close(file) };
    result
}

/// Puts lines together that arrive in pieces, and keeps the beginning of each.
struct Lines {
    head: [u8; HEAD],
    len: usize,
}

impl Default for Lines {
    fn default() -> Self {
        Lines {
            head: [0; HEAD],
            len: 0,
        }
    }
}

impl Lines {
    /// The line that this byte ends.
    fn feed(&mut self, byte: u8) -> Option<&[u8]> {
        if byte == b'\n' {
            return Some(&self.head[..std::mem::take(&mut self.len)]);
        }
        if let Some(place) = self.head.get_mut(self.len) {
            *place = byte;
            self.len += 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_every_kind_are_read_and_garbage_is_skipped() {
        let read = |line: &str| Mapping::parse(line.as_bytes());
        let kind = |line: &str| read(line).map(|mapping| mapping.kind);
        let plain = read("1000-2000 rw-p 00003000 fd:01 77 /a b").unwrap();
        assert_eq!((plain.start, plain.end, plain.offset), (0x1000, 0x2000, 0x3000));
        assert_eq!(plain.file, (0xfd << 32 | 1, 77));
        assert!(plain.readable && plain.writable && !plain.shared);
        assert_eq!(plain.kind, Kind::File);
        assert!(read("1000-2000 r--s 0 00:00 0").is_some_and(|mapping| mapping.shared && !mapping.writable));
        for (name, expected) in [
            ("", Kind::Anonymous),
            ("[heap]", Kind::Heap),
            ("[stack]", Kind::Stack),
            ("[vdso]", Kind::Kernel),
            ("[anon:arena]", Kind::Anonymous),
            ("/dev/zero (deleted)", Kind::Anonymous),
            ("/dev/nvidia0", Kind::Device),
            ("/dev/shm/psm_1", Kind::Shared),
            ("/memfd:x (deleted)", Kind::Shared),
        ] {
            assert_eq!(
                kind(&format!("1000-2000 rw-p 00000000 00:00 0    {name}")),
                Some(expected)
            );
        }
        for line in [
            "",
            "1000-2000",
            "zz-1 rw-p 0 0:0 0",
            "2000-1000 rw-p 0 0:0 0",
            "1000 rw-p 0 0:0 0",
            "1-2 rw 0 0:0 0",
        ] {
            assert_eq!(read(line), None, "{line:?}");
        }
    }

    #[test]
    fn the_own_stack_and_code_are_found() {
        let here = 0u8;
        let at = &raw const here as usize;
        let (start, end) = mapping_around(at).unwrap();
        let all = mappings().unwrap();
        assert!(all.is_sorted_by_key(|mapping| mapping.start));
        let stack = all.iter().find(|mapping| mapping.contains(at)).unwrap();
        assert!(stack.writable && stack.end == end && start <= at);
        let code = mappings as *const () as usize;
        assert!(name_of(code).unwrap().starts_with('/'), "{:?}", name_of(code));
        assert_eq!(mapping_around(1), None);
    }

    #[test]
    fn a_long_name_does_not_hide_the_next_line() {
        let mut lines = Lines::default();
        let text = format!(
            "1000-2000 rw-p 00000000 00:00 1 /{}\n3000-4000 r--p 00000000 00:00 0 \n",
            "x".repeat(5000)
        );
        let mut found = Vec::new();
        for byte in text.bytes() {
            found.extend(lines.feed(byte).and_then(Mapping::parse).map(|mapping| mapping.start));
        }
        assert_eq!(found, [0x1000, 0x3000]);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_skipped(bytes: Vec<u8>, line: String) {
            let _ = Mapping::parse(&bytes);
            let _ = Mapping::parse(line.as_bytes());
        }
    }
}

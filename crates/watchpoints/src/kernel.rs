//! The system calls. None of them passes a function of libc, which may be hooked, and none touches `errno`.

use std::ffi::{CStr, c_int, c_long};
use std::io::Error;

use leaktight_liveset::system_call;

use crate::watch::Width;

/// The number of an error (errno(3)).
pub(crate) type Errno = c_int;

/// Makes a system call.
///
/// # Safety
///
/// What the system call does is sound.
pub(crate) unsafe fn call(number: c_long, arguments: [usize; 6]) -> Result<usize, Errno> {
    const LAST_ERROR: isize = -4095;
    // SAFETY: the caller's promise.
    let result = unsafe { system_call(number, arguments) } as isize;
    match (LAST_ERROR..0).contains(&result) {
        true => Err(-result as Errno),
        false => Ok(result as usize),
    }
}

pub(crate) fn error(number: Errno) -> Error {
    Error::from_raw_os_error(number)
}

pub(crate) fn process() -> c_int {
    // SAFETY: only asks.
    unsafe { system_call(libc::SYS_getpid, [0; 6]) as c_int }
}

pub(crate) fn thread() -> c_int {
    // SAFETY: only asks.
    unsafe { system_call(libc::SYS_gettid, [0; 6]) as c_int }
}

pub(crate) fn yield_now() {
    // SAFETY: gives the processor away.
    unsafe { system_call(libc::SYS_sched_yield, [0; 6]) };
}

/// The value of a word; `None` where nothing is mapped.
pub(crate) fn read_word(address: usize, width: Width) -> Option<u64> {
    let mut value = 0u64;
    let place = &raw mut value as usize;
    let (own, other) = ([place, width.bytes()], [address, width.bytes()]);
    let arguments = [
        process() as usize,
        own.as_ptr() as usize,
        1,
        other.as_ptr() as usize,
        1,
        0,
    ];
    // SAFETY: copies at most 8 bytes into `value`; the kernel checks the other address (process_vm_readv(2)).
    let read = match unsafe { call(libc::SYS_process_vm_readv, arguments) } {
        Err(libc::EPERM | libc::EACCES | libc::ENOSYS) => with_file(c"/proc/self/mem", |file| {
            // SAFETY: as above.
            unsafe { call(libc::SYS_pread64, [file, place, width.bytes(), address, 0, 0]) }
        }),
        read => read,
    };
    (read == Ok(width.bytes())).then_some(value)
}

/// Who traces the calling thread; 0 = nobody, or nobody says.
pub(crate) fn tracer() -> u32 {
    let mut text = [0; 4096];
    let text = read_file(c"/proc/thread-self/status", &mut text);
    let lines = text.split(|byte| *byte == b'\n');
    lines
        .filter_map(|line| line.strip_prefix(b"TracerPid:\t"))
        .find_map(number)
        .unwrap_or(0)
}

/// Whether a process may be traced only by whom it has named (Yama).
pub(crate) fn wants_named_tracer() -> bool {
    let mut text = [0; 16];
    let text = read_file(c"/proc/sys/kernel/yama/ptrace_scope", &mut text);
    number(text.trim_ascii()) == Some(1)
}

fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// As much of a file as there is room for; nothing if it cannot be read.
fn read_file<'a>(path: &CStr, room: &'a mut [u8]) -> &'a [u8] {
    let (start, len) = (room.as_mut_ptr() as usize, room.len());
    // SAFETY: reads into `room`, no further than its end.
    let read = with_file(path, |file| unsafe {
        call(libc::SYS_read, [file, start, len, 0, 0, 0])
    });
    &room[..read.unwrap_or(0)]
}

fn with_file(path: &CStr, read: impl FnOnce(usize) -> Result<usize, Errno>) -> Result<usize, Errno> {
    let open = [
        libc::AT_FDCWD as usize,
        path.as_ptr() as usize,
        libc::O_CLOEXEC as usize,
        0,
        0,
        0,
    ];
    // SAFETY: a string that ends in NUL.
    let file = unsafe { call(libc::SYS_openat, open) }?;
    let result = read(file);
    // SAFETY: opened above.
    let _ = unsafe { call(libc::SYS_close, [file, 0, 0, 0, 0, 0]) };
    result
}

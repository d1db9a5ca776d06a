//! Functions that start processes.
//!
//! `fork` may be called by a function that returns: the child has a stack of its own. For `vfork` see there.

use std::ffi::{c_char, c_int, c_long, c_void};
use std::mem::transmute;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::made::{Made, note};
use crate::marks::note_descriptor;
use crate::native::{function, real};
use crate::slots::{Hook, ReplacedFunction};
use crate::vfork::{VFORK, vfork};

type Any = *mut c_void;
type Text = *const c_char;

real!(FORK, real_fork, fn() -> c_int);
real!(PLAIN_FORK, real_plain_fork, fn() -> c_int);
real!(FORKPTY, real_forkpty, fn(*mut c_int, Any, Any, Any) -> c_int);
real!(
    POSIX_SPAWN,
    real_posix_spawn,
    fn(*mut c_int, Text, Any, Any, Any, Any) -> c_int
);
real!(
    POSIX_SPAWNP,
    real_posix_spawnp,
    fn(*mut c_int, Text, Any, Any, Any, Any) -> c_int
);
real!(POPEN, real_popen, fn(Text, Text) -> *mut libc::FILE);

// SAFETY of the calls below: each hands its own arguments to the real function of the same name.

unsafe extern "C" fn fork() -> c_int {
    // SAFETY: see above.
    parent_of(unsafe { real_fork()() })
}

unsafe extern "C" fn plain_fork() -> c_int {
    // SAFETY: see above.
    parent_of(unsafe { real_plain_fork()() })
}

unsafe extern "C" fn forkpty(end: *mut c_int, name: Any, terminal: Any, size: Any) -> c_int {
    // SAFETY: see above.
    let child = parent_of(unsafe { real_forkpty()(end, name, terminal, size) });
    if child > 0 {
        // SAFETY: in the parent it has stored a descriptor there.
        note_descriptor(unsafe { *end });
    }
    child
}

/// Notes the child, in its parent.
pub(crate) fn parent_of(child: c_int) -> c_int {
    if child > 0 {
        note(Made::Child(child));
    }
    child
}

unsafe extern "C" fn posix_spawn(child: *mut c_int, path: Text, a: Any, b: Any, c: Any, d: Any) -> c_int {
    // SAFETY: see above.
    spawned(child, |child| unsafe { real_posix_spawn()(child, path, a, b, c, d) })
}

unsafe extern "C" fn posix_spawnp(child: *mut c_int, path: Text, a: Any, b: Any, c: Any, d: Any) -> c_int {
    // SAFETY: see above.
    spawned(child, |child| unsafe { real_posix_spawnp()(child, path, a, b, c, d) })
}

/// The caller may not want the number; we do.
fn spawned(child: *mut c_int, spawn: impl FnOnce(*mut c_int) -> c_int) -> c_int {
    let mut number = 0;
    let status = spawn(&mut number);
    if status == 0 {
        // SAFETY: where there is one, the caller has room there for the number.
        if let Some(child) = unsafe { child.as_mut() } {
            *child = number;
        }
        parent_of(number);
    }
    status
}

unsafe extern "C" fn popen(command: Text, kind: Text) -> *mut libc::FILE {
    // SAFETY: see above.
    let stream = unsafe { real_popen()(command, kind) };
    if !stream.is_null() {
        // SAFETY: an open stream.
        note_descriptor(unsafe { libc::fileno(stream) });
        note(Made::Child(youngest_child()));
    }
    stream
}

/// The last that the calling thread has started, which the stream does not tell; -1 when that is not known.
fn youngest_child() -> c_int {
    let mut path = [0u8; 48];
    // SAFETY: only asks.
    let thread = unsafe { libc::gettid() };
    let _ = std::io::Write::write_fmt(
        &mut path.as_mut_slice(),
        format_args!("/proc/self/task/{thread}/children"),
    );
    // SAFETY: a string that ends in NUL; the system call itself, so that the descriptor leaves no mark.
    let list = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), libc::O_CLOEXEC) };
    let (mut number, mut last) = (-1, -1);
    let mut part = [0u8; 256];
    loop {
        // SAFETY: reads into the array, no further than its end.
        let len = unsafe { libc::syscall(libc::SYS_read, list, part.as_mut_ptr(), part.len() as c_long) };
        let Some(read) = usize::try_from(len).ok().filter(|len| *len > 0) else {
            break;
        };
        // Numbers, each with a space behind it, in the order of their birth (proc(5)).
        for byte in &part[..read] {
            match byte {
                b'0'..=b'9' => number = number.max(0) * 10 + c_int::from(byte - b'0'),
                _ => (number, last) = (-1, number),
            }
        }
    }
    // SAFETY: opened above.
    unsafe { libc::syscall(libc::SYS_close, list) };
    last
}

pub(crate) static FUNCTIONS: &[ReplacedFunction] = &[
    function!(c"fork", fork, FORK),
    function!(c"_Fork", plain_fork, PLAIN_FORK),
    function!(c"vfork", vfork, VFORK),
    function!(c"forkpty", forkpty, FORKPTY),
    function!(c"posix_spawn", posix_spawn, POSIX_SPAWN),
    function!(c"posix_spawnp", posix_spawnp, POSIX_SPAWNP),
    function!(c"popen", popen, POPEN),
];

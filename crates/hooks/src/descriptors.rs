//! Functions that open or close descriptors, or make files.
//!
//! Each passes its arguments on and then notes what came of it. Nothing is noted while the real function
//! runs, so the memory that it allocates is seen as ever. The variadic ones (`open`, `fcntl`) are declared
//! with the arguments that they may have: on x86-64 and AArch64 Linux those travel in the same
//! registers (System V ABI; AAPCS64).

use std::ffi::{CStr, c_char, c_int, c_long, c_uint, c_void};
use std::mem::transmute;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::marks::{forget_descriptor, note_descriptor, note_file, would_be_new};
use crate::native::{function, real};
use crate::slots::{Hook, ReplacedFunction};

type Text = *const c_char;
type Template = *mut c_char;
type Any = *mut c_void;

/// A function whose result is a new descriptor.
macro_rules! opening {
    ($($real:ident, $call:ident, $name:ident($($argument:ident: $type:ty),*);)*) => {
        $(
            real!($real, $call, fn($($type),*) -> c_int);

            unsafe extern "C" fn $name($($argument: $type),*) -> c_int {
                // SAFETY: the caller's own arguments, handed on.
                let descriptor = unsafe { $call()($($argument),*) };
                note_descriptor(descriptor);
                descriptor
            }
        )*
    };
}

opening! {
    SOCKET, real_socket, socket(domain: c_int, kind: c_int, protocol: c_int);
    ACCEPT, real_accept, accept(listener: c_int, address: Any, len: Any);
    ACCEPT4, real_accept4, accept4(listener: c_int, address: Any, len: Any, flags: c_int);
    DUP, real_dup, dup(old: c_int);
    DUP2, real_dup2, dup2(old: c_int, new: c_int);
    DUP3, real_dup3, dup3(old: c_int, new: c_int, flags: c_int);
    EPOLL_CREATE, real_epoll_create, epoll_create(size: c_int);
    EPOLL_CREATE1, real_epoll_create1, epoll_create1(flags: c_int);
    EVENTFD, real_eventfd, eventfd(start: c_uint, flags: c_int);
    TIMERFD_CREATE, real_timerfd_create, timerfd_create(clock: c_int, flags: c_int);
    SIGNALFD, real_signalfd, signalfd(old: c_int, signals: Any, flags: c_int);
    INOTIFY_INIT, real_inotify_init, inotify_init();
    INOTIFY_INIT1, real_inotify_init1, inotify_init1(flags: c_int);
    MEMFD_CREATE, real_memfd_create, memfd_create(name: Text, flags: c_uint);
}

/// A function that opens the file at a path, and makes it if so asked.
macro_rules! opening_file {
    ($($real:ident, $call:ident, $name:ident($($argument:ident: $type:ty),*) -> $result:ty, $path:ident if $makes:expr, $number:path;)*) => {
        $(
            real!($real, $call, fn($($type),*) -> $result);

            unsafe extern "C" fn $name($($argument: $type),*) -> $result {
                // SAFETY: the caller passes a path, as the real function asks for.
                let new = $makes && unsafe { would_be_new($path) };
                // SAFETY: the caller's own arguments, handed on.
                let result = unsafe { $call()($($argument),*) };
                // SAFETY: what the real function returned.
                let descriptor = unsafe { $number(result) };
                note_descriptor(descriptor);
                if new && descriptor >= 0 {
                    // SAFETY: a path, see above.
                    note_file(unsafe { CStr::from_ptr($path) });
                }
                result
            }
        )*
    };
}

opening_file! {
    OPEN, real_open, open(path: Text, flags: c_int, mode: c_uint) -> c_int, path if flags & libc::O_CREAT != 0, plain;
    OPEN64, real_open64, open64(path: Text, flags: c_int, mode: c_uint) -> c_int, path if flags & libc::O_CREAT != 0, plain;
    OPENAT, real_openat, openat(folder: c_int, path: Text, flags: c_int, mode: c_uint) -> c_int, path if flags & libc::O_CREAT != 0, plain;
    OPENAT64, real_openat64, openat64(folder: c_int, path: Text, flags: c_int, mode: c_uint) -> c_int, path if flags & libc::O_CREAT != 0, plain;
    CREAT, real_creat, creat(path: Text, mode: c_uint) -> c_int, path if true, plain;
    CREAT64, real_creat64, creat64(path: Text, mode: c_uint) -> c_int, path if true, plain;
    FOPEN, real_fopen, fopen(path: Text, mode: Text) -> *mut libc::FILE, path if true, of_stream;
    FOPEN64, real_fopen64, fopen64(path: Text, mode: Text) -> *mut libc::FILE, path if true, of_stream;
    SETMNTENT, real_setmntent, setmntent(path: Text, mode: Text) -> *mut libc::FILE, path if false, of_stream;
    OPENDIR, real_opendir, opendir(path: Text) -> *mut libc::DIR, path if false, of_folder;
}

/// A function that closes a descriptor. Its number may be given out again by a function that is not seen,
/// such as an `open` within libc, and must not be taken for what it was before.
macro_rules! closing {
    ($($real:ident, $call:ident, $name:ident($open:ident: $type:ty), $number:path;)*) => {
        $(
            real!($real, $call, fn($type) -> c_int);

            unsafe extern "C" fn $name($open: $type) -> c_int {
                // SAFETY: what the caller passes is open, as the real function asks for.
                forget_descriptor(unsafe { $number($open) });
                // SAFETY: the caller's own argument, handed on.
                unsafe { $call()($open) }
            }
        )*
    };
}

closing! {
    CLOSE, real_close, close(descriptor: c_int), plain;
    FCLOSE, real_fclose, fclose(stream: *mut libc::FILE), of_stream;
    ENDMNTENT, real_endmntent, endmntent(stream: *mut libc::FILE), of_stream;
    CLOSEDIR, real_closedir, closedir(folder: *mut libc::DIR), of_folder;
}

/// A function that fills in a template for the name of a new file, and returns its descriptor.
macro_rules! making_file {
    ($($real:ident, $call:ident, $name:ident($($argument:ident: $type:ty),*);)*) => {
        $(
            real!($real, $call, fn(Template $(, $type)*) -> c_int);

            unsafe extern "C" fn $name(template: Template $(, $argument: $type)*) -> c_int {
                // SAFETY: the caller's own arguments, handed on.
                let descriptor = unsafe { $call()(template $(, $argument)*) };
                note_descriptor(descriptor);
                if descriptor >= 0 {
                    // SAFETY: on success the template holds the file's name.
                    note_file(unsafe { CStr::from_ptr(template) });
                }
                descriptor
            }
        )*
    };
}

making_file! {
    MKSTEMP, real_mkstemp, mkstemp();
    MKSTEMP64, real_mkstemp64, mkstemp64();
    MKSTEMPS, real_mkstemps, mkstemps(suffix: c_int);
    MKSTEMPS64, real_mkstemps64, mkstemps64(suffix: c_int);
    MKOSTEMP, real_mkostemp, mkostemp(flags: c_int);
    MKOSTEMP64, real_mkostemp64, mkostemp64(flags: c_int);
}

real!(FCNTL, real_fcntl, fn(c_int, c_int, c_long) -> c_int);
real!(FCNTL64, real_fcntl64, fn(c_int, c_int, c_long) -> c_int);
real!(PIPE, real_pipe, fn(*mut c_int) -> c_int);
real!(PIPE2, real_pipe2, fn(*mut c_int, c_int) -> c_int);
real!(
    SOCKETPAIR,
    real_socketpair,
    fn(c_int, c_int, c_int, *mut c_int) -> c_int
);
real!(POPEN, real_popen, fn(Text, Text) -> *mut libc::FILE);
real!(MKDIR, real_mkdir, fn(Text, c_uint) -> c_int);
real!(MKDTEMP, real_mkdtemp, fn(Template) -> Template);

// SAFETY of the calls below: each hands its own arguments to the real function of the same name.

unsafe extern "C" fn fcntl(descriptor: c_int, command: c_int, argument: c_long) -> c_int {
    // SAFETY: see above.
    duplicated(command, unsafe { real_fcntl()(descriptor, command, argument) })
}

unsafe extern "C" fn fcntl64(descriptor: c_int, command: c_int, argument: c_long) -> c_int {
    // SAFETY: see above.
    duplicated(command, unsafe { real_fcntl64()(descriptor, command, argument) })
}

fn duplicated(command: c_int, result: c_int) -> c_int {
    if matches!(command, libc::F_DUPFD | libc::F_DUPFD_CLOEXEC) {
        note_descriptor(result);
    }
    result
}

unsafe extern "C" fn pipe(ends: *mut c_int) -> c_int {
    // SAFETY: see above.
    unsafe { two(ends, real_pipe()(ends)) }
}

unsafe extern "C" fn pipe2(ends: *mut c_int, flags: c_int) -> c_int {
    // SAFETY: see above.
    unsafe { two(ends, real_pipe2()(ends, flags)) }
}

unsafe extern "C" fn socketpair(domain: c_int, kind: c_int, protocol: c_int, ends: *mut c_int) -> c_int {
    // SAFETY: see above.
    unsafe { two(ends, real_socketpair()(domain, kind, protocol, ends)) }
}

/// # Safety
///
/// `ends` are two descriptors if `status` is 0.
unsafe fn two(ends: *mut c_int, status: c_int) -> c_int {
    if status == 0 {
        // SAFETY: the caller says so.
        let ends = unsafe { [*ends, *ends.add(1)] };
        ends.into_iter().for_each(note_descriptor);
    }
    status
}

unsafe extern "C" fn popen(command: Text, kind: Text) -> *mut libc::FILE {
    // SAFETY: see above.
    let stream = unsafe { real_popen()(command, kind) };
    // SAFETY: what the real function returned.
    note_descriptor(unsafe { of_stream(stream) });
    stream
}

unsafe extern "C" fn mkdir(path: Text, mode: c_uint) -> c_int {
    // SAFETY: the caller passes a path.
    let new = unsafe { would_be_new(path) };
    // SAFETY: see above.
    let status = unsafe { real_mkdir()(path, mode) };
    if new && status == 0 {
        // SAFETY: a path, see above.
        note_file(unsafe { CStr::from_ptr(path) });
    }
    status
}

unsafe extern "C" fn mkdtemp(template: Template) -> Template {
    // SAFETY: see above.
    let name = unsafe { real_mkdtemp()(template) };
    if !name.is_null() {
        // SAFETY: on success it returns the template, which holds the folder's name.
        note_file(unsafe { CStr::from_ptr(name) });
    }
    name
}

unsafe fn plain(descriptor: c_int) -> c_int {
    descriptor
}

unsafe fn of_stream(stream: *mut libc::FILE) -> c_int {
    if stream.is_null() {
        return -1;
    }
    // SAFETY: an open stream.
    unsafe { libc::fileno(stream) }
}

unsafe fn of_folder(folder: *mut libc::DIR) -> c_int {
    if folder.is_null() {
        return -1;
    }
    // SAFETY: an open folder.
    unsafe { libc::dirfd(folder) }
}

pub(crate) static FUNCTIONS: &[ReplacedFunction] = &[
    function!(c"socket", socket, SOCKET),
    function!(c"accept", accept, ACCEPT),
    function!(c"accept4", accept4, ACCEPT4),
    function!(c"dup", dup, DUP),
    function!(c"dup2", dup2, DUP2),
    function!(c"dup3", dup3, DUP3),
    function!(c"epoll_create", epoll_create, EPOLL_CREATE),
    function!(c"epoll_create1", epoll_create1, EPOLL_CREATE1),
    function!(c"eventfd", eventfd, EVENTFD),
    function!(c"timerfd_create", timerfd_create, TIMERFD_CREATE),
    function!(c"signalfd", signalfd, SIGNALFD),
    function!(c"inotify_init", inotify_init, INOTIFY_INIT),
    function!(c"inotify_init1", inotify_init1, INOTIFY_INIT1),
    function!(c"memfd_create", memfd_create, MEMFD_CREATE),
    function!(c"open", open, OPEN),
    function!(c"open64", open64, OPEN64),
    function!(c"openat", openat, OPENAT),
    function!(c"openat64", openat64, OPENAT64),
    function!(c"creat", creat, CREAT),
    function!(c"creat64", creat64, CREAT64),
    function!(c"fopen", fopen, FOPEN),
    function!(c"fopen64", fopen64, FOPEN64),
    function!(c"setmntent", setmntent, SETMNTENT),
    function!(c"opendir", opendir, OPENDIR),
    function!(c"close", close, CLOSE),
    function!(c"fclose", fclose, FCLOSE),
    function!(c"endmntent", endmntent, ENDMNTENT),
    function!(c"closedir", closedir, CLOSEDIR),
    function!(c"mkstemp", mkstemp, MKSTEMP),
    function!(c"mkstemp64", mkstemp64, MKSTEMP64),
    function!(c"mkstemps", mkstemps, MKSTEMPS),
    function!(c"mkstemps64", mkstemps64, MKSTEMPS64),
    function!(c"mkostemp", mkostemp, MKOSTEMP),
    function!(c"mkostemp64", mkostemp64, MKOSTEMP64),
    function!(c"fcntl", fcntl, FCNTL),
    function!(c"fcntl64", fcntl64, FCNTL64),
    function!(c"pipe", pipe, PIPE),
    function!(c"pipe2", pipe2, PIPE2),
    function!(c"socketpair", socketpair, SOCKETPAIR),
    function!(c"popen", popen, POPEN),
    function!(c"mkdir", mkdir, MKDIR),
    function!(c"mkdtemp", mkdtemp, MKDTEMP),
];

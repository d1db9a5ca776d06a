//! Functions that open or close descriptors.
//!
//! Each passes its arguments on and then notes what came of it. Nothing is noted while the real function
//! runs, so the memory that it allocates is seen as ever. The variadic ones (`open`, `fcntl`) are declared
//! with the arguments that they may have: on x86-64 and AArch64 Linux those travel in the same
//! registers (System V ABI; AAPCS64).

use std::ffi::{c_char, c_int, c_long, c_uint, c_void};
use std::mem::transmute;
use std::sync::atomic::{AtomicUsize, Ordering};

use libc::AT_FDCWD;

use crate::made::{exists, note_name, would_be_new};
use crate::marks::{forget_descriptor, note_descriptor};
use crate::native::{function, real};
use crate::slots::{Hook, ReplacedFunction};

type Text = *const c_char;
type Template = *mut c_char;
type Any = *mut c_void;
type Stream = *mut libc::FILE;

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
    PIDFD_OPEN, real_pidfd_open, pidfd_open(process: c_int, flags: c_uint);
    PIDFD_GETFD, real_pidfd_getfd, pidfd_getfd(process: c_int, number: c_int, flags: c_uint);
    FANOTIFY_INIT, real_fanotify_init, fanotify_init(flags: c_uint, event_flags: c_uint);
    OPEN_BY_HANDLE_AT, real_open_by_handle_at, open_by_handle_at(mount: c_int, handle: Any, flags: c_int);
    POSIX_OPENPT, real_posix_openpt, posix_openpt(flags: c_int);
    GETPT, real_getpt, getpt();
}

/// A function that opens the file at a path, and makes it if so asked.
macro_rules! opening_file {
    ($($real:ident, $call:ident, $name:ident($($argument:ident: $type:ty),*) -> $result:ty, $path:ident in $folder:expr, if $makes:expr, $number:path;)*) => {
        $(
            real!($real, $call, fn($($type),*) -> $result);

            unsafe extern "C" fn $name($($argument: $type),*) -> $result {
                // SAFETY: the caller passes a path, as the real function asks for.
                let new = $makes && unsafe { would_be_new($folder, $path, || exists($folder, $path)) };
                // SAFETY: the caller's own arguments, handed on.
                let result = unsafe { $call()($($argument),*) };
                // SAFETY: what the real function returned.
                let descriptor = unsafe { $number(result) };
                note_descriptor(descriptor);
                if new && descriptor >= 0 {
                    // SAFETY: a path, see above.
                    unsafe { note_name($folder, $path) };
                }
                result
            }
        )*
    };
}

// Those that end in _2 are what `open` becomes under _FORTIFY_SOURCE, where it is not to make anything.
opening_file! {
    OPEN, real_open, open(path: Text, flags: c_int, mode: c_uint) -> c_int, path in AT_FDCWD, if makes(flags), plain;
    OPEN64, real_open64, open64(path: Text, flags: c_int, mode: c_uint) -> c_int, path in AT_FDCWD, if makes(flags), plain;
    OPEN_2, real_open_2, open_2(path: Text, flags: c_int) -> c_int, path in AT_FDCWD, if false, plain;
    OPEN64_2, real_open64_2, open64_2(path: Text, flags: c_int) -> c_int, path in AT_FDCWD, if false, plain;
    OPENAT, real_openat, openat(folder: c_int, path: Text, flags: c_int, mode: c_uint) -> c_int, path in folder, if makes(flags), plain;
    OPENAT64, real_openat64, openat64(folder: c_int, path: Text, flags: c_int, mode: c_uint) -> c_int, path in folder, if makes(flags), plain;
    OPENAT_2, real_openat_2, openat_2(folder: c_int, path: Text, flags: c_int) -> c_int, path in folder, if false, plain;
    OPENAT64_2, real_openat64_2, openat64_2(folder: c_int, path: Text, flags: c_int) -> c_int, path in folder, if false, plain;
    CREAT, real_creat, creat(path: Text, mode: c_uint) -> c_int, path in AT_FDCWD, if true, plain;
    CREAT64, real_creat64, creat64(path: Text, mode: c_uint) -> c_int, path in AT_FDCWD, if true, plain;
    FOPEN, real_fopen, fopen(path: Text, mode: Text) -> Stream, path in AT_FDCWD, if true, of_stream;
    FOPEN64, real_fopen64, fopen64(path: Text, mode: Text) -> Stream, path in AT_FDCWD, if true, of_stream;
    FREOPEN, real_freopen, freopen(path: Text, mode: Text, stream: Stream) -> Stream, path in AT_FDCWD, if true, of_stream;
    FREOPEN64, real_freopen64, freopen64(path: Text, mode: Text, stream: Stream) -> Stream, path in AT_FDCWD, if true, of_stream;
    TMPFILE, real_tmpfile, tmpfile() -> Stream, NONE in AT_FDCWD, if false, of_stream;
    TMPFILE64, real_tmpfile64, tmpfile64() -> Stream, NONE in AT_FDCWD, if false, of_stream;
    SETMNTENT, real_setmntent, setmntent(path: Text, mode: Text) -> Stream, path in AT_FDCWD, if false, of_stream;
    OPENDIR, real_opendir, opendir(path: Text) -> *mut libc::DIR, path in AT_FDCWD, if false, of_folder;
}

const NONE: Text = std::ptr::null();

fn makes(flags: c_int) -> bool {
    flags & libc::O_CREAT != 0
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
                    unsafe { note_name(AT_FDCWD, template) };
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
    MKOSTEMPS, real_mkostemps, mkostemps(suffix: c_int, flags: c_int);
    MKOSTEMPS64, real_mkostemps64, mkostemps64(suffix: c_int, flags: c_int);
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
real!(
    OPENPTY,
    real_openpty,
    fn(*mut c_int, *mut c_int, Any, Any, Any) -> c_int
);
real!(RECVMSG, real_recvmsg, fn(c_int, *mut libc::msghdr, c_int) -> isize);
real!(
    RECVMMSG,
    real_recvmmsg,
    fn(c_int, *mut libc::mmsghdr, c_uint, c_int, Any) -> c_int
);

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

unsafe extern "C" fn openpty(end: *mut c_int, other: *mut c_int, name: Any, terminal: Any, size: Any) -> c_int {
    // SAFETY: see above.
    let status = unsafe { real_openpty()(end, other, name, terminal, size) };
    if status == 0 {
        // SAFETY: on success it has stored a descriptor in each.
        unsafe { [*end, *other] }.into_iter().for_each(note_descriptor);
    }
    status
}

unsafe extern "C" fn recvmsg(socket: c_int, message: *mut libc::msghdr, flags: c_int) -> isize {
    // SAFETY: see above.
    let received = unsafe { real_recvmsg()(socket, message, flags) };
    if received >= 0 {
        // SAFETY: the message was just received.
        unsafe { received_with(message) };
    }
    received
}

unsafe extern "C" fn recvmmsg(
    socket: c_int,
    messages: *mut libc::mmsghdr,
    most: c_uint,
    flags: c_int,
    time: Any,
) -> c_int {
    // SAFETY: see above.
    let received = unsafe { real_recvmmsg()(socket, messages, most, flags, time) };
    for at in 0..received.max(0) as usize {
        // SAFETY: so many messages were just received.
        unsafe { received_with(&raw const (*messages.add(at)).msg_hdr) };
    }
    received
}

/// Notes the descriptors that came with a message (unix(7), `SCM_RIGHTS`).
///
/// # Safety
///
/// `message` is one that was received.
unsafe fn received_with(message: *const libc::msghdr) {
    // SAFETY: the kernel has written its control messages, and how long they are (cmsg(3)).
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(message);
        while let Some(header) = control.as_ref() {
            if (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                let data = libc::CMSG_DATA(control).cast::<c_int>();
                #[allow(clippy::unnecessary_cast, reason = "musl's has 32 bits")]
                let len = (header.cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
                (0..len / size_of::<c_int>()).for_each(|at| note_descriptor(data.add(at).read_unaligned()));
            }
            control = libc::CMSG_NXTHDR(message, control);
        }
    }
}

/// Notes what a system call has opened. Only for what has no function in libc, or has one in newer versions only.
pub(crate) fn note_system_call(number: c_long, result: c_long) {
    if matches!(
        number,
        libc::SYS_openat
            | libc::SYS_openat2
            | libc::SYS_open_by_handle_at
            | libc::SYS_memfd_create
            | libc::SYS_memfd_secret
            | libc::SYS_pidfd_open
            | libc::SYS_pidfd_getfd
            | libc::SYS_perf_event_open
            | libc::SYS_userfaultfd
            | libc::SYS_fanotify_init
            | libc::SYS_io_uring_setup
            | libc::SYS_fsopen
            | libc::SYS_fsmount
            | libc::SYS_open_tree
    ) {
        note_descriptor(result as c_int);
    }
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
    function!(c"pidfd_open", pidfd_open, PIDFD_OPEN),
    function!(c"pidfd_getfd", pidfd_getfd, PIDFD_GETFD),
    function!(c"fanotify_init", fanotify_init, FANOTIFY_INIT),
    function!(c"open_by_handle_at", open_by_handle_at, OPEN_BY_HANDLE_AT),
    function!(c"posix_openpt", posix_openpt, POSIX_OPENPT),
    function!(c"getpt", getpt, GETPT),
    function!(c"open", open, OPEN),
    function!(c"__open_2", open_2, OPEN_2),
    function!(c"open64", open64, OPEN64),
    function!(c"__open64_2", open64_2, OPEN64_2),
    function!(c"openat", openat, OPENAT),
    function!(c"__openat_2", openat_2, OPENAT_2),
    function!(c"openat64", openat64, OPENAT64),
    function!(c"__openat64_2", openat64_2, OPENAT64_2),
    function!(c"creat", creat, CREAT),
    function!(c"creat64", creat64, CREAT64),
    function!(c"fopen", fopen, FOPEN),
    function!(c"fopen64", fopen64, FOPEN64),
    function!(c"freopen", freopen, FREOPEN),
    function!(c"freopen64", freopen64, FREOPEN64),
    function!(c"tmpfile", tmpfile, TMPFILE),
    function!(c"tmpfile64", tmpfile64, TMPFILE64),
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
    function!(c"mkostemps", mkostemps, MKOSTEMPS),
    function!(c"mkostemps64", mkostemps64, MKOSTEMPS64),
    function!(c"fcntl", fcntl, FCNTL),
    function!(c"fcntl64", fcntl64, FCNTL64),
    function!(c"pipe", pipe, PIPE),
    function!(c"pipe2", pipe2, PIPE2),
    function!(c"socketpair", socketpair, SOCKETPAIR),
    function!(c"openpty", openpty, OPENPTY),
    function!(c"recvmsg", recvmsg, RECVMSG),
    function!(c"recvmmsg", recvmmsg, RECVMMSG),
];

//! Functions that make names: of files, folders, links, sockets, shared memory, semaphores and queues; and objects
//! of System V, which have numbers.
//!
//! A name counts if nothing had it before: what replaces a file leaves nothing more behind.

use std::ffi::{c_char, c_int, c_uint, c_ulong, c_void};
use std::mem::{offset_of, transmute};
use std::sync::atomic::{AtomicUsize, Ordering};

use libc::AT_FDCWD;

use crate::made::{Made, exists, note, note_name, would_be_new};
use crate::marks::note_descriptor;
use crate::native::{function, real};
use crate::slots::{Hook, ReplacedFunction};

type Text = *const c_char;
type Template = *mut c_char;
type Any = *mut c_void;

/// A function that makes the name `$path`, relative to the folder `$folder`, and returns 0 if it could.
macro_rules! making {
    ($($real:ident, $call:ident, $name:ident($($argument:ident: $type:ty),*), $path:ident in $folder:expr;)*) => {
        $(
            real!($real, $call, fn($($type),*) -> c_int);

            unsafe extern "C" fn $name($($argument: $type),*) -> c_int {
                // SAFETY: the caller passes a path, as the real function asks for, and the other arguments.
                unsafe { making($folder, $path, || $call()($($argument),*)) }
            }
        )*
    };
}

making! {
    MKDIR, real_mkdir, mkdir(path: Text, mode: c_uint), path in AT_FDCWD;
    MKDIRAT, real_mkdirat, mkdirat(folder: c_int, path: Text, mode: c_uint), path in folder;
    MKFIFO, real_mkfifo, mkfifo(path: Text, mode: c_uint), path in AT_FDCWD;
    MKFIFOAT, real_mkfifoat, mkfifoat(folder: c_int, path: Text, mode: c_uint), path in folder;
    MKNOD, real_mknod, mknod(path: Text, mode: c_uint, device: c_ulong), path in AT_FDCWD;
    MKNODAT, real_mknodat, mknodat(folder: c_int, path: Text, mode: c_uint, device: c_ulong), path in folder;
    RENAME, real_rename, rename(old: Text, new: Text), new in AT_FDCWD;
    RENAMEAT, real_renameat, renameat(from: c_int, old: Text, to: c_int, new: Text), new in to;
    RENAMEAT2, real_renameat2, renameat2(from: c_int, old: Text, to: c_int, new: Text, flags: c_uint), new in to;
    LINK, real_link, link(old: Text, new: Text), new in AT_FDCWD;
    LINKAT, real_linkat, linkat(from: c_int, old: Text, to: c_int, new: Text, flags: c_int), new in to;
    SYMLINK, real_symlink, symlink(target: Text, path: Text), path in AT_FDCWD;
    SYMLINKAT, real_symlinkat, symlinkat(target: Text, folder: c_int, path: Text), path in folder;
}

/// # Safety
///
/// `path` is a string that ends in NUL, or null.
unsafe fn making(folder: c_int, path: Text, call: impl FnOnce() -> c_int) -> c_int {
    // SAFETY: the caller says so.
    let is_there = || unsafe { exists(folder, path) };
    // SAFETY: as above.
    unsafe { naming(folder, path, is_there, call, |status| *status == 0) }
}

/// Makes the call, and notes the name if `made` says that it did what it should, and nothing had the name before.
///
/// # Safety
///
/// `path` is a string that ends in NUL, or null.
unsafe fn naming<R>(
    folder: c_int,
    path: Text,
    is_there: impl FnOnce() -> bool,
    call: impl FnOnce() -> R,
    made: impl FnOnce(&R) -> bool,
) -> R {
    // SAFETY: the caller says so.
    let new = unsafe { would_be_new(folder, path, is_there) };
    let result = call();
    if new && made(&result) {
        // SAFETY: it is not null, and see above.
        unsafe { note_name(folder, path) };
    }
    result
}

real!(MKDTEMP, real_mkdtemp, fn(Template) -> Template);
real!(BIND, real_bind, fn(c_int, *const libc::sockaddr, c_uint) -> c_int);
real!(SHM_OPEN, real_shm_open, fn(Text, c_int, c_uint) -> c_int);
real!(SEM_OPEN, real_sem_open, fn(Text, c_int, c_uint, c_uint) -> Any);
real!(MQ_OPEN, real_mq_open, fn(Text, c_int, c_uint, Any) -> c_int);
real!(SHMGET, real_shmget, fn(c_int, usize, c_int) -> c_int);
real!(SEMGET, real_semget, fn(c_int, c_int, c_int) -> c_int);
real!(MSGGET, real_msgget, fn(c_int, c_int) -> c_int);

// SAFETY of the calls below: each hands its own arguments to the real function of the same name. The variadic ones
// are declared with the arguments that they may have, as in `descriptors`.

unsafe extern "C" fn mkdtemp(template: Template) -> Template {
    // SAFETY: see above.
    let name = unsafe { real_mkdtemp()(template) };
    if !name.is_null() {
        // SAFETY: on success it returns the template, which holds the folder's name.
        unsafe { note_name(AT_FDCWD, name) };
    }
    name
}

unsafe extern "C" fn bind(socket: c_int, address: *const libc::sockaddr, len: c_uint) -> c_int {
    // SAFETY: the caller passes an address of that length.
    let path = unsafe { path_of_socket(address, len) };
    let path = path.as_ref().map_or(std::ptr::null(), |path| path.as_ptr());
    // SAFETY: a string that ends in NUL, or null; and see above.
    unsafe { making(AT_FDCWD, path, || real_bind()(socket, address, len)) }
}

/// The path that an address of a Unix socket holds, which need not end in NUL (unix(7)), with one. None where it
/// has no path.
///
/// # Safety
///
/// `address` is one of that length, or null.
unsafe fn path_of_socket(address: *const libc::sockaddr, len: c_uint) -> Option<[c_char; 109]> {
    const START: usize = offset_of!(libc::sockaddr_un, sun_path);
    let len = (len as usize).min(size_of::<libc::sockaddr_un>()).checked_sub(START)?;
    // SAFETY: the caller says so, and it is long enough for its family.
    if address.is_null() || unsafe { (*address).sa_family } != libc::AF_UNIX as libc::sa_family_t {
        return None;
    }
    let mut path = [0; 109];
    // SAFETY: `len` bytes of the address are its path, and there is room for all that it can hold.
    unsafe { std::ptr::copy_nonoverlapping(address.cast::<c_char>().add(START), path.as_mut_ptr(), len) };
    (path[0] != 0).then_some(path)
}

unsafe extern "C" fn shm_open(name: Text, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: the caller passes a name.
    let path = unsafe { path_of_name("/dev/shm/", name, flags) };
    let path = text_of(&path);
    // SAFETY: a path or null, and see above.
    let descriptor = unsafe {
        let is_there = || exists(AT_FDCWD, path);
        naming(
            AT_FDCWD,
            path,
            is_there,
            || real_shm_open()(name, flags, mode),
            |new| *new >= 0,
        )
    };
    note_descriptor(descriptor);
    descriptor
}

unsafe extern "C" fn sem_open(name: Text, flags: c_int, mode: c_uint, value: c_uint) -> Any {
    // SAFETY: the caller passes a name.
    let path = unsafe { path_of_name("/dev/shm/sem.", name, flags) };
    let path = text_of(&path);
    let made = |semaphore: &Any| *semaphore != libc::SEM_FAILED.cast();
    // SAFETY: a path or null, and see above.
    unsafe {
        let is_there = || exists(AT_FDCWD, path);
        naming(
            AT_FDCWD,
            path,
            is_there,
            || real_sem_open()(name, flags, mode, value),
            made,
        )
    }
}

unsafe extern "C" fn mq_open(name: Text, flags: c_int, mode: c_uint, attributes: Any) -> c_int {
    // SAFETY: the caller passes a name.
    let path = unsafe { path_of_name("/dev/mqueue/", name, flags) };
    let path = text_of(&path);
    // The folder need not be mounted; then only opening the queue tells whether it is there.
    let is_there = || {
        // SAFETY: the caller's name; without O_CREAT it makes nothing.
        let queue = unsafe { real_mq_open()(name, libc::O_RDONLY | libc::O_NONBLOCK, 0, std::ptr::null_mut()) };
        // SAFETY: opened just now; the system call itself, so that the number's mark stays.
        queue >= 0 && unsafe { libc::syscall(libc::SYS_close, queue) == 0 }
    };
    // SAFETY: a path or null, and see above.
    let queue = unsafe {
        let call = || real_mq_open()(name, flags, mode, attributes);
        naming(AT_FDCWD, path, is_there, call, |queue| *queue >= 0)
    };
    note_descriptor(queue);
    queue
}

/// Where an object has its place that is about to be made by name (shm_overview(7), sem_overview(7), mq_overview(7)),
/// with a NUL at its end.
///
/// # Safety
///
/// `name` is a string that ends in NUL.
unsafe fn path_of_name(folder: &str, name: Text, flags: c_int) -> Option<[u8; 288]> {
    if flags & libc::O_CREAT == 0 || name.is_null() {
        return None;
    }
    // SAFETY: the caller says so.
    let name = unsafe { std::ffi::CStr::from_ptr(name) }.to_bytes();
    let name = &name[name.iter().take_while(|byte| **byte == b'/').count()..];
    let mut path = [0; 288];
    let room = path
        .get_mut(..folder.len() + name.len())
        .filter(|room| room.len() < 288)?;
    room[..folder.len()].copy_from_slice(folder.as_bytes());
    room[folder.len()..].copy_from_slice(name);
    Some(path)
}

fn text_of(path: &Option<[u8; 288]>) -> Text {
    path.as_ref().map_or(std::ptr::null(), |path| path.as_ptr().cast())
}

// The real functions below also find what is there already. It keeps the mark of whoever made it: the engine believes
// a mark only of what it has not seen before.

unsafe extern "C" fn shmget(key: c_int, size: usize, flags: c_int) -> c_int {
    // SAFETY: see above.
    let number = unsafe { real_shmget()(key, size, flags) };
    note(Made::SharedMemory(number));
    number
}

unsafe extern "C" fn semget(key: c_int, count: c_int, flags: c_int) -> c_int {
    // SAFETY: see above.
    let number = unsafe { real_semget()(key, count, flags) };
    note(Made::Semaphores(number));
    number
}

unsafe extern "C" fn msgget(key: c_int, flags: c_int) -> c_int {
    // SAFETY: see above.
    let number = unsafe { real_msgget()(key, flags) };
    note(Made::Queue(number));
    number
}

pub(crate) static FUNCTIONS: &[ReplacedFunction] = &[
    function!(c"mkdir", mkdir, MKDIR),
    function!(c"mkdirat", mkdirat, MKDIRAT),
    function!(c"mkdtemp", mkdtemp, MKDTEMP),
    function!(c"mkfifo", mkfifo, MKFIFO),
    function!(c"mkfifoat", mkfifoat, MKFIFOAT),
    function!(c"mknod", mknod, MKNOD),
    function!(c"mknodat", mknodat, MKNODAT),
    function!(c"rename", rename, RENAME),
    function!(c"renameat", renameat, RENAMEAT),
    function!(c"renameat2", renameat2, RENAMEAT2),
    function!(c"link", link, LINK),
    function!(c"linkat", linkat, LINKAT),
    function!(c"symlink", symlink, SYMLINK),
    function!(c"symlinkat", symlinkat, SYMLINKAT),
    function!(c"bind", bind, BIND),
    function!(c"shm_open", shm_open, SHM_OPEN),
    function!(c"sem_open", sem_open, SEM_OPEN),
    function!(c"mq_open", mq_open, MQ_OPEN),
    function!(c"shmget", shmget, SHMGET),
    function!(c"semget", semget, SEMGET),
    function!(c"msgget", msgget, MSGGET),
];

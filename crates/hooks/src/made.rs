//! The log of what calls make that outlives a descriptor: names in folders for temporary files, child
//! processes, objects of System V.
//!
//! Whether they still exist is the system's to say. The engine empties the log at each look.

use std::ffi::{CStr, c_char, c_int};
use std::sync::atomic::{AtomicBool, Ordering};

use leaktight_liveset::{MappedVec, OutOfMemory, SpinLock};

use crate::marks::Mark;
use crate::state::Watch;
use crate::vfork;

/// What was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// A file, a folder or anything else that has a path.
    Name,
    /// A child process, by number.
    Child(c_int),
    /// A segment of shared memory of System V, by number (shmget(2)).
    SharedMemory(c_int),
    /// A set of semaphores of System V (semget(2)).
    Semaphores(c_int),
    /// A message queue of System V (msgget(2)).
    Queue(c_int),
}

#[derive(Clone, Copy)]
struct Entry {
    made: Made,
    mark: Mark,
    /// Bytes of its path in the text.
    len: usize,
}

struct Log {
    entries: MappedVec<Entry>,
    /// The paths, one behind the other.
    text: MappedVec<u8>,
}

const LONGEST_FOLDER: usize = 512;
const LONGEST_PATH: usize = libc::PATH_MAX as usize;

static LOG: SpinLock<Log> = SpinLock::new(Log {
    entries: MappedVec::new(),
    text: MappedVec::new(),
});
/// `$TMPDIR` when tracking began.
static TEMPORARY: SpinLock<Folder> = SpinLock::new(Folder::NONE);
static NAMES: AtomicBool = AtomicBool::new(false);

/// Calls `each` with what was made since the last time, oldest first, and with its path if it is a name. Paths
/// are absolute, but may lead through links.
pub fn take_made(mut each: impl FnMut(Made, &[u8], Mark)) {
    let mut log = LOG.lock();
    let mut start = 0;
    for entry in log.entries.iter() {
        each(entry.made, &log.text[start..start + entry.len], entry.mark);
        start += entry.len;
    }
    log.entries.clear();
    log.text.clear();
}

/// Forgets everything, and says whether names are to be followed from now on.
pub(crate) fn begin(names: bool) {
    let folder = std::env::var_os("TMPDIR").unwrap_or_default();
    let folder = std::os::unix::ffi::OsStrExt::as_bytes(folder.as_os_str());
    let folder = folder.strip_suffix(b"/").unwrap_or(folder);
    let mut temporary = Folder::NONE;
    if folder.starts_with(b"/") && folder.len() <= LONGEST_FOLDER {
        temporary.path[..folder.len()].copy_from_slice(folder);
        temporary.len = folder.len();
    }
    *TEMPORARY.lock() = temporary;
    let mut log = LOG.lock();
    log.entries.clear();
    log.text.clear();
    NAMES.store(names, Ordering::Relaxed);
}

/// # Safety
///
/// Only in a forked child, before it has a second thread.
pub(crate) unsafe fn unlock_after_fork() {
    // SAFETY: the thread that forked holds none of the locks, and there is no other.
    unsafe {
        LOG.force_unlock();
        TEMPORARY.force_unlock();
    }
}

/// Notes what has no path; a negative number is a failed call.
pub(crate) fn note(made: Made) {
    let (Made::Child(number) | Made::SharedMemory(number) | Made::Semaphores(number) | Made::Queue(number)) = made
    else {
        return;
    };
    if number >= 0
        && !vfork::is_in_child()
        && let Some(watch) = Watch::allocations()
    {
        log(&watch, made, &[]);
    }
}

/// Notes a name that the call just made, relative to an open folder or `AT_FDCWD`.
///
/// # Safety
///
/// `path` is a string that ends in NUL.
pub(crate) unsafe fn note_name(folder: c_int, path: *const c_char) {
    if !NAMES.load(Ordering::Relaxed) || vfork::is_in_child() {
        return;
    }
    let Some(watch) = Watch::allocations() else {
        return;
    };
    // SAFETY: the caller says so.
    let path = unsafe { CStr::from_ptr(path) }.to_bytes();
    if path.len() <= LONGEST_PATH
        && let Some(folder) = Folder::of(folder, path)
    {
        log(&watch, Made::Name, &[folder.bytes(), path]);
    }
}

/// Whether `path` lies in a folder for temporary files, and `is_there` says that nothing has that name yet.
/// `errno` stays as it is.
///
/// # Safety
///
/// `path` is a string that ends in NUL, or null.
pub(crate) unsafe fn would_be_new(folder: c_int, path: *const c_char, is_there: impl FnOnce() -> bool) -> bool {
    if path.is_null() || !NAMES.load(Ordering::Relaxed) || vfork::is_in_child() {
        return false;
    }
    // For as long as a lock is held: a signal handler may make something, too.
    let Some(_watch) = Watch::allocations() else {
        return false;
    };
    // SAFETY: the location is this thread's own.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: the caller says so.
    let path = unsafe { CStr::from_ptr(path) }.to_bytes();
    let new = Folder::of(folder, path).is_some_and(|folder| is_temporary(folder.bytes(), path)) && !is_there();
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
    new
}

/// Whether anything has this name, be it a link that leads nowhere.
///
/// # Safety
///
/// `path` is a string that ends in NUL.
pub(crate) unsafe fn exists(folder: c_int, path: *const c_char) -> bool {
    let mut found = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the caller's string, and a record to be filled in.
    unsafe { libc::fstatat(folder, path, found.as_mut_ptr(), libc::AT_SYMLINK_NOFOLLOW) == 0 }
}

/// Without memory the thing is still found, only its place is not known.
fn log(watch: &Watch, made: Made, path: &[&[u8]]) {
    let Some(mark) = watch.mark() else {
        return;
    };
    let mut log = LOG.lock();
    let start = log.text.len();
    let mut write = || -> Result<(), OutOfMemory> {
        for part in path {
            for byte in *part {
                log.text.push(*byte)?;
            }
        }
        let len = log.text.len() - start;
        log.entries.push(Entry { made, mark, len })
    };
    if write().is_err() {
        while log.text.len() > start {
            let last = log.text.len() - 1;
            log.text.remove(last);
        }
    }
}

/// What a relative path is relative to, with a slash at its end; empty for an absolute one.
struct Folder {
    path: [u8; LONGEST_FOLDER + 1],
    len: usize,
}

impl Folder {
    const NONE: Folder = Folder {
        path: [0; LONGEST_FOLDER + 1],
        len: 0,
    };

    fn bytes(&self) -> &[u8] {
        &self.path[..self.len]
    }

    /// `None` when it cannot be told, or is too long.
    fn of(folder: c_int, path: &[u8]) -> Option<Folder> {
        let mut found = Folder::NONE;
        if path.starts_with(b"/") {
            return Some(found);
        }
        let room: *mut c_char = found.path.as_mut_ptr().cast();
        if folder == libc::AT_FDCWD {
            // SAFETY: with a buffer it writes there, as far as that goes, and allocates nothing.
            found.len = unsafe { libc::getcwd(room, LONGEST_FOLDER).as_ref().map(|_| libc::strlen(room)) }?;
        } else {
            let link = link_of(folder);
            // SAFETY: as above; the link is a string that ends in NUL.
            let len = unsafe { libc::readlink(link.as_ptr().cast(), room, LONGEST_FOLDER) };
            found.len = usize::try_from(len).ok().filter(|len| *len < LONGEST_FOLDER)?;
        }
        found.path[found.len] = b'/';
        found.len += 1;
        Some(found)
    }
}

/// `/proc/self/fd/7`, with a NUL at its end.
fn link_of(descriptor: c_int) -> [u8; 32] {
    let mut link = [0; 32];
    let _ = std::io::Write::write_fmt(&mut link.as_mut_slice(), format_args!("/proc/self/fd/{descriptor}"));
    link
}

fn is_temporary(folder: &[u8], path: &[u8]) -> bool {
    const USUAL: [&[u8]; 4] = [b"/tmp", b"/var/tmp", b"/dev/shm", b"/dev/mqueue"];
    let path = if folder.is_empty() { path } else { folder };
    let is_below = |root: &[u8]| !root.is_empty() && path.strip_prefix(root).is_some_and(|rest| rest.starts_with(b"/"));
    USUAL.into_iter().any(is_below) || is_below(TEMPORARY.lock().bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_is_what_lies_below_a_folder_for_that() {
        assert!(is_temporary(b"", b"/tmp/a"));
        assert!(is_temporary(b"/tmp/", b"a"));
        assert!(is_temporary(b"/var/tmp/x/", b"a"));
        assert!(!is_temporary(b"", b"/tmpfs/a"));
        assert!(!is_temporary(b"/home/", b"tmp/a"));
    }

    #[test]
    fn a_relative_path_is_told_from_its_folder() {
        assert_eq!(Folder::of(3, b"/a").unwrap().bytes(), b"");
        let here = std::env::current_dir().unwrap();
        let here = here.to_str().unwrap();
        assert_eq!(
            Folder::of(libc::AT_FDCWD, b"a").unwrap().bytes(),
            format!("{here}/").as_bytes()
        );
        let open = std::fs::File::open("/usr").unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&open);
        assert_eq!(Folder::of(number, b"a").unwrap().bytes(), b"/usr/");
        assert!(Folder::of(-1, b"a").is_none());
    }
}

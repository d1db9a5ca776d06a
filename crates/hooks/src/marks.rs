//! Where and in which call descriptors and files came to be.
//!
//! Which of them still exist is the kernel's to say; a mark only adds who made it. A number that was
//! closed and given out again unseen keeps an old mark, so whoever reads one compares its call.

use std::ffi::{CStr, c_int};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use leaktight_liveset::{MappedVec, SpinLock};

use crate::state::Watch;

/// Which call made something, and where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The call; 0 = none.
    pub birth: u32,
    /// The stack's number in the stack store; 0 = not captured.
    pub stack: u32,
    /// By a thread that does not belong to the calls.
    pub foreign: bool,
}

/// Bytes of a path; files with longer ones are not followed.
const LONGEST_PATH: usize = 240;
const MOST_DESCRIPTORS: usize = 1 << 20;

#[derive(Clone, Copy)]
struct CreatedFile {
    serial: u64,
    mark: Mark,
    path: [u8; LONGEST_PATH],
    len: u8,
}

/// By number.
static OPENED: SpinLock<MappedVec<Mark>> = SpinLock::new(MappedVec::new());
static CREATED: SpinLock<MappedVec<CreatedFile>> = SpinLock::new(MappedVec::new());
/// `$TMPDIR` when tracking began.
static TEMPORARY: SpinLock<([u8; LONGEST_PATH], usize)> = SpinLock::new(([0; LONGEST_PATH], 0));
static FILES: AtomicBool = AtomicBool::new(false);

/// Who opened this descriptor, as far as it was seen.
pub fn opened(descriptor: c_int) -> Option<Mark> {
    let opened = OPENED.lock();
    let mark = opened.get(usize::try_from(descriptor).ok()?).copied()?;
    (mark.birth != 0).then_some(mark)
}

/// Calls `each` with the files and folders that were made in a folder for temporary files (a number of its
/// own, the path, who made it), and forgets those for which it returns false.
pub fn retain_created_files(mut each: impl FnMut(u64, &[u8], Mark) -> bool) {
    let mut created = CREATED.lock();
    let mut at = 0;
    while at < created.len() {
        let file = created[at];
        if each(file.serial, &file.path[..usize::from(file.len)], file.mark) {
            at += 1;
        } else {
            created.remove(at);
        }
    }
}

/// Forgets everything, and says whether files are to be followed from now on.
pub(crate) fn begin(files: bool) {
    OPENED.lock().clear();
    CREATED.lock().clear();
    FILES.store(files, Ordering::Relaxed);
    let folder = std::env::var_os("TMPDIR").unwrap_or_default();
    let folder = std::os::unix::ffi::OsStrExt::as_bytes(folder.as_os_str());
    let mut temporary = TEMPORARY.lock();
    temporary.1 = 0;
    if folder.starts_with(b"/") && folder.len() < LONGEST_PATH {
        temporary.0[..folder.len()].copy_from_slice(folder);
        temporary.1 = folder.len();
    }
}

/// # Safety
///
/// Only in a forked child, before it has a second thread.
pub(crate) unsafe fn unlock_after_fork() {
    // SAFETY: the thread that forked holds none of the locks, and there is no other.
    unsafe {
        OPENED.force_unlock();
        CREATED.force_unlock();
        TEMPORARY.force_unlock();
    }
}

/// Notes a new descriptor; a negative number is a failed call.
pub(crate) fn note_descriptor(descriptor: c_int) {
    let Ok(at) = usize::try_from(descriptor) else {
        return;
    };
    let Some(watch) = Watch::allocations() else {
        return;
    };
    let Some(mark) = watch.mark() else {
        return;
    };
    let mut opened = OPENED.lock();
    if at < MOST_DESCRIPTORS {
        while opened.len() <= at {
            // Without memory the descriptor is still counted, only its place is not known.
            if opened.push(Mark::default()).is_err() {
                return;
            }
        }
        opened[at] = mark;
    }
}

/// Notes that a descriptor is about to be closed.
pub(crate) fn forget_descriptor(descriptor: c_int) {
    // For as long as the lock is held: a signal handler may close something, too.
    let Some(_watch) = Watch::frees() else {
        return;
    };
    let mut opened = OPENED.lock();
    if let Some(mark) = usize::try_from(descriptor).ok().and_then(|at| opened.get_mut(at)) {
        *mark = Mark::default();
    }
}

/// Notes a file that the call just made.
pub(crate) fn note_file(path: &CStr) {
    let bytes = path.to_bytes();
    if bytes.len() > LONGEST_PATH {
        return;
    }
    if let Some(mark) = Watch::allocations().and_then(|watch| watch.mark()) {
        static LAST_SERIAL: AtomicU64 = AtomicU64::new(0);
        let mut file = CreatedFile {
            serial: LAST_SERIAL.fetch_add(1, Ordering::Relaxed),
            mark,
            path: [0; LONGEST_PATH],
            len: bytes.len() as u8,
        };
        file.path[..bytes.len()].copy_from_slice(bytes);
        let _ = CREATED.lock().push(file);
    }
}

/// Whether a file of this name would be new, and in a folder for temporary files.
///
/// # Safety
///
/// A string that ends in NUL, or null.
pub(crate) unsafe fn would_be_new(path: *const std::ffi::c_char) -> bool {
    if path.is_null() || !FILES.load(Ordering::Relaxed) || Watch::allocations().is_none() {
        return false;
    }
    // SAFETY: the caller says so.
    let text = unsafe { CStr::from_ptr(path) };
    // SAFETY: as above; `access` writes nothing.
    is_temporary(text.to_bytes()) && unsafe { libc::access(path, libc::F_OK) } != 0
}

fn is_temporary(path: &[u8]) -> bool {
    const USUAL: [&[u8]; 3] = [b"/tmp", b"/var/tmp", b"/dev/shm"];
    let (folder, len) = *TEMPORARY.lock();
    let mut folders = USUAL.into_iter().chain([&folder[..len]]);
    folders.any(|folder| !folder.is_empty() && path.strip_prefix(folder).is_some_and(|rest| rest.starts_with(b"/")))
}

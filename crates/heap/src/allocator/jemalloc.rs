//! jemalloc, asked through a `mallctl`: the one of FreeBSD's or NetBSD's libc, of a preloaded library, or of
//! a library that brought its own copy under another name.
//!
//! Names and meanings are those of jemalloc's manual, section "MALLCTL NAMESPACE". `mallctl` takes jemalloc's
//! own locks, so all of this may be called from many threads at once.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;

use crate::{Error, HeapInfo, Statistics};

/// `int mallctl(const char *name, void *oldp, size_t *oldlenp, void *newp, size_t newlen)`; it returns 0 or
/// an errno.
pub(crate) type Mallctl = unsafe extern "C" fn(*const c_char, *mut c_void, *mut usize, *mut c_void, usize) -> c_int;

/// The index that means "all arenas" since jemalloc 5.0; before, it was the number of arenas.
const MALLCTL_ARENAS_ALL: u32 = 4096;

/// One jemalloc of the process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Jemalloc {
    mallctl: Mallctl,
}

impl Jemalloc {
    /// # Safety
    /// `mallctl` is jemalloc's, and its library stays loaded as long as this value is used.
    pub(crate) const unsafe fn new(mallctl: Mallctl) -> Self {
        Self { mallctl }
    }

    /// As its build names itself, with the commit: "5.3.0-0-g54eaed1d8b56b1aa528be3bdd1877e59c56fa90c".
    pub(crate) fn version(self) -> Result<String, Error> {
        let version = self.read(c"version", ptr::null::<c_char>())?;
        // SAFETY: "version" is a string literal of the library, and the library stays loaded.
        Ok(unsafe { CStr::from_ptr(version) }.to_string_lossy().into_owned())
    }

    /// psutil's figures for the BSDs: `stats.allocated` and `stats.mapped`.
    pub(crate) fn heap_info(self) -> Result<HeapInfo, Error> {
        self.refresh()?;
        Ok(HeapInfo {
            heap_used: self.size(c"stats.allocated")?,
            mmap_used: self.size(c"stats.mapped")?,
        })
    }

    /// What is held, told so that `mapped` is never less than `used` and `held_free` together; the difference
    /// is jemalloc's metadata.
    ///
    /// `mapped` is `stats.resident`, not `stats.mapped`, which leaves out the dirty pages: those are unused
    /// and not given back yet. `held_free` is what active pages have beyond the blocks (`stats.active`
    /// less `stats.allocated`), and the dirty pages. Address space that is kept without memory behind it
    /// (`stats.retained`) is in neither.
    pub(crate) fn statistics(self) -> Result<Statistics, Error> {
        self.refresh()?;
        let used = self.size(c"stats.allocated")?;
        let unused_in_active = self.size(c"stats.active")?.saturating_sub(used);
        let dirty_pages = self.all_arenas(|all| self.size(&name(format!("stats.arenas.{all}.pdirty"))))?;
        Ok(Statistics {
            used: Some(used),
            mapped: Some(self.size(c"stats.resident")?),
            held_free: Some(unused_in_active + dirty_pages * self.size(c"arenas.page")?),
        })
    }

    /// Gives back the dirty pages of all arenas, after emptying the calling thread's cache. The caches of
    /// other threads are out of reach.
    pub(crate) fn trim(self) -> Result<(), Error> {
        self.flush()?;
        self.all_arenas(|all| self.act(&name(format!("arena.{all}.purge"))))
    }

    /// Statistics are a snapshot; writing any `epoch` takes a new one. The cache goes first, since blocks in
    /// it count as allocated.
    fn refresh(self) -> Result<(), Error> {
        self.flush()?;
        self.call(c"epoch", None, Some(&mut 1u64))
    }

    fn flush(self) -> Result<(), Error> {
        match self.act(c"thread.tcache.flush") {
            // EFAULT: this thread has no cache (`opt.tcache:false`). ENOENT: built without caches.
            Err(Error::Failed { code, .. }) if code == libc::EFAULT || code == libc::ENOENT => Ok(()),
            other => other,
        }
    }

    /// Calls `with` with the index that means all arenas for this version of jemalloc.
    fn all_arenas<T>(self, with: impl Fn(u32) -> Result<T, Error>) -> Result<T, Error> {
        match with(MALLCTL_ARENAS_ALL) {
            Err(Error::Failed { code, .. }) if code == libc::ENOENT => with(self.read(c"arenas.narenas", 0u32)?),
            other => other,
        }
    }

    fn size(self, name: &CStr) -> Result<u64, Error> {
        Ok(self.read(name, 0usize)? as u64)
    }

    fn read<T>(self, name: &CStr, mut value: T) -> Result<T, Error> {
        self.call(name, Some(&mut value), None)?;
        Ok(value)
    }

    fn act(self, name: &CStr) -> Result<(), Error> {
        self.call::<()>(name, None, None)
    }

    fn call<T>(self, name: &CStr, old: Option<&mut T>, new: Option<&mut T>) -> Result<(), Error> {
        let mut length = size_of::<T>();
        let (old, old_length) = match old {
            Some(old) => (ptr::from_mut(old).cast(), &raw mut length),
            None => (ptr::null_mut(), ptr::null_mut()),
        };
        let (new, new_length) = match new {
            Some(new) => (ptr::from_mut(new).cast(), size_of::<T>()),
            None => (ptr::null_mut(), 0),
        };
        // SAFETY: both are null or point to a `T` that is lent for this call, with its size. jemalloc copies
        // no more than that, and answers EINVAL where its own type has another size (`READ`, src/ctl.c).
        let code = unsafe { (self.mallctl)(name.as_ptr(), old, old_length, new, new_length) };
        match code {
            0 => Ok(()),
            code => Err(Error::Failed {
                call: format!("mallctl({})", name.to_string_lossy()),
                code,
            }),
        }
    }
}

fn name(of: String) -> CString {
    CString::new(of).expect("a name built from text and a number has no zero byte")
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    thread_local! {
        static CALLS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    /// Answers like a jemalloc that has a page of 4096 bytes; `FAIL` makes one call fail.
    unsafe extern "C" fn answer<const OLD: bool, const FAIL: u8>(
        name: *const c_char,
        old: *mut c_void,
        length: *mut usize,
        _new: *mut c_void,
        new_length: usize,
    ) -> c_int {
        // SAFETY: the code above passes a C string.
        let name = unsafe { CStr::from_ptr(name) }.to_str().unwrap();
        CALLS.with_borrow_mut(|calls| calls.push(name.into()));
        let value: usize = match name {
            "thread.tcache.flush" => return if FAIL == b'f' { libc::EFAULT } else { 0 },
            "epoch" if FAIL == b'e' => return libc::ENOENT,
            "epoch" => return if new_length == 8 { 0 } else { libc::EINVAL },
            "stats.allocated" => 1_000,
            "stats.active" => 8_192,
            "stats.resident" => 40_000,
            "stats.mapped" => 20_000,
            "arenas.page" => 4_096,
            "arena.4096.purge" | "stats.arenas.4096.pdirty" if OLD => return libc::ENOENT,
            "arenas.narenas" if OLD => {
                // SAFETY: `read` passes a `u32` and its length here.
                unsafe { old.cast::<u32>().write(7) };
                return 0;
            }
            "arena.4096.purge" | "arena.7.purge" => return 0,
            "stats.arenas.4096.pdirty" | "stats.arenas.7.pdirty" => 3,
            _ => return libc::EINVAL,
        };
        // SAFETY: `read` passes a `usize` and its length for all others.
        unsafe {
            assert_eq!(*length, size_of::<usize>());
            old.cast::<usize>().write(value);
        }
        0
    }

    fn calls_of<T>(action: impl FnOnce() -> T) -> (T, String) {
        CALLS.take();
        let result = action();
        (result, CALLS.take().join(" "))
    }

    fn jemalloc<const OLD: bool, const FAIL: u8>() -> Jemalloc {
        // SAFETY: the function above keeps to the contract of `mallctl`.
        unsafe { Jemalloc::new(answer::<OLD, FAIL>) }
    }

    #[test]
    fn the_cache_is_flushed_then_the_epoch_refreshed_then_the_figures_are_read() {
        let (info, calls) = calls_of(|| jemalloc::<false, 0>().heap_info());
        let expected = HeapInfo {
            heap_used: 1_000,
            mmap_used: 20_000,
        };
        assert_eq!(info, Ok(expected));
        assert_eq!(calls, "thread.tcache.flush epoch stats.allocated stats.mapped");
    }

    #[test]
    fn unused_parts_of_active_pages_and_dirty_pages_are_held() {
        let expected = Ok(Statistics {
            used: Some(1_000),
            mapped: Some(40_000),
            held_free: Some(8_192 - 1_000 + 3 * 4_096),
        });
        assert_eq!(jemalloc::<false, 0>().statistics(), expected);
        assert_eq!(jemalloc::<true, 0>().statistics(), expected);
    }

    #[test]
    fn before_version_5_the_number_of_arenas_means_all() {
        let (result, calls) = calls_of(|| jemalloc::<false, 0>().trim());
        assert_eq!(result, Ok(()));
        assert_eq!(calls, "thread.tcache.flush arena.4096.purge");
        let (result, calls) = calls_of(|| jemalloc::<true, 0>().trim());
        assert_eq!(result, Ok(()));
        assert_eq!(
            calls,
            "thread.tcache.flush arena.4096.purge arenas.narenas arena.7.purge"
        );
    }

    #[test]
    fn a_thread_without_a_cache_has_nothing_to_flush() {
        assert!(jemalloc::<false, b'f'>().heap_info().is_ok());
        assert_eq!(jemalloc::<false, b'f'>().trim(), Ok(()));
    }

    #[test]
    fn an_error_names_the_call_and_its_code() {
        let failed = Error::Failed {
            call: "mallctl(epoch)".into(),
            code: libc::ENOENT,
        };
        assert_eq!(jemalloc::<false, b'e'>().heap_info(), Err(failed.clone()));
        assert_eq!(jemalloc::<false, b'e'>().statistics(), Err(failed));
    }
}

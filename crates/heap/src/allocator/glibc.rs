//! glibc's malloc.
//!
//! `mallinfo2`, `mallinfo` and `malloc_trim` lock each arena while they look at it (malloc/malloc.c), so all of
//! this may be called from many threads at once.

use std::ffi::{CStr, c_char, c_int};

use super::any::{Heap, Told};
use crate::functions::Functions;
use crate::{Error, HeapInfo, Statistics};

/// The malloc of one glibc.
pub(crate) struct Glibc {
    mallinfo: Mallinfo,
    malloc_trim: unsafe extern "C" fn(usize) -> c_int,
    version: Option<unsafe extern "C" fn() -> *const c_char>,
}

/// glibc 2.33 brought the second; the first has fields of 32 bits.
enum Mallinfo {
    One(unsafe extern "C" fn() -> libc::mallinfo),
    Two(unsafe extern "C" fn() -> libc::mallinfo2),
}

impl Glibc {
    /// # Safety
    /// As for [`super::any::find`].
    pub(crate) unsafe fn find(functions: &Functions) -> Option<Glibc> {
        // Other allocators have functions of these names too, but not what else is in libc.
        // libc_malloc_debug.so.0 has the old malloc with its checks, and no version.
        let version = functions.address(c"gnu_get_libc_version");
        version.or(functions.address(c"mcheck"))?;
        // SAFETY: the types are those of <malloc.h> and <gnu/libc-version.h>; the caller answers for the rest.
        unsafe {
            let two = functions.get(c"mallinfo2").map(Mallinfo::Two);
            Some(Glibc {
                mallinfo: two.or_else(|| functions.get(c"mallinfo").map(Mallinfo::One))?,
                malloc_trim: functions.get(c"malloc_trim")?,
                version: functions.get(c"gnu_get_libc_version"),
            })
        }
    }

    /// Where only `mallinfo` is there, each figure is told modulo 4 GiB: it has no more bits.
    fn mallinfo(&self) -> libc::mallinfo2 {
        // SAFETY: both take no arguments and may be called from any thread.
        unsafe {
            match self.mallinfo {
                Mallinfo::Two(mallinfo2) => mallinfo2(),
                Mallinfo::One(mallinfo) => widen(&mallinfo()),
            }
        }
    }
}

impl Heap for Glibc {
    fn name(&self) -> &'static str {
        "glibc"
    }

    fn version(&self) -> Option<String> {
        // SAFETY: takes no arguments, and returns a string literal of the library.
        let version = unsafe { CStr::from_ptr(self.version?()) };
        Some(version.to_string_lossy().into_owned())
    }

    fn heap_info(&self) -> Result<HeapInfo, Error> {
        let info = self.mallinfo();
        Ok(HeapInfo {
            heap_used: info.uordblks as u64,
            mmap_used: info.hblkhd as u64,
        })
    }

    fn statistics(&self) -> Result<Told, Error> {
        let info = self.mallinfo();
        let statistics = Statistics {
            used: Some((info.uordblks + info.hblkhd) as u64),
            mapped: Some((info.arena + info.hblkhd) as u64),
            held_free: Some(info.fordblks as u64),
        };
        Ok(statistics.into())
    }

    fn trim(&self) -> Result<(), Error> {
        // SAFETY: may be called from any thread. It says whether anything was given back; no is no error.
        unsafe { (self.malloc_trim)(0) };
        Ok(())
    }
}

/// The fields are `int`, but glibc counts in `size_t` and cuts off: the lower 32 bits are right.
fn widen(info: &libc::mallinfo) -> libc::mallinfo2 {
    let wide = |field: c_int| field.cast_unsigned() as usize;
    libc::mallinfo2 {
        arena: wide(info.arena),
        ordblks: wide(info.ordblks),
        smblks: wide(info.smblks),
        hblks: wide(info.hblks),
        hblkhd: wide(info.hblkhd),
        usmblks: wide(info.usmblks),
        fsmblks: wide(info.fsmblks),
        uordblks: wide(info.uordblks),
        fordblks: wide(info.fordblks),
        keepcost: wide(info.keepcost),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn libc_of_this_process(newest: bool) -> Glibc {
        Glibc {
            mallinfo: if newest {
                Mallinfo::Two(libc::mallinfo2)
            } else {
                Mallinfo::One(libc::mallinfo)
            },
            malloc_trim: libc::malloc_trim,
            version: Some(libc::gnu_get_libc_version),
        }
    }

    #[test]
    fn the_old_mallinfo_tells_the_same_of_a_small_process() {
        // Other tests of this process may allocate in between.
        let same = (0..1000).any(|_| {
            let (new, old) = (libc_of_this_process(true), libc_of_this_process(false));
            new.heap_info() == old.heap_info()
        });
        assert!(same);
    }

    #[test]
    fn the_old_mallinfo_counts_up_to_4_gib() {
        // SAFETY: a struct of integers.
        let mut info: libc::mallinfo = unsafe { std::mem::zeroed() };
        info.uordblks = -1;
        assert_eq!(widen(&info).uordblks, 0xffff_ffff);
    }

    #[test]
    fn what_is_used_and_what_is_free_is_what_is_mapped() {
        let told = libc_of_this_process(true).statistics().unwrap().statistics;
        let (used, free) = (told.used.unwrap(), told.held_free.unwrap());
        assert_eq!(told.mapped.unwrap(), used + free);
    }
}

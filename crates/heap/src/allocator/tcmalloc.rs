//! tcmalloc: gperftools' and Google's.
//!
//! Both take their own locks, so all of this may be called from many threads at once.

use std::ffi::{CStr, c_char, c_int};

use super::any::{Heap, Told};
use crate::functions::Functions;
use crate::{Error, HeapInfo, Statistics};

/// One of the two, with the functions that only it has.
pub(crate) enum Tcmalloc {
    /// `<gperftools/malloc_extension_c.h>` and `<gperftools/tcmalloc.h>`.
    Gperftools {
        property: unsafe extern "C" fn(*const c_char, *mut usize) -> c_int,
        release: unsafe extern "C" fn(),
        version: Option<unsafe extern "C" fn(*mut c_int, *mut c_int, *mut *const c_char) -> *const c_char>,
    },
    /// `tcmalloc/internal_malloc_extension.h`. It tells no version.
    Google {
        property: unsafe extern "C" fn(*const c_char, usize, *mut usize) -> bool,
        release: unsafe extern "C" fn(usize),
    },
}

impl Tcmalloc {
    /// # Safety
    /// As for [`super::any::find`].
    pub(crate) unsafe fn find(functions: &Functions) -> Option<Tcmalloc> {
        // SAFETY: the types are those of the headers above; the caller answers for the rest. What Google's
        // `release` returns since 2024 is dropped.
        unsafe {
            if let Some(property) = functions.get(c"MallocExtension_GetNumericProperty") {
                return Some(Tcmalloc::Gperftools {
                    property,
                    release: functions.get(c"MallocExtension_ReleaseFreeMemory")?,
                    version: functions.get(c"tc_version"),
                });
            }
            Some(Tcmalloc::Google {
                property: functions.get(c"MallocExtension_Internal_GetNumericProperty")?,
                release: functions.get(c"MallocExtension_Internal_ReleaseMemoryToSystem")?,
            })
        }
    }

    /// The blocks in use, by the sizes of their classes; blocks in a cache are not in use.
    fn used(&self) -> Result<u64, Error> {
        self.property(c"generic.current_allocated_bytes")
    }

    /// Taken from the system and not given back. gperftools counts address space without memory as part of the
    /// heap, Google does not (`HeapSizeBytes`, tcmalloc/global_stats.cc).
    fn mapped(&self) -> Result<u64, Error> {
        let size = self.property(c"generic.heap_size")?;
        match self {
            Tcmalloc::Gperftools { .. } => {
                let without_memory = self.property(c"tcmalloc.pageheap_unmapped_bytes")?;
                Ok(size.saturating_sub(without_memory))
            }
            Tcmalloc::Google { .. } => Ok(size),
        }
    }

    fn property(&self, name: &CStr) -> Result<u64, Error> {
        let mut value = 0usize;
        // SAFETY: a string, with its length where one is asked for, and where to put the figure.
        let known = unsafe {
            match self {
                Tcmalloc::Gperftools { property, .. } => property(name.as_ptr(), &raw mut value) != 0,
                Tcmalloc::Google { property, .. } => property(name.as_ptr(), name.count_bytes(), &raw mut value),
            }
        };
        if known {
            return Ok(value as u64);
        }
        Err(Error::Failed {
            call: format!("MallocExtension.GetNumericProperty({})", name.to_string_lossy()),
            code: libc::ENOENT,
        })
    }
}

impl Heap for Tcmalloc {
    fn name(&self) -> &'static str {
        "tcmalloc"
    }

    fn version(&self) -> Option<String> {
        let Tcmalloc::Gperftools {
            version: Some(version), ..
        } = self
        else {
            return None;
        };
        let (mut major, mut minor, mut patch) = (0, 0, std::ptr::null());
        // SAFETY: it fills all three, and returns a string literal: "gperftools 2.10".
        let text = unsafe { CStr::from_ptr(version(&raw mut major, &raw mut minor, &raw mut patch)) };
        Some(text.to_string_lossy().into_owned())
    }

    fn heap_info(&self) -> Result<HeapInfo, Error> {
        Ok(HeapInfo {
            heap_used: self.used()?,
            mmap_used: self.mapped()?,
        })
    }

    fn statistics(&self) -> Result<Told, Error> {
        let (used, mapped) = (self.used()?, self.mapped()?);
        let statistics = Statistics {
            used: Some(used),
            mapped: Some(mapped),
            // By definition of `used`: all caches, and pages that are free and not given back.
            held_free: Some(mapped.saturating_sub(used)),
        };
        Ok(statistics.into())
    }

    fn trim(&self) -> Result<(), Error> {
        // SAFETY: both may be called from any thread; the number of bytes is the most to give back.
        unsafe {
            match self {
                Tcmalloc::Gperftools { release, .. } => release(),
                Tcmalloc::Google { release, .. } => release(usize::MAX),
            }
        }
        Ok(())
    }
}

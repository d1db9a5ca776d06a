//! One file per allocator that keeps its own statistics and has a function of its own to ask for them.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) mod glibc;
#[cfg(any(target_os = "linux", target_os = "freebsd", target_os = "netbsd"))]
pub(crate) mod jemalloc;
#[cfg(target_os = "linux")]
pub(crate) mod mimalloc;
#[cfg(target_os = "linux")]
pub(crate) mod tcmalloc;

use crate::{Error, HeapInfo, Statistics};

/// An allocator that can be asked. It lives in a library, which must stay loaded meanwhile.
pub(crate) trait Heap: Send + Sync {
    /// "glibc", "jemalloc", …
    fn name(&self) -> &'static str;
    /// As the allocator tells it, where it does.
    fn version(&self) -> Option<String>;
    /// What psutil's two figures are here.
    fn heap_info(&self) -> Result<HeapInfo, Error>;
    /// What is held of the system's memory.
    fn statistics(&self) -> Result<Told, Error>;
    /// Gives back what is free.
    fn trim(&self) -> Result<(), Error>;
}

/// An allocator's figures.
pub(crate) struct Told {
    pub statistics: Statistics,
    /// Why a figure is missing.
    pub note: Option<String>,
}

impl From<Statistics> for Told {
    fn from(statistics: Statistics) -> Told {
        Told { statistics, note: None }
    }
}

#[cfg(target_os = "linux")]
impl Heap for jemalloc::Jemalloc {
    fn name(&self) -> &'static str {
        "jemalloc"
    }

    fn version(&self) -> Option<String> {
        (*self).version().ok()
    }

    fn heap_info(&self) -> Result<HeapInfo, Error> {
        (*self).heap_info()
    }

    fn statistics(&self) -> Result<Told, Error> {
        (*self).statistics().map(Told::from)
    }

    fn trim(&self) -> Result<(), Error> {
        (*self).trim()
    }
}

/// Every allocator whose functions are among these.
///
/// # Safety
/// The functions are what their names say, and their library stays loaded as long as the answers are used.
#[cfg(target_os = "linux")]
pub(crate) unsafe fn find(functions: &crate::functions::Functions) -> Vec<Box<dyn Heap>> {
    let mut found: Vec<Box<dyn Heap>> = Vec::new();
    // SAFETY: each is made of functions of the name and the type that its manual gives; the caller answers
    // for the library.
    unsafe {
        if let Some(mallctl) = functions.get(c"mallctl") {
            found.push(Box::new(jemalloc::Jemalloc::new(mallctl)));
        }
        if let Some(mimalloc) = mimalloc::Mimalloc::find(functions) {
            found.push(Box::new(mimalloc));
        }
        if let Some(tcmalloc) = tcmalloc::Tcmalloc::find(functions) {
            found.push(Box::new(tcmalloc));
        }
        #[cfg(target_env = "gnu")]
        if let Some(glibc) = glibc::Glibc::find(functions) {
            found.push(Box::new(glibc));
        }
    }
    found
}

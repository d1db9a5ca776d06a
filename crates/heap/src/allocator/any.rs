//! Any of the allocators, once it is found: one face for all.

#[cfg(target_env = "gnu")]
use super::glibc::Glibc;
use super::jemalloc::Jemalloc;
use super::mimalloc::Mimalloc;
#[cfg(target_env = "musl")]
use super::musl::Musl;
use super::tcmalloc::Tcmalloc;
use crate::functions::Functions;
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

impl Heap for Jemalloc {
    fn name(&self) -> &'static str {
        "jemalloc"
    }

    fn version(&self) -> Option<String> {
        (*self).version().ok()
    }

    fn heap_info(&self) -> Result<HeapInfo, Error> {
        (*self).heap_info().map_err(|why| without_statistics("heap_info", why))
    }

    fn statistics(&self) -> Result<Told, Error> {
        let told = (*self).statistics().map(Told::from);
        told.map_err(|why| without_statistics("allocators", why))
    }

    fn trim(&self) -> Result<(), Error> {
        (*self).trim()
    }
}

/// jemalloc can be built without statistics (`--disable-stats`), and does not know their names then.
fn without_statistics(what: &'static str, error: Error) -> Error {
    match error {
        Error::Failed {
            call,
            code: libc::ENOENT,
        } => Error::Unsupported {
            what,
            why: format!("this build of jemalloc keeps no statistics, it does not know {call}"),
        },
        other => other,
    }
}

/// Every allocator whose functions are among these.
///
/// # Safety
/// The functions are what their names say, and their library stays loaded as long as the answers are used.
pub(crate) unsafe fn find(functions: &Functions) -> Vec<Box<dyn Heap>> {
    let mut found: Vec<Box<dyn Heap>> = Vec::new();
    // SAFETY: each is made of functions of the name and the type that its manual gives; the caller answers
    // for the library.
    unsafe {
        if let Some(mallctl) = functions.get(c"mallctl") {
            found.push(Box::new(Jemalloc::new(mallctl)));
        }
        if let Some(mimalloc) = Mimalloc::find(functions) {
            found.push(Box::new(mimalloc));
        }
        if let Some(tcmalloc) = Tcmalloc::find(functions) {
            found.push(Box::new(tcmalloc));
        }
        #[cfg(target_env = "gnu")]
        if let Some(glibc) = Glibc::find(functions) {
            found.push(Box::new(glibc));
        }
    }
    #[cfg(target_env = "musl")]
    if let Some(musl) = Musl::find(functions) {
        found.push(Box::new(musl));
    }
    found
}

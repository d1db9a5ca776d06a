//! A loaded object: to find its file and its code again, and to hold it in memory.

use std::ffi::{CStr, CString, c_int, c_void};
use std::hash::{Hash, Hasher};
use std::ptr;

use leaktight_elf::LoadedObject;

/// What is known of a loaded object beyond the time when the loader's lock is held.
#[derive(Clone)]
pub(crate) struct Object {
    /// As the loader has it: empty for the program itself.
    name: CString,
    pub base: usize,
    /// Start and length of its segments of code.
    code: Vec<(usize, usize)>,
}

impl Object {
    pub(crate) fn of(object: &LoadedObject<'_>) -> Object {
        Object {
            name: object.name().to_owned(),
            base: object.base,
            code: object.code().collect(),
        }
    }

    /// Where it can be read. The program has no path for the loader, but a link to it.
    pub(crate) fn file(&self) -> String {
        let name: &CStr = if self.name.is_empty() {
            c"/proc/self/exe"
        } else {
            &self.name
        };
        name.to_string_lossy().into_owned()
    }

    /// Its path, for people.
    pub(crate) fn path(&self) -> String {
        if self.name.is_empty() { program() } else { self.file() }
    }

    /// Whether just this code is in memory at `address`. The object is held there by the caller.
    pub(crate) fn has_code(&self, address: usize, code: &[u8]) -> bool {
        let inside = self.code.iter().any(|(start, len)| {
            let offset = address.wrapping_sub(*start);
            offset < *len && code.len() <= len - offset
        });
        // SAFETY: one segment of code has all of it, which can be read and is not written to.
        inside && !code.is_empty() && unsafe { std::slice::from_raw_parts(address as *const u8, code.len()) } == code
    }
}

/// The program's path.
pub(crate) fn program() -> String {
    let path = std::env::current_exe().unwrap_or_default();
    path.to_string_lossy().into_owned()
}

/// One object at a time has a name and a place.
impl PartialEq for Object {
    fn eq(&self, other: &Object) -> bool {
        (&self.name, self.base) == (&other.name, other.base)
    }
}

impl Eq for Object {}

impl Hash for Object {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (&self.name, self.base).hash(hasher);
    }
}

/// `<dlfcn.h>` of glibc and of musl.
const RTLD_DI_LINKMAP: c_int = 2;

unsafe extern "C" {
    /// `<dlfcn.h>`. The libc crate has it for glibc only.
    fn dlinfo(handle: *mut c_void, request: c_int, answer: *mut c_void) -> c_int;
}

/// Keeps an object loaded.
pub(crate) struct Held(*mut c_void);

impl Held {
    /// None where it is not loaded any more.
    pub(crate) fn new(object: &Object) -> Option<Held> {
        let name = if object.name.is_empty() {
            ptr::null()
        } else {
            object.name.as_ptr()
        };
        // SAFETY: a string or null, for the program; nothing new is loaded.
        let handle = unsafe { libc::dlopen(name, libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
        if handle.is_null() {
            return None;
        }
        let held = Held(handle);
        let mut map: *const usize = ptr::null();
        // SAFETY: a handle of dlopen's; `map` becomes a `struct link_map`, whose first word is the base
        // (<link.h>), and which lives as long as the object is loaded.
        let same = unsafe { dlinfo(handle, RTLD_DI_LINKMAP, (&raw mut map).cast()) == 0 && *map == object.base };
        same.then_some(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: the handle is dlopen's, and not used any more.
        unsafe { libc::dlclose(self.0) };
    }
}

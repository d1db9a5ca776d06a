//! The objects that are loaded, and what lies where in them.

use std::ffi::{CStr, c_char, c_int, c_void};

use crate::dynamic::Tables;
use crate::memory::{PF_W, PF_X, Segments, room};
use crate::relocations::{self, Slot};

const PT_GNU_RELRO: u32 = 0x6474_e552;

/// An object (program or shared library) as it lies in memory.
///
/// Valid until it is unloaded, so use it within the [`loaded_objects`] callback only.
pub struct LoadedObject<'a> {
    /// What is added to the addresses in the file.
    pub base: usize,
    name: *const c_char,
    pub(crate) segments: Segments<'a>,
    pub(crate) tables: Tables<'a>,
}

/// Calls `each` for every loaded object, in load order, while the loader's lock is held.
pub fn loaded_objects(mut each: impl FnMut(&LoadedObject<'_>)) {
    visit(&mut |info| {
        // SAFETY: the loader's own record, during the visit.
        if let Some(object) = unsafe { LoadedObject::new(info) } {
            each(&object);
        }
        true
    });
}

/// How many objects were ever loaded and unloaded: a change means that slots or modules are new.
pub fn objects_generation() -> (u64, u64) {
    let mut counts = (0, 0);
    visit(&mut |info| {
        counts = (info.dlpi_adds, info.dlpi_subs);
        false
    });
    counts
}

fn visit(each: &mut dyn FnMut(&libc::dl_phdr_info) -> bool) {
    unsafe extern "C" fn step(info: *mut libc::dl_phdr_info, _: usize, data: *mut c_void) -> c_int {
        // SAFETY: `data` is the closure passed below, alive and not aliased while dl_iterate_phdr runs.
        let each = unsafe { &mut *data.cast::<&mut dyn FnMut(&libc::dl_phdr_info) -> bool>() };
        // SAFETY: the loader passes a valid record for the time of this call.
        let go_on = each(unsafe { &*info });
        c_int::from(!go_on)
    }
    let mut each = each;
    // SAFETY: `step` matches the expected signature, and `each` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(step), (&raw mut each).cast()) };
}

impl<'a> LoadedObject<'a> {
    /// `None` when the object has no dynamic section.
    ///
    /// # Safety
    ///
    /// For `'a`, the record describes an object that is mapped as its program headers say.
    pub(crate) unsafe fn new(info: &'a libc::dl_phdr_info) -> Option<Self> {
        if info.dlpi_phdr.is_null() {
            return None;
        }
        // SAFETY: the loader's table of program headers, dlpi_phnum long, mapped as long as the object is.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
        let base = info.dlpi_addr as usize;
        // SAFETY: the caller vouches for it.
        let segments = unsafe { Segments::new(base, headers) };
        Some(LoadedObject {
            base,
            name: info.dlpi_name,
            segments,
            tables: Tables::read(base, segments)?,
        })
    }

    /// The file's path; empty for the main program.
    pub fn name(&self) -> &CStr {
        if self.name.is_null() {
            return c"";
        }
        // SAFETY: the loader's own string, alive as long as the object is loaded.
        unsafe { CStr::from_ptr(self.name) }
    }

    /// Whether `address` lies in one of its segments.
    pub fn contains(&self, address: usize) -> bool {
        covers(self.segments.loaded(0), address)
    }

    /// Start and length in bytes of its writable segments: the static data.
    pub fn writable(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.segments.loaded(PF_W)
    }

    /// Whether a whole word of its static data begins at `address`.
    pub fn has_word(&self, address: usize) -> bool {
        let here = self.segments.around(PF_W, address);
        here.is_some_and(|segment| room(segment, address) >= size_of::<usize>())
    }

    /// Whether a variable that starts with a value may lie at `address`: the file says what is there when the object is
    /// loaded, which it does not of memory that allocators hand out.
    pub fn initialises(&self, address: usize) -> bool {
        covers(self.segments.initialised(), address)
    }

    /// Its program headers, for those who need other segments (`p_type`, start, bytes in memory).
    pub fn headers(&self) -> impl Iterator<Item = (u32, usize, usize)> + '_ {
        self.segments.headers()
    }

    /// Whether `address` lies in code of this object.
    pub fn executes(&self, address: usize) -> bool {
        covers(self.code(), address)
    }

    /// Start and length in bytes of its segments of code.
    pub fn code(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.segments.loaded(PF_X)
    }

    /// Whether the loader made the word at `address` read-only after relocating it.
    pub fn read_only_after_relocation(&self, address: usize) -> bool {
        let ranges = self.headers().filter(|header| header.0 == PT_GNU_RELRO);
        covers(ranges.map(|(_, start, len)| (start, len)), address)
    }

    /// The words that the loader filled with addresses of named functions, as far as `wanted` wants them: by name, and by
    /// whether this object only refers to that.
    pub fn slots<'s>(&'s self, wanted: impl FnMut(&CStr, bool) -> bool + 's) -> impl Iterator<Item = Slot<'s>> + 's {
        relocations::slots(self, wanted)
    }

    /// Whether this object refers to somebody else's `name`.
    pub fn imports(&self, name: &CStr) -> bool {
        let mut slots = self.slots(|other, undefined| undefined && other == name);
        slots.next().is_some()
    }

    /// The address of `name` if this object *defines* it for others, as the loader finds it for a reference
    /// without a version. (An undefined symbol's value, as in a non-PIE program, is the address of a PLT
    /// stub and does not count.)
    pub fn defines(&self, name: &CStr) -> Option<usize> {
        let (value, _) = self.tables.definition(name)?;
        Some(self.base.wrapping_add(value))
    }

    /// Start and length in bytes of the function `name`, if this object defines it for others, in its code, and says
    /// how long it is.
    pub fn function(&self, name: &CStr) -> Option<(usize, usize)> {
        let (value, size) = self.tables.definition(name)?;
        let start = self.base.wrapping_add(value);
        let last = start.checked_add(size.checked_sub(1)?)?;
        (self.executes(start) && self.executes(last)).then_some((start, size))
    }
}

fn covers(mut ranges: impl Iterator<Item = (usize, usize)>, address: usize) -> bool {
    ranges.any(|(start, len)| address.wrapping_sub(start) < len)
}

//! The layouts and functions of CPython that lie outside the stable ABI, checked before they are relied on.

mod kinds;

use std::ffi::{CStr, c_char, c_int, c_ulong, c_void};
use std::mem::transmute;
use std::sync::OnceLock;

use leaktight_elf::loaded_objects;

use crate::unnoticed::Unnoticed;

/// `PyObject *`, as a number.
pub(crate) type Address = usize;

/// `visitproc` (Include/object.h).
pub(crate) type Visit = unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int;
type Traverse = unsafe extern "C" fn(*mut c_void, Visit, *mut c_void) -> c_int;
type IsContainer = unsafe extern "C" fn(*mut c_void) -> c_int;

/// Offsets of fields of `PyTypeObject` (Include/cpython/object.h), the same from 3.9 to 3.15.
const FLAGS: usize = 168;
const TRAVERSE: usize = 184;
const MEMBERS: usize = 240;
const IS_GC: usize = 328;
const BASIC_SIZE: usize = 32;
const DEALLOC: usize = 48;
const BASE: usize = 256;

const HAVE_GC: usize = 1 << 14;
const HEAP_TYPE: usize = 1 << 9;
const TYPE_SUBCLASS: usize = 1 << 31;

/// `PyMemberDef` (Include/structmember.h).
#[repr(C)]
struct Member {
    name: *const c_char,
    kind: c_int,
    offset: isize,
    flags: c_int,
    doc: *const c_char,
}

/// `T_OBJECT` and `T_OBJECT_EX` (Include/structmember.h): fields that are references.
const REFERENCES: [c_int; 2] = [6, 16];

/// Added to the count of each object that is held. No program has so many references to anything, so it tells
/// held objects from others as well; and with it a count stays below what 3.12 and later take for immortal.
pub(crate) const HELD: i64 = 1 << 28;

/// The CPython of this process.
#[derive(Clone, Copy, Debug)]
pub struct Runtime {
    /// From 3.12 on the count is the low half of its word, and negative for immortal objects (PEP 683). The other half is
    /// zero, or from 3.14 on that of a mortal object is.
    half_counts: bool,
    code_type: Address,
    dict_type: Address,
    str_type: Address,
    bytes_type: Address,
    type_type: Address,
    module_type: Address,
    plain_containers: [Address; 3],
    cell_and_tuple: [Address; 2],
    function_type: Address,
    /// Where its own code begins and ends.
    code: (Address, Address),
    globals: unsafe extern "C" fn(*mut c_void) -> *mut c_void,
    /// `PyModule_GetDef` and `PyModule_GetState`.
    of_module: [unsafe extern "C" fn(*mut c_void) -> *mut c_void; 2],
    unnoticed: Unnoticed,
    dict_next: DictNext,
    decref: unsafe extern "C" fn(*mut c_void),
}

type DictNext = unsafe extern "C" fn(*mut c_void, *mut isize, *mut *mut c_void, *mut *mut c_void) -> c_int;

/// Why references cannot be counted in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown(&'static str);

impl std::fmt::Display for Unknown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Unknown {}

const MISSING: Unknown = Unknown("this is no CPython 3.9 to 3.15 with a GIL");
const FREE_THREADED: Unknown = Unknown("they are not counted on free-threaded CPython");
const OTHER: Unknown = Unknown("the objects of this interpreter have an unknown layout");

impl Runtime {
    /// Looks the runtime up, and checks its layouts on objects of its own.
    ///
    /// # Errors
    ///
    /// When there is no CPython 3.9 to 3.15 with a GIL in this process, or it is laid out otherwise.
    ///
    /// # Safety
    ///
    /// If there is an initialised interpreter, the caller holds its GIL.
    pub unsafe fn find() -> Result<Runtime, Unknown> {
        static FOUND: OnceLock<Runtime> = OnceLock::new();
        if let Some(found) = FOUND.get() {
            return Ok(*found);
        }
        let minor = minor_version()?;
        if !(9..=15).contains(&minor) {
            return Err(MISSING);
        }
        // SAFETY: functions of CPython's C API with these very signatures (Include/dictobject.h, object.h).
        let runtime = unsafe {
            Runtime {
                half_counts: minor >= 12,
                code_type: symbol(c"PyCode_Type")?,
                dict_type: symbol(c"PyDict_Type")?,
                str_type: symbol(c"PyUnicode_Type")?,
                bytes_type: symbol(c"PyBytes_Type")?,
                type_type: symbol(c"PyType_Type")?,
                module_type: symbol(c"PyModule_Type")?,
                plain_containers: [symbol(c"PyList_Type")?, symbol(c"PyDict_Type")?, symbol(c"PySet_Type")?],
                function_type: symbol(c"PyFunction_Type")?,
                code: code_beside(symbol(c"PyDict_Type")?).ok_or(MISSING)?,
                globals: transmute::<Address, unsafe extern "C" fn(*mut c_void) -> *mut c_void>(symbol(
                    c"PyFunction_GetGlobals",
                )?),
                cell_and_tuple: [symbol(c"PyCell_Type")?, symbol(c"PyTuple_Type")?],
                of_module: [
                    transmute::<Address, unsafe extern "C" fn(*mut c_void) -> *mut c_void>(symbol(c"PyModule_GetDef")?),
                    transmute::<Address, unsafe extern "C" fn(*mut c_void) -> *mut c_void>(symbol(
                        c"PyModule_GetState",
                    )?),
                ],
                unnoticed: Unnoticed::find()?,
                dict_next: transmute::<Address, DictNext>(symbol(c"PyDict_Next")?),
                decref: transmute::<Address, unsafe extern "C" fn(*mut c_void)>(symbol(c"Py_DecRef")?),
            }
        };
        // SAFETY: the GIL is held.
        match unsafe { runtime.is_as_expected(minor) } {
            Ok(true) => Ok(*FOUND.get_or_init(|| runtime)),
            Ok(false) => Err(OTHER),
            Err(why) => Err(why),
        }
    }

    /// Whether some objects are immortal, so that references to them cannot be counted (PEP 683).
    pub fn has_immortal_objects(&self) -> bool {
        self.half_counts
    }

    /// How many bytes a count has, from the start of an object on. (Modules built with older headers write more of them.)
    pub(crate) fn count_bytes(&self) -> usize {
        if self.half_counts { 4 } else { 8 }
    }

    /// The function that frees instances of a type (`tp_dealloc`), and that of the nearest base with another one, if that
    /// is a heap type: `subtype_dealloc` leaves the reference to the type to it (Objects/typeobject.c). None if the object
    /// is no type.
    ///
    /// # Safety
    ///
    /// A live object.
    pub(crate) unsafe fn deallocators(&self, object: Address) -> Vec<Address> {
        // SAFETY: by the caller's promise; a type has these fields, and keeps its bases alive.
        unsafe {
            if !self.is_type(object) {
                return Vec::new();
            }
            let own = word(object + DEALLOC);
            let mut base = word(object + BASE);
            while base != 0 && word(base + DEALLOC) == own {
                base = word(base + BASE);
            }
            let others = (base != 0 && word(base + FLAGS) & HEAP_TYPE != 0).then(|| word(base + DEALLOC));
            std::iter::once(own).chain(others).collect()
        }
    }

    /// Whether a library frees the instances of this type.
    ///
    /// # Safety
    ///
    /// A live type.
    pub(crate) unsafe fn is_of_library(&self, of: Address) -> bool {
        // SAFETY: by the caller's promise.
        let deallocators = unsafe { self.deallocators(of) };
        deallocators
            .iter()
            .any(|function| !(self.code.0..self.code.1).contains(function))
    }

    /// Compares what is read with what the API says of it.
    unsafe fn is_as_expected(&self, minor: u32) -> Result<bool, Unknown> {
        const TP_TRAVERSE: c_int = 71;
        // SAFETY: signatures as in Include/object.h and listobject.h. The types are static, and the list is ours.
        unsafe {
            let flags = transmute::<Address, unsafe extern "C" fn(Address) -> c_ulong>(symbol(c"PyType_GetFlags")?);
            let slot =
                transmute::<Address, unsafe extern "C" fn(Address, c_int) -> Address>(symbol(c"PyType_GetSlot")?);
            let new_list = transmute::<Address, unsafe extern "C" fn(isize) -> Address>(symbol(c"PyList_New")?);
            let incref = transmute::<Address, unsafe extern "C" fn(Address)>(symbol(c"Py_IncRef")?);
            let list_type = symbol(c"PyList_Type")?;
            for of in [self.code_type, self.dict_type, self.type_type, list_type] {
                // 3.9 tells the slots of heap types only.
                let known = minor == 9 || slot(of, TP_TRAVERSE) == word(of + TRAVERSE);
                if !known || word(of + FLAGS) != flags(of) as usize || type_of(of) != self.type_type {
                    return Ok(false);
                }
            }
            let list = new_list(0);
            if list == 0 {
                return Ok(false);
            }
            let before = self.count(list);
            incref(list);
            let after = self.count(list);
            (self.decref)(list as *mut c_void);
            let is_list = type_of(list) == list_type && self.is_container(list);
            (self.decref)(list as *mut c_void);
            Ok((before, after) == (Some(1), Some(2)) && is_list)
        }
    }

    /// The reference count of an object, of static ones in 3.11 less a constant; `None` when it is immortal, or no count
    /// at all.
    ///
    /// # Safety
    ///
    /// `object` is the address of 8 readable bytes.
    #[inline]
    pub(crate) unsafe fn count(&self, object: Address) -> Option<i64> {
        // SAFETY: by the caller's promise.
        self.count_in(unsafe { word(object) })
    }

    /// The same, of the first word of an object.
    #[inline]
    pub(crate) fn count_in(&self, word: usize) -> Option<i64> {
        /// Objects that are part of the interpreter's own data begin with 999,999,999 references in 3.11.
        const OF_STATIC: i64 = 900_000_000;
        // Modules built for 3.11 or earlier count in the whole word, and carry those of immortal objects over.
        if self.half_counts && word >> 32 != 0 {
            return None;
        }
        let count = match self.whole_count_in(word) {
            count if count >= OF_STATIC && !self.half_counts => count - OF_STATIC,
            count => count,
        };
        (1..HELD * 2).contains(&count).then_some(count)
    }

    #[inline]
    fn whole_count_in(&self, word: usize) -> i64 {
        if self.half_counts {
            i64::from(word as i32)
        } else {
            word as i64
        }
    }

    /// Whether an object is held.
    ///
    /// # Safety
    ///
    /// It is alive.
    #[inline]
    pub(crate) unsafe fn is_held(&self, object: Address) -> bool {
        // SAFETY: by the caller's promise. Even when it was released too often.
        self.is_held_in(unsafe { word(object) })
    }

    /// The same, of the first word of an object.
    #[inline]
    pub(crate) fn is_held_in(&self, word: usize) -> bool {
        self.count_in(word).is_some_and(|count| count >= HELD / 2)
    }

    /// How many references others have given an object, held or not; `None` when it is immortal.
    ///
    /// # Safety
    ///
    /// It is alive.
    #[inline]
    pub(crate) unsafe fn references(&self, object: Address) -> Option<i64> {
        // SAFETY: by the caller's promise.
        unsafe {
            let count = self.count(object)?;
            Some(if count >= HELD / 2 { count - HELD } else { count })
        }
    }

    /// Whether an object is mortal and not held.
    ///
    /// # Safety
    ///
    /// It is alive.
    #[inline]
    pub(crate) unsafe fn is_free(&self, object: Address) -> bool {
        // SAFETY: by the caller's promise.
        unsafe { self.count(object).is_some_and(|count| count < HELD / 2) }
    }

    /// The count of a held object, less what holding has added: negative after too many releases.
    ///
    /// # Safety
    ///
    /// `object` is held.
    #[inline]
    pub(crate) unsafe fn count_of_held(&self, object: Address) -> i64 {
        // SAFETY: held objects are alive.
        self.whole_count_in(unsafe { word(object) }) - HELD
    }

    /// Adds to the count of a live object, without looking whether it gets to zero.
    ///
    /// # Safety
    ///
    /// `object` is alive and mortal, and the GIL is held.
    #[inline]
    pub(crate) unsafe fn add(&self, object: Address, references: i64) {
        // SAFETY: by the caller's promise; nobody else touches the word without the GIL.
        unsafe { *(object as *mut i64) += references };
    }

    /// Releases a reference.
    ///
    /// # Safety
    ///
    /// The caller owns one, and the GIL is held.
    pub(crate) unsafe fn release(&self, object: Address) {
        // SAFETY: by the caller's promise.
        unsafe { (self.decref)(object as *mut c_void) };
    }

    /// Calls `visit` for each reference that `object` owns, as far as the collector would be told. Code objects
    /// tell it nothing, so their fields are read.
    ///
    /// # Safety
    ///
    /// `object` is alive and fully made, the GIL is held, and `visit` takes `argument`.
    pub(crate) unsafe fn traverse(&self, object: Address, visit: Visit, argument: *mut c_void) {
        // SAFETY: a live object, asked as the collector does (Modules/gcmodule.c).
        unsafe {
            let of = type_of(object);
            if of == self.code_type {
                self.fields(object, |value| {
                    visit(value as *mut c_void, argument);
                });
            } else if self.is_container(object) {
                let traverse: Option<Traverse> = transmute(word(of + TRAVERSE));
                if let Some(traverse) = traverse {
                    traverse(object as *mut c_void, visit, argument);
                }
            }
        }
    }

    /// The references among the fields that the type of `object` has declared.
    unsafe fn fields(&self, object: Address, mut each: impl FnMut(Address)) {
        // SAFETY: `tp_members` ends with a nameless entry; a field of such a kind is a reference, or null.
        unsafe {
            let mut member = word(type_of(object) + MEMBERS) as *const Member;
            while !member.is_null() && !(*member).name.is_null() {
                if REFERENCES.contains(&(*member).kind) {
                    let value = word(object.wrapping_add_signed((*member).offset));
                    if value != 0 {
                        each(value);
                    }
                }
                member = member.add(1);
            }
        }
    }

    /// Keys and values of a dict.
    ///
    /// # Safety
    ///
    /// `dict` is alive and an exact `dict`, and the GIL is held.
    pub(crate) unsafe fn items(&self, dict: Address, mut each: impl FnMut(Address, Address) -> bool) {
        let (mut at, mut key, mut value) = (0, std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: borrowed references, used before anything else runs.
        while unsafe { (self.dict_next)(dict as *mut c_void, &mut at, &mut key, &mut value) } != 0 {
            if !each(key as Address, value as Address) {
                return;
            }
        }
    }
}

/// The word at an address.
///
/// # Safety
///
/// It is readable and aligned.
#[inline]
pub(crate) unsafe fn word(address: usize) -> usize {
    // SAFETY: by the caller's promise.
    unsafe { (address as *const usize).read() }
}

/// The type of an object.
///
/// # Safety
///
/// `object` is the address of 16 readable bytes.
#[inline]
pub(crate) unsafe fn type_of(object: Address) -> Address {
    // SAFETY: by the caller's promise.
    unsafe { word(object + 8) }
}

/// How large an object of this type is without its items.
///
/// # Safety
///
/// A live type.
pub(crate) unsafe fn basic_size(of: Address) -> usize {
    // SAFETY: by the caller's promise.
    unsafe { word(of + BASIC_SIZE) }
}

/// The code of the loaded object with this address.
fn code_beside(address: Address) -> Option<(Address, Address)> {
    let mut found = None;
    loaded_objects(|object| {
        if object.contains(address) {
            found = object
                .code()
                .map(|(start, len)| (start, start + len))
                .reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
        }
    });
    found
}

/// The `y` of CPython `3.y` with a GIL.
fn minor_version() -> Result<u32, Unknown> {
    let function = symbol(c"Py_GetVersion")?;
    // SAFETY: `const char *Py_GetVersion(void)`; the text is static.
    let version = unsafe {
        let version = transmute::<Address, unsafe extern "C" fn() -> *const c_char>(function)();
        CStr::from_ptr(version).to_string_lossy()
    };
    if version.contains("free-threading") {
        return Err(FREE_THREADED);
    }
    let minor = version
        .strip_prefix("3.")
        .and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
    minor.and_then(|minor| minor.parse().ok()).ok_or(MISSING)
}

pub(crate) fn symbol(name: &CStr) -> Result<Address, Unknown> {
    // SAFETY: dlsym takes a NUL-terminated name.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    if found.is_null() {
        Err(MISSING)
    } else {
        Ok(found as Address)
    }
}

//! `sys.getrefcount` tells of held objects how many references they would have without us.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::{offset_of, transmute};
use std::sync::OnceLock;

use crate::runtime::{Address, Runtime, symbol, type_of, word};

/// `PyMethodDef` (Include/methodobject.h), to which a `PyCFunctionObject` points in its first field.
#[repr(C)]
struct Method {
    name: *const c_char,
    function: usize,
    flags: c_int,
}

const DEFINITION: usize = 16;

/// `PyCFunction` of a function with one argument.
type Function = unsafe extern "C" fn(*mut c_void, *mut c_void) -> *mut c_void;

/// What is needed to answer.
struct Original {
    runtime: Runtime,
    function: Function,
    new_int: unsafe extern "C" fn(isize) -> *mut c_void,
}

/// Set once in a process; the function stays the same.
static ORIGINAL: OnceLock<Original> = OnceLock::new();

/// As long as this lives.
pub(crate) struct Told {
    /// Where the address of the function stands, and what it was.
    place: usize,
    original: usize,
}

impl Told {
    /// Puts our function in place of the interpreter's own; `None` where it is not as expected.
    ///
    /// # Safety
    ///
    /// The GIL is held.
    pub(crate) unsafe fn new(runtime: &Runtime) -> Option<Told> {
        const ONE_ARGUMENT: c_int = 8;
        // SAFETY: functions of the C API with these signatures; the fields of a function that is written in C.
        unsafe {
            let get =
                transmute::<Address, unsafe extern "C" fn(*const c_char) -> Address>(symbol(c"PySys_GetObject").ok()?);
            let object = get(c"getrefcount".as_ptr());
            if object == 0 || type_of(object) != symbol(c"PyCFunction_Type").ok()? {
                return None;
            }
            let method = word(object + DEFINITION) as *const Method;
            if method.is_null() || CStr::from_ptr((*method).name) != c"getrefcount" || (*method).flags != ONE_ARGUMENT {
                return None;
            }
            let original = (*method).function;
            if original != ours() {
                let new_int = symbol(c"PyLong_FromSsize_t").ok()?;
                ORIGINAL.get_or_init(|| Original {
                    runtime: *runtime,
                    function: transmute::<usize, Function>(original),
                    new_int: transmute::<Address, unsafe extern "C" fn(isize) -> *mut c_void>(new_int),
                });
            }
            let place = method as usize + offset_of!(Method, function);
            write(place, ours()).then_some(Told { place, original })
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        write(self.place, self.original);
    }
}

fn ours() -> usize {
    get_reference_count as *const () as usize
}

/// Writes a word where the kernel allows it.
fn write(place: usize, value: usize) -> bool {
    let local = libc::iovec {
        iov_base: (&raw const value).cast_mut().cast(),
        iov_len: size_of::<usize>(),
    };
    let remote = libc::iovec {
        iov_base: place as *mut c_void,
        iov_len: size_of::<usize>(),
    };
    // SAFETY: reads a word of our own; what is written to is checked by the kernel.
    unsafe { libc::process_vm_writev(libc::getpid(), &local, 1, &remote, 1, 0) == size_of::<usize>() as isize }
}

unsafe extern "C" fn get_reference_count(module: *mut c_void, object: *mut c_void) -> *mut c_void {
    let Some(original) = ORIGINAL.get() else {
        return std::ptr::null_mut();
    };
    // SAFETY: called by the interpreter with a live object; both functions have these signatures.
    unsafe {
        if original.runtime.is_held(object as Address) {
            (original.new_int)(original.runtime.count_of_held(object as Address) as isize)
        } else {
            (original.function)(module, object)
        }
    }
}

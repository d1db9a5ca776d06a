//! Which objects may be held without anybody noticing.
//!
//! Who drops the last reference to an object may rely on its death: a file is closed then, a `__del__` or the callback
//! of a weak reference runs, and all that it refers to may die with it. So only what runs nothing when it dies, to
//! which no weak reference can be made, and which can never refer to anything else, is held; and what does not die
//! anyway.

use crate::runtime::{Address, Runtime, Unknown, basic_size, symbol, type_of, word};

/// `PyVarObject.ob_size` (Include/object.h).
const SIZE: usize = 16;
/// Tuples within tuples that are looked into.
const DEEPEST: u32 = 8;

/// The exact types of such objects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unnoticed {
    /// Those that refer to nothing, or like code to nothing but such; the most frequent first.
    leaves: [Address; 9],
    tuple: Address,
    /// Where the items of a tuple begin: behind its size, or from 3.14 on behind its hash.
    items: usize,
    module: Address,
}

impl Unnoticed {
    pub(crate) fn find() -> Result<Unnoticed, Unknown> {
        let none = symbol(c"_Py_NoneStruct")?;
        let tuple = symbol(c"PyTuple_Type")?;
        Ok(Unnoticed {
            leaves: [
                symbol(c"PyUnicode_Type")?,
                symbol(c"PyCode_Type")?,
                symbol(c"PyBytes_Type")?,
                symbol(c"PyLong_Type")?,
                symbol(c"PyFloat_Type")?,
                symbol(c"PyBool_Type")?,
                symbol(c"PyByteArray_Type")?,
                symbol(c"PyComplex_Type")?,
                // SAFETY: a static object.
                unsafe { type_of(none) },
            ],
            tuple,
            // SAFETY: a static type.
            items: unsafe { basic_size(tuple) },
            module: symbol(c"PyModule_Type")?,
        })
    }

    /// Whether it may be held.
    ///
    /// # Safety
    ///
    /// The object is alive, and the GIL is held.
    #[inline]
    pub(crate) unsafe fn contains(&self, runtime: &Runtime, object: Address) -> bool {
        // SAFETY: by the caller's promise.
        unsafe { self.contains_to(runtime, object, DEEPEST) }
    }

    unsafe fn contains_to(&self, runtime: &Runtime, object: Address, depth: u32) -> bool {
        // SAFETY: a live object has a live type, and a tuple as many items as it says, some of which may be null.
        unsafe {
            let of = type_of(object);
            if of == self.tuple {
                let items = (0..word(object + SIZE)).map(|at| word(object + self.items + at * 8));
                let mut items = items.filter(|item| *item != 0);
                return depth > 0 && items.all(|item| self.contains_to(runtime, item, depth - 1));
            }
            // A type refers to itself, so only the collector frees it, and not while it is frozen; a module has its namespace,
            // to which its functions refer, and `sys.modules` has it.
            self.leaves.contains(&of) || of == self.module || runtime.is_type(object)
        }
    }
}

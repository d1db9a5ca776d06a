//! What kind of object one is.

use std::ffi::{c_int, c_void};
use std::mem::transmute;

use super::*;
use crate::frozen::is_tracked;

impl Runtime {
    /// Whether the collector looks after this object.
    ///
    /// # Safety
    ///
    /// `object` is alive.
    pub(crate) unsafe fn is_container(&self, object: Address) -> bool {
        // SAFETY: a live object has a live type; `tp_is_gc` takes instances of its type.
        unsafe {
            let of = type_of(object);
            if word(of + FLAGS) & HAVE_GC == 0 {
                return false;
            }
            let asks: Option<IsContainer> = transmute(word(of + IS_GC));
            asks.is_none_or(|is_container| is_container(object as *mut c_void) != 0)
        }
    }

    /// Whether this object owns a reference to its type without telling the collector: instances of heap types
    /// that the collector does not look after.
    ///
    /// # Safety
    ///
    /// `object` is alive.
    pub(crate) unsafe fn owns_type_unseen(&self, object: Address) -> bool {
        // SAFETY: as in `is_container`.
        unsafe { word(type_of(object) + FLAGS) & HEAP_TYPE != 0 && !self.is_container(object) }
    }

    /// Whether the collector has this object in one of its lists.
    ///
    /// # Safety
    ///
    /// `object` is alive.
    pub(crate) unsafe fn is_tracked(&self, object: Address) -> bool {
        // SAFETY: by the caller's promise.
        unsafe { self.is_container(object) && is_tracked(object) }
    }

    /// Whether nobody notices when this object is held.
    ///
    /// # Safety
    ///
    /// `object` is alive, and the GIL is held.
    #[inline]
    pub(crate) unsafe fn is_unnoticed(&self, object: Address) -> bool {
        // SAFETY: by the caller's promise.
        unsafe { self.unnoticed.contains(self, object) }
    }

    /// Whether this is a `list`, a `dict` or a `set`, not of a subclass, with nothing in it but what nobody sees die, or
    /// more such to this depth. Empty ones are there to be filled with anything.
    ///
    /// # Safety
    ///
    /// `object` is alive, and the GIL is held.
    pub(crate) unsafe fn is_data(&self, object: Address, depth: u32) -> bool {
        struct State {
            runtime: Runtime,
            depth: u32,
            any: bool,
            all: bool,
        }
        unsafe extern "C" fn visit(object: *mut c_void, state: *mut c_void) -> c_int {
            // SAFETY: the argument that is passed below, and an object that a live one refers to.
            unsafe {
                let state = &mut *state.cast::<State>();
                let (runtime, object) = (state.runtime, object as Address);
                state.any = true;
                state.all = runtime.is_unnoticed(object) || state.depth > 0 && runtime.is_data(object, state.depth - 1);
                c_int::from(!state.all)
            }
        }
        // SAFETY: by the caller's promise; `visit` takes a `State`.
        unsafe {
            if !self.plain_containers.contains(&type_of(object)) {
                return false;
            }
            let mut state = State {
                runtime: *self,
                depth,
                any: false,
                all: true,
            };
            self.traverse(object, visit, (&raw mut state).cast());
            state.any && state.all
        }
    }

    /// The global variables of a function that is written in Python.
    ///
    /// # Safety
    ///
    /// `object` is alive, and the GIL is held.
    pub(crate) unsafe fn globals(&self, object: Address) -> Option<Address> {
        // SAFETY: a function, by its type; its globals are always a dict.
        unsafe { (type_of(object) == self.function_type).then(|| (self.globals)(object as *mut c_void) as Address) }
            .filter(|globals| *globals != 0)
    }

    /// Whether this is a variable of a closure, or a tuple, which cannot change.
    ///
    /// # Safety
    ///
    /// `object` is alive.
    pub(crate) unsafe fn is_cell_or_tuple(&self, object: Address) -> bool {
        // SAFETY: by the caller's promise.
        self.cell_and_tuple.contains(&unsafe { type_of(object) })
    }

    /// The namespace of a module that is not written in Python, whose variables hardly ever change.
    ///
    /// # Safety
    ///
    /// `object` is alive.
    pub(crate) unsafe fn namespace_of_extension(&self, object: Address) -> Option<Address> {
        /// `PyModuleObject.md_dict` and `md_def` (Include/internal/pycore_moduleobject.h).
        const NAMESPACE: usize = 16;
        const DEFINITION: usize = 24;
        // SAFETY: the fields of a module.
        unsafe {
            let is_module = type_of(object) == self.module_type && word(object + DEFINITION) != 0;
            is_module
                .then(|| word(object + NAMESPACE))
                .filter(|dict| *dict != 0 && type_of(*dict) == self.dict_type)
        }
    }

    /// Whether the object is a type.
    ///
    /// # Safety
    ///
    /// `object` is the address of an object whose type is a type.
    pub(crate) unsafe fn is_type(&self, object: Address) -> bool {
        // SAFETY: by the caller's promise.
        unsafe { word(type_of(object) + FLAGS) & TYPE_SUBCLASS != 0 }
    }

    /// Whether a type is a static one that is ready for use.
    ///
    /// # Safety
    ///
    /// `object` has the room of a type.
    pub(crate) unsafe fn is_static_type(&self, object: Address) -> bool {
        const READY: usize = 1 << 12;
        // SAFETY: by the caller's promise.
        let flags = unsafe { word(object + FLAGS) };
        flags & READY != 0 && flags & HEAP_TYPE == 0 && flags >> 32 == 0
    }

    /// The `dict` type, which lies in the runtime's own object file.
    pub(crate) fn dict_type(&self) -> Address {
        self.dict_type
    }

    pub(crate) fn str_type(&self) -> Address {
        self.str_type
    }

    pub(crate) fn bytes_type(&self) -> Address {
        self.bytes_type
    }

    /// Where an extension module keeps its state, and how many bytes that has, if it is one and has some.
    ///
    /// # Safety
    ///
    /// `object` is alive, and the GIL is held.
    pub(crate) unsafe fn module_state(&self, object: Address) -> Option<(Address, usize)> {
        /// `PyModuleDef.m_size` (Include/moduleobject.h).
        const SIZE: usize = 56;
        // SAFETY: a module; its definition lives as long as it does.
        unsafe {
            if type_of(object) != self.module_type {
                return None;
            }
            let [definition, state] = self.of_module.map(|ask| ask(object as *mut c_void) as Address);
            let size = if definition == 0 {
                0
            } else {
                word(definition + SIZE) as isize
            };
            (state != 0 && size > 0).then_some((state, size as usize))
        }
    }
}

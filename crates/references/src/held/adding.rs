//! Which objects are held: what can be reached.

use std::ffi::{c_int, c_void};

use super::*;
use crate::runtime::basic_size;

impl Held {
    /// Finds what is frozen, what is in `tracked`, what these refer to, and what static data of extension modules refers
    /// to; and holds what may be held, and the objects in `lasting`, which nobody releases before this is dropped. To be
    /// called again when there are new ones.
    ///
    /// # Errors
    ///
    /// When the tables do not find room, or memory cannot be read. What is held stays so.
    ///
    /// # Safety
    ///
    /// All of them are live objects, and the GIL is held.
    pub unsafe fn add(&mut self, tracked: &[usize], lasting: &[usize]) -> std::io::Result<()> {
        let from = self.objects.len();
        // What was neither held nor frozen may be gone by now; if it is not, it is found again.
        self.loose.clear();
        self.fields.clear();
        // SAFETY: live objects, by the caller's promise; what a live object refers to is alive.
        unsafe {
            lasting.iter().for_each(|object| self.hold_lasting(*object, DEEPEST));
            let frozen = self.frozen;
            frozen.each(|object| self.begin_at(object));
            for object in tracked {
                self.begin_at(*object);
                if self.runtime.is_free(*object) {
                    self.out_of_memory |= self.loose.insert(*object).is_err();
                }
            }
            self.follow_from(from);
            let from = self.objects.len();
            let found = static_data::objects(&self.runtime, &self.types, &self.fields)?;
            found.iter().for_each(|object| self.meet(*object));
            self.follow_from(from);
            self.note_loose();
        }
        self.room().map_err(std::io::Error::other)
    }

    /// Finds just these objects, and nothing that they refer to.
    ///
    /// # Errors
    ///
    /// When the tables do not find room. What is held stays so.
    ///
    /// # Safety
    ///
    /// All of them are live objects, and the GIL is held.
    pub unsafe fn add_only(&mut self, objects: &[usize], lasting: &[usize]) -> Result<(), OutOfMemory> {
        // SAFETY: by the caller's promise.
        unsafe {
            lasting.iter().for_each(|object| self.hold_lasting(*object, DEEPEST));
            for object in objects {
                if self.runtime.is_unnoticed(*object) {
                    self.hold(*object);
                } else if self.runtime.is_free(*object) {
                    self.out_of_memory |= self.loose.insert(*object).is_err();
                }
            }
            self.note_loose();
        }
        self.room()
    }

    /// The objects that were met and that may be gone later.
    unsafe fn note_loose(&mut self) {
        self.loose_objects.clear();
        for address in self.loose.iter().copied() {
            // SAFETY: met just now, and so alive.
            unsafe {
                if self.runtime.is_free(address) {
                    let head = [word(address), type_of(address)];
                    self.out_of_memory |= self.loose_objects.push(Loose { address, head }).is_err();
                }
            }
        }
        self.loose_objects.sort_unstable_by_key(|object| object.address);
    }

    fn room(&self) -> Result<(), OutOfMemory> {
        if self.out_of_memory { Err(OutOfMemory) } else { Ok(()) }
    }

    /// Holds an object that does not die, and what it refers to as long as that is only data.
    unsafe fn hold_lasting(&mut self, object: Address, depth: u32) {
        // SAFETY: by the caller's promise.
        unsafe {
            self.hold(object);
            self.hold_data_of(object, depth);
        }
    }

    unsafe fn hold_data_of(&mut self, object: Address, depth: u32) {
        unsafe extern "C" fn visit(object: *mut c_void, state: *mut c_void) -> c_int {
            // SAFETY: the argument that is passed below, and an object that a live one refers to.
            unsafe {
                let (held, depth) = &mut *state.cast::<(&mut Held, u32)>();
                if held.runtime.is_cell_or_tuple(object as Address) {
                    held.hold_data_of(object as Address, *depth);
                } else if held.runtime.is_data(object as Address, *depth) {
                    held.hold_lasting(object as Address, *depth);
                }
            }
            0
        }
        if depth > 0 {
            let runtime = self.runtime;
            // SAFETY: alive, by the caller's promise.
            if let Some(globals) = unsafe { runtime.globals(object) } {
                let hold = |_, value| {
                    // SAFETY: what a live dict refers to is alive.
                    unsafe {
                        if runtime.is_data(value, depth) {
                            self.hold_lasting(value, depth - 1);
                        }
                    }
                    true
                };
                // SAFETY: the dict of a live function.
                unsafe { runtime.items(globals, hold) };
            }
            let mut state = (&mut *self, depth - 1);
            // SAFETY: alive, by the caller's promise; `visit` takes a pair like `state`.
            unsafe { runtime.traverse(object, visit, (&raw mut state).cast()) };
        }
    }

    /// Holds an object that the collector knows, if it may, and follows it.
    unsafe fn begin_at(&mut self, object: Address) {
        // SAFETY: alive, by the caller's promise.
        unsafe {
            if let Some(namespace) = self.runtime.namespace_of_extension(object) {
                let runtime = self.runtime;
                runtime.items(namespace, |_, value| {
                    if runtime.is_data(value, 0) {
                        self.hold(value);
                    }
                    true
                });
            }
            if let Some((state, size)) = self.runtime.module_state(object) {
                self.note_words(state, size);
            }
            let known = self.objects.len();
            self.meet(object);
            // A new one is followed with the others.
            if self.objects.len() == known {
                self.follow(object);
            }
        }
    }

    /// Holds an object, if it is mortal and nobody notices; otherwise remembers it, unless the collector knows it.
    unsafe fn meet(&mut self, object: Address) {
        // SAFETY: a live object.
        unsafe {
            if !self.runtime.is_free(object) {
            } else if self.runtime.is_unnoticed(object) {
                self.hold(object);
            } else if !self.runtime.is_tracked(object) {
                self.out_of_memory |= self.loose.insert(object).is_err();
            }
        }
    }

    /// Notes the words of an instance behind its head.
    unsafe fn note_fields(&mut self, object: Address) {
        const HEAD: usize = 2 * size_of::<usize>();
        // SAFETY: an object has as much memory as its type says.
        unsafe { self.note_words(object + HEAD, basic_size(type_of(object)).saturating_sub(HEAD)) };
    }

    /// Notes the words of so many bytes, or of the first of them, that could be references.
    unsafe fn note_words(&mut self, start: Address, bytes: usize) {
        const MOST: usize = 4096;
        for at in (0..bytes.min(MOST) & !7).step_by(size_of::<usize>()) {
            // SAFETY: memory of a live object, by the caller's promise.
            let value = unsafe { word(start + at) };
            if value % 16 == 0 && value > 0xffff {
                self.out_of_memory |= self.fields.push(value).is_err();
            }
        }
    }

    /// Holds one more object, if it is mortal and not held.
    pub(super) unsafe fn hold(&mut self, object: Address) {
        // SAFETY: a live object.
        unsafe {
            if !self.runtime.is_free(object) {
                return;
            }
            let new = Object {
                address: object,
                count: 0,
            };
            match self.objects.push(new) {
                Ok(()) => self.runtime.add(object, HELD),
                Err(OutOfMemory) => self.out_of_memory = true,
            }
        }
    }

    unsafe fn follow_from(&mut self, from: usize) {
        let (mut held, mut loose) = (from, 0);
        while held < self.objects.len() || loose < self.loose.len() {
            let next = if held < self.objects.len() {
                held += 1;
                self.objects[held - 1].address
            } else {
                loose += 1;
                self.loose[loose - 1]
            };
            // SAFETY: held, or just met, and so alive.
            unsafe { self.follow(next) };
        }
    }

    /// Meets what `object` refers to, and its type.
    unsafe fn follow(&mut self, object: Address) {
        unsafe extern "C" fn visit(object: *mut c_void, held: *mut c_void) -> c_int {
            // SAFETY: the argument that is passed below, and an object that a live one refers to.
            unsafe { (*held.cast::<Held>()).meet(object as Address) };
            0
        }
        let runtime = self.runtime;
        // SAFETY: alive, by the caller's promise; `visit` takes a `Held`, which nobody else uses meanwhile.
        unsafe {
            let of = type_of(object);
            if of != std::mem::replace(&mut self.last_type, of) {
                self.hold(of);
                let is_new = self.types.insert(of);
                self.out_of_memory |= is_new.is_err();
                if is_new.unwrap_or(false) && runtime.is_of_library(of) {
                    self.out_of_memory |= self.library_types.insert(of).is_err();
                }
                self.last_is_of_library = self.library_types.contains(&of);
            }
            if self.last_is_of_library {
                self.note_fields(object);
            }
            if runtime.is_type(object) {
                self.out_of_memory |= self.types.insert(object).is_err();
            }
            runtime.traverse(object, visit, (&raw mut *self).cast());
        }
    }
}

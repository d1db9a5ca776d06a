//! Objects that are kept alive, so that their counts can be compared.

use std::ffi::{c_int, c_void};

use leaktight_liveset::{MappedVec, OutOfMemory};

use crate::addresses::AddressSet;
use crate::runtime::{Address, HELD, Runtime, type_of};
use crate::static_data;

/// One object, and the count that it had.
#[derive(Clone, Copy)]
struct Object {
    address: Address,
    count: i64,
}

/// Every object of the process that could be found. Each has [`HELD`] references more than others gave it, until
/// this is dropped, which needs the GIL as everything here does.
///
/// The tables lie in memory of their own, where a search for references finds nothing.
pub struct Held {
    runtime: Runtime,
    objects: MappedVec<Object>,
    /// Containers that are immortal: not counted, but what they hold is.
    immortal: MappedVec<Address>,
    /// All that refer to others.
    containers: MappedVec<Address>,
    types: AddressSet,
    /// Most objects have the type of the one before.
    last_type: Address,
    /// What was released too often, and how often.
    released: Vec<(Address, i64)>,
    out_of_memory: bool,
}

/// An object whose count is not what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The object.
    pub object: usize,
    /// References that came, less those that went.
    pub by: i64,
}

impl Held {
    /// Nothing yet; see [`Held::add`].
    pub fn new(runtime: Runtime) -> Held {
        Held {
            runtime,
            objects: MappedVec::new(),
            immortal: MappedVec::new(),
            containers: MappedVec::new(),
            types: AddressSet::new(),
            last_type: 0,
            released: Vec::new(),
            out_of_memory: false,
        }
    }

    /// Holds what is reached from the objects in `tracked`, from `named`, from the objects that are held already,
    /// and from static data of extension modules.
    ///
    /// # Errors
    ///
    /// When the tables do not find room, or memory cannot be read. What is held stays so.
    ///
    /// # Safety
    ///
    /// All of them are live objects, and the GIL is held.
    pub unsafe fn add(&mut self, tracked: &[usize], named: &[usize]) -> std::io::Result<()> {
        let (known, followed) = (self.objects.len(), self.immortal.len());
        // SAFETY: live objects, by the caller's promise; what a live object refers to is alive.
        unsafe {
            for object in tracked.iter().chain(named) {
                if !self.hold(*object) && !self.runtime.is_held(*object) {
                    self.immortal.push(*object).map_err(std::io::Error::other)?;
                }
            }
            // What was known before may refer to new objects by now.
            for at in 0..self.containers.len() {
                self.visit_all(self.containers[at]);
            }
            for at in followed..self.immortal.len() {
                self.follow(self.immortal[at]);
            }
            self.follow_from(known);
            let from = self.objects.len();
            let found = static_data::objects(&self.runtime, &self.types)?;
            for object in found.iter() {
                self.hold(*object);
            }
            self.follow_from(from);
        }
        match self.out_of_memory {
            true => Err(std::io::Error::other(OutOfMemory)),
            false => Ok(()),
        }
    }

    /// Holds just these objects, and nothing that they refer to.
    ///
    /// # Errors
    ///
    /// When the tables do not find room. What is held stays so.
    ///
    /// # Safety
    ///
    /// All of them are live objects, and the GIL is held.
    pub unsafe fn add_only(&mut self, objects: &[usize]) -> std::io::Result<()> {
        for object in objects {
            // SAFETY: by the caller's promise.
            unsafe { self.hold(*object) };
        }
        match self.out_of_memory {
            true => Err(std::io::Error::other(OutOfMemory)),
            false => Ok(()),
        }
    }

    /// Holds one more object, if it is mortal and not held.
    unsafe fn hold(&mut self, object: Address) -> bool {
        // SAFETY: a live object.
        unsafe {
            if !self.runtime.is_free(object) {
                return false;
            }
            let new = Object {
                address: object,
                count: 0,
            };
            self.out_of_memory |= self.objects.push(new).is_err();
            if self.out_of_memory {
                return false;
            }
            self.runtime.add(object, HELD);
            true
        }
    }

    unsafe fn follow_from(&mut self, from: usize) {
        let mut at = from;
        while at < self.objects.len() {
            // SAFETY: held, and so alive.
            unsafe { self.follow(self.objects[at].address) };
            at += 1;
        }
    }

    /// Holds what `object` refers to, and its type.
    unsafe fn follow(&mut self, object: Address) {
        // SAFETY: alive, by the caller's promise.
        unsafe {
            let of = type_of(object);
            if of != std::mem::replace(&mut self.last_type, of) {
                self.hold(of);
                self.out_of_memory |= self.types.insert(of).is_err();
            }
            if self.runtime.is_type(object) {
                self.out_of_memory |= self.types.insert(object).is_err();
            }
            if self.runtime.has_references(object) {
                self.out_of_memory |= self.containers.push(object).is_err();
                self.visit_all(object);
            }
        }
    }

    /// Holds what `object` refers to.
    unsafe fn visit_all(&mut self, object: Address) {
        unsafe extern "C" fn visit(object: *mut c_void, held: *mut c_void) -> c_int {
            // SAFETY: the argument that is passed below, and an object that a live one refers to.
            unsafe { (*held.cast::<Held>()).hold(object as Address) };
            0
        }
        let runtime = self.runtime;
        // SAFETY: alive, by the caller's promise; `visit` takes a `Held`, which nobody else uses meanwhile.
        unsafe { runtime.traverse(object, visit, (&raw mut *self).cast()) };
    }

    /// Takes the counts as they are now for those to compare with.
    ///
    /// # Safety
    ///
    /// The GIL is held.
    pub unsafe fn begin(&mut self) {
        for object in self.objects.iter_mut() {
            // SAFETY: held.
            object.count = unsafe { self.runtime.count_of_held(object.address) };
        }
    }

    /// The objects whose count has changed since [`Held::begin`].
    ///
    /// # Safety
    ///
    /// The GIL is held.
    pub unsafe fn changes(&self) -> Vec<Change> {
        let change = |object: &Object| Change {
            object: object.address,
            // SAFETY: held.
            by: unsafe { self.runtime.count_of_held(object.address) } - object.count,
        };
        self.objects
            .iter()
            .map(change)
            .filter(|change| change.by != 0)
            .collect()
    }

    /// How many references an object has.
    ///
    /// # Safety
    ///
    /// It is held, and so is the GIL.
    pub unsafe fn count(&self, object: usize) -> i64 {
        // SAFETY: by the caller's promise.
        unsafe { self.runtime.count_of_held(object) }
    }

    /// Gives these references back to an object that has lost them, so that its owners find it alive.
    pub fn repair(&mut self, object: usize, references: i64) {
        self.released.push((object, references));
    }

    /// How many objects are held.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether no object is.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// All containers, mortal or not.
    pub(crate) fn each(&self, mut each: impl FnMut(Address)) {
        self.objects.iter().for_each(|object| each(object.address));
        self.immortal.iter().copied().for_each(each);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for (object, references) in std::mem::take(&mut self.released) {
            // SAFETY: a held object.
            unsafe { self.runtime.add(object, references) };
        }
        let mut dead = MappedVec::new();
        for object in self.objects.iter() {
            let address = object.address;
            // SAFETY: held until here; the references that are taken away are our own. The last one of an object that
            // nobody else wants any more is kept until all counts are right, since freeing it releases others.
            unsafe {
                let others = self.runtime.count_of_held(address);
                if others > 0 {
                    self.runtime.add(address, -HELD);
                } else if others == 0 && dead.push(address).is_ok() {
                    self.runtime.add(address, 1 - HELD);
                }
                // Below zero its owners are too many: it must stay.
            }
        }
        for object in dead.iter() {
            // SAFETY: the last reference, ours.
            unsafe { self.runtime.release(*object) };
        }
    }
}

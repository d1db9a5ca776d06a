//! Objects that are kept alive, so that their counts can be compared.

mod adding;

use std::sync::{Mutex, PoisonError};

use leaktight_liveset::{MappedVec, OutOfMemory};

use crate::addresses::AddressSet;
use crate::frozen::Frozen;
use crate::loose::{Loose, read_again};
use crate::runtime::{Address, HELD, Runtime, type_of, word};
use crate::static_data;
use crate::told::Told;

/// Containers within each other that are looked into for data.
const DEEPEST: u32 = 6;

/// One object, and the count that it had.
#[derive(Clone, Copy)]
struct Object {
    address: Address,
    count: i64,
}

/// The memory of the longest table, for the next check of many: to have it anew takes longer than to fill it.
static SPARE: Mutex<MappedVec<Object>> = Mutex::new(MappedVec::new());

/// Every object of the process that could be found. Those whose death nobody can notice have [`HELD`] references more
/// than others gave them, until this is dropped, which needs the GIL as everything here does. The others die when they
/// should.
///
/// The tables lie in memory of their own, where a search for references finds nothing.
pub struct Held {
    runtime: Runtime,
    frozen: Frozen,
    objects: MappedVec<Object>,
    /// Not held, and frozen: in the order of the collector's list.
    frozen_objects: MappedVec<Object>,
    /// Neither held nor frozen.
    loose: AddressSet,
    loose_objects: MappedVec<Loose>,
    types: AddressSet,
    /// Those of them whose instances a library frees.
    library_types: AddressSet,
    /// Words of such instances, which may be references that the collector is not told of.
    fields: MappedVec<usize>,
    /// Most objects have the type of the one before; and whether it is one of a library's.
    last_type: Address,
    last_is_of_library: bool,
    /// Those of the held objects that did not have to be.
    kept: Vec<Address>,
    /// What was released too often, and how often.
    released: Vec<(Address, i64)>,
    out_of_memory: bool,
    _told: Option<Told>,
}

/// An object whose count is not what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The object.
    pub object: usize,
    /// References that came, less those that went.
    pub by: i64,
}

/// Why counts can no longer be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lost {
    /// There is no room for the tables.
    OutOfMemory,
    /// Memory cannot be read.
    Unreadable,
    /// Somebody has thawed the objects that were frozen.
    Thawed,
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Lost::OutOfMemory => OutOfMemory.fmt(f),
            Lost::Unreadable => f.write_str("own memory could not be read"),
            Lost::Thawed => f.write_str("the calls thaw what the garbage collector was told to leave alone"),
        }
    }
}

impl std::error::Error for Lost {}

impl From<OutOfMemory> for Lost {
    fn from(_: OutOfMemory) -> Lost {
        Lost::OutOfMemory
    }
}

impl Held {
    /// Nothing yet; see [`Held::add`].
    ///
    /// # Safety
    ///
    /// The GIL is held.
    pub unsafe fn new(runtime: Runtime, frozen: Frozen) -> Held {
        Held {
            runtime,
            frozen,
            objects: MappedVec::new(),
            frozen_objects: std::mem::take(&mut *SPARE.lock().unwrap_or_else(PoisonError::into_inner)),
            loose: AddressSet::new(),
            loose_objects: MappedVec::new(),
            types: AddressSet::new(),
            library_types: AddressSet::new(),
            fields: MappedVec::new(),
            last_type: 0,
            last_is_of_library: false,
            kept: Vec::new(),
            released: Vec::new(),
            out_of_memory: false,
            // SAFETY: by the caller's promise.
            _told: unsafe { Told::new(&runtime) },
        }
    }

    /// Takes the counts as they are now for those to compare with.
    ///
    /// # Errors
    ///
    /// When the tables do not find room, or memory cannot be read.
    ///
    /// # Safety
    ///
    /// The GIL is held.
    pub unsafe fn begin(&mut self) -> std::io::Result<()> {
        for object in self.objects.iter_mut() {
            // SAFETY: held.
            object.count = unsafe { self.runtime.count_of_held(object.address) };
        }
        let (runtime, objects) = (self.runtime, &mut self.frozen_objects);
        let mut result = Ok(());
        // SAFETY: what is in the collector's list is alive.
        unsafe {
            self.frozen.each(|address| {
                if runtime.is_free(address)
                    && let Some(count) = runtime.count(address)
                {
                    result = objects.push(Object { address, count }).and(result);
                }
            });
        }
        let mut loose = MappedVec::new();
        read_again(&self.loose_objects, |object, head| {
            let object = Loose {
                address: object.address,
                head,
            };
            result = loose.push(object).and(result);
        })?;
        self.loose_objects = loose;
        result.map_err(std::io::Error::other)
    }

    /// The objects whose count has changed since [`Held::begin`], by rising address.
    ///
    /// # Errors
    ///
    /// When that cannot be said any more.
    ///
    /// # Safety
    ///
    /// The GIL is held.
    pub unsafe fn changes(&self) -> Result<Vec<Change>, Lost> {
        // SAFETY: as the caller's.
        let mut changes = unsafe { self.changes_of_held() };
        let mut note = |object: Address, by: i64| {
            if by != 0 {
                changes.push(Change { object, by });
            }
        };
        // SAFETY: what is in the collector's list is alive.
        unsafe { self.each_frozen(|object, count| note(object.address, count - object.count)) }?;
        read_again(&self.loose_objects, |object, head| {
            let [before, after] = [object.head[0], head[0]].map(|word| self.runtime.count_in(word));
            if let (Some(before), Some(after)) = (before, after)
                && !self.runtime.is_held_in(head[0])
            {
                note(object.address, after - before);
            }
        })
        .map_err(|_| Lost::Unreadable)?;
        changes.sort_unstable_by_key(|change| change.object);
        // What was chosen, and is known to the collector as well.
        changes.dedup_by_key(|change| change.object);
        Ok(changes)
    }

    /// Those of them that are held.
    ///
    /// # Safety
    ///
    /// The GIL is held.
    pub unsafe fn changes_of_held(&self) -> Vec<Change> {
        let change = |object: &Object| Change {
            object: object.address,
            // SAFETY: held.
            by: unsafe { self.runtime.count_of_held(object.address) } - object.count,
        };
        let mut changes: Vec<Change> = self
            .objects
            .iter()
            .map(change)
            .filter(|change| change.by != 0)
            .collect();
        changes.sort_unstable_by_key(|change| change.object);
        changes
    }

    /// Calls `each` with the objects that were frozen, are not held, and live, and with their counts.
    unsafe fn each_frozen(&self, mut each: impl FnMut(&Object, i64)) -> Result<(), Lost> {
        let mut rest = self.frozen_objects.iter();
        // SAFETY: `each` is ours; what is in the collector's list is alive.
        let is_intact = unsafe {
            self.frozen.each(|address| {
                let Some(count) = self.runtime.count(address) else {
                    return;
                };
                // They come in the same order; those in between have died. Others that are in the list are held from the start.
                let next = rest.as_slice().first().is_some_and(|object| object.address == address);
                if next || !self.runtime.is_held(address) {
                    let found = rest.find(|object| object.address == address);
                    if let Some(object) = found.filter(|_| !self.runtime.is_held(address)) {
                        each(object, count);
                    }
                }
            })
        };
        if is_intact { Ok(()) } else { Err(Lost::Thawed) }
    }

    /// How many references an object has.
    ///
    /// # Safety
    ///
    /// It is alive, and the GIL is held.
    pub unsafe fn count(&self, object: usize) -> i64 {
        // SAFETY: by the caller's promise.
        unsafe { self.runtime.references(object) }.unwrap_or(0)
    }

    /// How many bytes at the start of an object are its count.
    pub fn count_bytes(&self) -> usize {
        self.runtime.count_bytes()
    }

    /// The functions that free the instances of a type: its own, and that of a base which the interpreter's relies on to
    /// give back the reference to the type. None if the object is no type.
    ///
    /// # Safety
    ///
    /// It is alive, and the GIL is held.
    pub unsafe fn deallocators(&self, object: usize) -> Vec<usize> {
        // SAFETY: by the caller's promise.
        unsafe { self.runtime.deallocators(object) }
    }

    /// Holds one of the objects that were only followed so far, until [`Held::release`] or the end.
    ///
    /// # Safety
    ///
    /// It is alive, and the GIL is held.
    pub unsafe fn keep(&mut self, object: usize) {
        let same = |known: &&Object| known.address == object;
        let frozen = self.frozen_objects.iter().find(same).map(|known| known.count);
        let loose = self.loose_objects.iter().find(|known| known.address == object);
        let loose = loose.and_then(|known| self.runtime.count_in(known.head[0]));
        // SAFETY: by the caller's promise.
        unsafe {
            let held = self.objects.len();
            self.hold(object);
            if held < self.objects.len() {
                self.objects[held].count = frozen.or(loose).unwrap_or(0);
                self.kept.push(object);
            }
        }
    }

    /// Lets go of those of these objects that [`Held::keep`] has held. Who drops what is returned may run code of theirs.
    ///
    /// # Safety
    ///
    /// The GIL is held.
    #[must_use]
    pub unsafe fn release(&mut self, objects: &[usize]) -> Dying {
        let mut dying = Dying::new(self.runtime);
        for object in objects {
            if let Some(at) = self.kept.iter().position(|kept| kept == object) {
                self.kept.swap_remove(at);
                if let Some(at) = self.objects.iter().rposition(|held| held.address == *object) {
                    self.objects.remove(at);
                    // SAFETY: held until here.
                    unsafe { dying.let_go(*object) };
                }
            }
        }
        dying
    }

    /// Gives these references back to an object that has lost them, so that its owners find it alive.
    pub fn repair(&mut self, object: usize, references: i64) {
        self.released.push((object, references));
    }

    /// How many objects are followed.
    pub fn len(&self) -> usize {
        self.objects.len() + self.frozen_objects.len() + self.loose_objects.len()
    }

    /// Whether no object is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Calls `each` with every object that lives for certain.
    ///
    /// # Safety
    ///
    /// The GIL is held, and `each` runs nothing of the program's.
    pub(crate) unsafe fn each(&self, mut each: impl FnMut(Address)) {
        // SAFETY: by the caller's promise.
        unsafe {
            self.frozen.each(&mut each);
            for object in self
                .objects
                .iter()
                .filter(|object| !self.runtime.is_tracked(object.address))
            {
                each(object.address);
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for (object, references) in std::mem::take(&mut self.released) {
            // SAFETY: a held object.
            unsafe { self.runtime.add(object, references) };
        }
        let mut dying = Dying::new(self.runtime);
        for object in self.objects.iter() {
            // SAFETY: held until here.
            unsafe { dying.let_go(object.address) };
        }
        self.frozen_objects.clear();
        *SPARE.lock().unwrap_or_else(PoisonError::into_inner) = std::mem::take(&mut self.frozen_objects);
    }
}

/// Objects that nobody wants any more. They die when this is dropped: freeing one releases others, so all counts must be
/// right before.
pub struct Dying {
    runtime: Runtime,
    objects: MappedVec<Address>,
}

impl Dying {
    fn new(runtime: Runtime) -> Dying {
        Dying {
            runtime,
            objects: MappedVec::new(),
        }
    }

    /// Takes the references away that holding has added.
    unsafe fn let_go(&mut self, object: Address) {
        // SAFETY: held, by the caller's promise; the references are our own.
        unsafe {
            let others = self.runtime.count_of_held(object);
            if others > 0 {
                self.runtime.add(object, -HELD);
            } else if others == 0 && self.objects.push(object).is_ok() {
                self.runtime.add(object, 1 - HELD);
            }
            // Below zero its owners are too many: it must stay.
        }
    }
}

impl Drop for Dying {
    fn drop(&mut self) {
        for object in self.objects.iter() {
            // SAFETY: the last reference, ours.
            unsafe { self.runtime.release(*object) };
        }
    }
}

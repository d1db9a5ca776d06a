//! How many of the references to a few objects the garbage collector can see.

use std::ffi::{c_int, c_void};

use leaktight_liveset::OutOfMemory;

use crate::addresses::AddressSet;
use crate::held::Held;
use crate::runtime::{Address, Runtime, type_of};

/// The references to one object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The object.
    pub object: usize,
    /// All that it has been given.
    pub count: i64,
    /// Those that objects tell the collector of.
    pub visible: i64,
}

/// Counts the references to `objects`, from everything that is held, from `tracked` and from what these reach.
///
/// # Errors
///
/// When the tables do not find room.
///
/// # Safety
///
/// `objects` are held, `tracked` are live objects, and the GIL is held.
pub unsafe fn visible(held: &Held, objects: &[usize], tracked: &[usize]) -> Result<Vec<Seen>, OutOfMemory> {
    let mut sorted = objects.to_vec();
    sorted.sort_unstable();
    let mut count = Count {
        runtime: *held.runtime(),
        visible: vec![0; sorted.len()],
        objects: sorted,
        new: AddressSet::new(),
        out_of_memory: false,
    };
    // SAFETY: live objects; what a live object refers to is alive.
    unsafe {
        held.each(|object| count.from(object));
        for object in tracked {
            count.meet(*object);
        }
        let mut at = 0;
        while at < count.new.len() {
            count.from(count.new[at]);
            at += 1;
        }
    }
    if count.out_of_memory {
        return Err(OutOfMemory);
    }
    let seen = |object: &usize| Seen {
        object: *object,
        // SAFETY: held, by the caller's promise.
        count: unsafe { held.count(*object) },
        visible: count.objects.binary_search(object).map_or(0, |at| count.visible[at]),
    };
    Ok(objects.iter().map(seen).collect())
}

struct Count {
    runtime: Runtime,
    /// By rising address.
    objects: Vec<Address>,
    visible: Vec<i64>,
    /// Objects that are not held: newer than the others.
    new: AddressSet,
    out_of_memory: bool,
}

impl Count {
    /// Counts what `object` refers to.
    unsafe fn from(&mut self, object: Address) {
        unsafe extern "C" fn visit(object: *mut c_void, count: *mut c_void) -> c_int {
            // SAFETY: the argument that is passed below, and an object that a live one refers to.
            unsafe {
                let count = &mut *count.cast::<Count>();
                count.note(object as Address);
                count.meet(object as Address);
            }
            0
        }
        let runtime = self.runtime;
        // SAFETY: alive, by the caller's promise; `visit` takes a `Count`, which nobody else uses meanwhile.
        unsafe {
            if runtime.owns_type_unseen(object) {
                self.note(type_of(object));
            }
            runtime.traverse(object, visit, (&raw mut *self).cast());
        }
    }

    #[inline]
    fn note(&mut self, object: Address) {
        if let Ok(at) = self.objects.binary_search(&object) {
            self.visible[at] += 1;
        }
    }

    /// Remembers an object that is not held, to look at what it refers to.
    unsafe fn meet(&mut self, object: Address) {
        // SAFETY: alive.
        unsafe {
            if self.runtime.is_free(object)
                && (self.runtime.is_container(object) || self.runtime.owns_type_unseen(object))
            {
                self.out_of_memory |= self.new.insert(object).is_err();
            }
        }
    }
}

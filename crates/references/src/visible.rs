//! How many of the references to a few objects the garbage collector can see.

use std::ffi::{c_int, c_void};

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

/// Counts the references to `objects`, from everything that is followed, from `tracked` and from what these reach.
/// What is not met on the way may have died, and is left out.
///
/// # Errors
///
/// When the tables do not find room, or `go_on`, which is asked from time to time, says no.
///
/// # Safety
///
/// `tracked` are live objects, `go_on` runs nothing of the program's, and the GIL is held.
pub unsafe fn visible(
    held: &Held,
    objects: &[usize],
    tracked: &[usize],
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Vec<Seen>, Stopped> {
    let mut sorted = objects.to_vec();
    sorted.sort_unstable();
    let mut count = Count {
        runtime: *held.runtime(),
        visible: vec![None; sorted.len()],
        objects: sorted,
        new: AddressSet::new(),
        out_of_memory: false,
    };
    let mut pause = Pause {
        go_on,
        left: 0,
        stopped: false,
    };
    // SAFETY: live objects; what a live object refers to is alive.
    unsafe {
        held.each(|object| {
            if pause.goes_on() {
                count.from(object);
            }
        });
        for object in tracked {
            if pause.goes_on() {
                count.from(*object);
            }
        }
        let mut at = 0;
        while at < count.new.len() && pause.goes_on() {
            count.from(count.new[at]);
            at += 1;
        }
    }
    if count.out_of_memory {
        return Err(Stopped::OutOfMemory);
    }
    if pause.stopped {
        return Err(Stopped::NoTime);
    }
    let seen = |object: &usize| {
        let visible = count
            .objects
            .binary_search(object)
            .ok()
            .and_then(|at| count.visible[at])?;
        Some(Seen {
            object: *object,
            // SAFETY: alive, since it was met.
            count: unsafe { held.count(*object) },
            visible,
        })
    };
    Ok(objects.iter().filter_map(seen).collect())
}

/// Why nothing was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stopped {
    /// There is no room for the tables.
    OutOfMemory,
    /// It was told to stop.
    NoTime,
}

/// Asks every so many objects whether to go on.
struct Pause<'a> {
    go_on: &'a mut dyn FnMut() -> bool,
    left: u32,
    stopped: bool,
}

impl Pause<'_> {
    #[inline]
    fn goes_on(&mut self) -> bool {
        const OBJECTS: u32 = 10_000;
        if self.left == 0 {
            self.left = OBJECTS;
            self.stopped = self.stopped || !(self.go_on)();
        }
        self.left -= 1;
        !self.stopped
    }
}

struct Count {
    runtime: Runtime,
    /// By rising address.
    objects: Vec<Address>,
    /// `None`: not met.
    visible: Vec<Option<i64>>,
    /// Objects that no list has.
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
                count.note(object as Address, 1);
                count.meet(object as Address);
            }
            0
        }
        let runtime = self.runtime;
        self.note(object, 0);
        // SAFETY: alive, by the caller's promise; `visit` takes a `Count`, which nobody else uses meanwhile.
        unsafe {
            if runtime.owns_type_unseen(object) {
                self.note(type_of(object), 1);
            }
            runtime.traverse(object, visit, (&raw mut *self).cast());
        }
    }

    /// So many references to an object have been met.
    #[inline]
    fn note(&mut self, object: Address, references: i64) {
        if let Ok(at) = self.objects.binary_search(&object) {
            *self.visible[at].get_or_insert(0) += references;
        }
    }

    /// Remembers an object that is neither held nor in a list, to look at what it refers to.
    unsafe fn meet(&mut self, object: Address) {
        // SAFETY: alive.
        unsafe {
            if self.runtime.is_free(object) {
                let is_container = self.runtime.is_container(object);
                if is_container && !self.runtime.is_tracked(object) || self.runtime.owns_type_unseen(object) {
                    self.out_of_memory |= self.new.insert(object).is_err();
                }
            }
        }
    }
}

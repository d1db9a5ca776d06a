//! The objects that CPython's garbage collector has been told to leave alone (`gc.freeze`), in its own order.
//!
//! Frozen objects stand in a list of their own, and one that dies is taken out of it. So whoever goes through the
//! list meets live objects only, and objects that are newer than the freezing are not among them.

use std::sync::{Mutex, PoisonError};

use leaktight_liveset::MappedVec;

use crate::runtime::{Address, Runtime, word};

/// `PyGC_Head` (Include/internal/pycore_gc.h, 3.9 to 3.15): the next and the previous one, with flags in the low bits.
const HEAD_SIZE: usize = 16;
const PREVIOUS: usize = 8;
const FLAGS: usize = 3;

/// The heads as they stood in the list when somebody last went through it. One leads to the next, so that the processor
/// would wait for each; from here it is told early what is needed next.
static LAST_WAY: Mutex<MappedVec<usize>> = Mutex::new(MappedVec::new());
/// So many steps ahead.
const AHEAD: usize = 16;

/// Has the processor fetch the head there and the object behind it, if anything is there still.
#[inline(always)]
fn prefetch(head: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint, which never faults.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(head as *const i8);
            _mm_prefetch::<_MM_HINT_T0>((head + HEAD_SIZE) as *const i8);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = head;
}

/// The list, and a marker of ours in it: what stands before the marker was frozen before we came.
#[derive(Clone, Copy, Debug)]
pub struct Frozen {
    /// The head of the list, which belongs to no object.
    list: usize,
    /// The head of the marker.
    marker: usize,
}

impl Frozen {
    /// Whether the lists of this process's interpreter are laid out as is expected here.
    ///
    /// # Safety
    ///
    /// If there is an initialised interpreter, the caller holds its GIL.
    pub unsafe fn is_known() -> bool {
        // SAFETY: by the caller's promise.
        unsafe { Runtime::find() }.is_ok()
    }

    /// Finds the list, given two objects of the caller's own that the collector tracks: all was frozen, `marker` was made
    /// and all was frozen again, and the same with `last`. `before`: how many were frozen at the very start. `None`
    /// where the list does not look like one.
    ///
    /// # Safety
    ///
    /// The objects are alive, the collector of a CPython 3.9 to 3.15 looks after them, and the GIL is held.
    pub unsafe fn find(marker: usize, last: usize, before: usize) -> Option<Frozen> {
        let (marker, last) = (marker - HEAD_SIZE, last - HEAD_SIZE);
        // SAFETY: the heads of tracked objects, and what they are linked with.
        unsafe {
            // Freezing puts objects at the end, so only the list's own head can come after both.
            let list = next(last);
            if next(marker) != last || previous(list) != last || previous(last) != marker {
                return None;
            }
            let frozen = Frozen { list, marker };
            let mut boundary = list;
            for _ in 0..before {
                if previous(next(boundary)) != boundary || next(boundary) == marker {
                    return None;
                }
                boundary = next(boundary);
            }
            unlink(marker);
            link_after(boundary, marker);
            Some(frozen)
        }
    }

    /// Calls `each` with every object in the list, which nobody changes meanwhile. Says whether the list is still the one
    /// that was found; if not, the objects have been thawed.
    ///
    /// # Safety
    ///
    /// The marker is alive, the GIL is held, and `each` runs nothing of the program's.
    pub unsafe fn each(&self, mut each: impl FnMut(Address)) -> bool {
        let mut is_intact = false;
        let mut way = LAST_WAY.lock().unwrap_or_else(PoisonError::into_inner);
        let mut steps = 0;
        // SAFETY: the list is well-formed while the GIL is held: CPython goes through it, too.
        unsafe {
            let mut at = next(self.list);
            while at != self.list {
                if let Some(later) = way.get(steps + AHEAD) {
                    prefetch(*later);
                }
                match way.get_mut(steps) {
                    Some(known) => *known = at,
                    // Without memory for it the processor waits, no more.
                    None => drop(way.push(at)),
                }
                steps += 1;
                if at == self.marker {
                    is_intact = true;
                } else {
                    each(at + HEAD_SIZE);
                }
                at = next(at);
            }
        }
        is_intact
    }

    /// Takes what was frozen before we came out of the list, runs `thaw`, which empties it, and puts that back. Nothing is
    /// done when somebody has thawed the objects already.
    ///
    /// # Safety
    ///
    /// As for [`Frozen::each`]; `thaw` lets no other thread run.
    pub unsafe fn thaw_ours(&self, thaw: impl FnOnce()) {
        // SAFETY: as in `each`. Objects before the marker are linked with each other and with the list's head only.
        unsafe {
            let mut at = next(self.list);
            while at != self.marker {
                if at == self.list {
                    return;
                }
                at = next(at);
            }
            let (first, last) = (next(self.list), previous(self.marker));
            let any = last != self.list;
            if any {
                set_next(self.list, self.marker);
                set_previous(self.marker, self.list);
            }
            thaw();
            if any {
                let after = next(self.list);
                set_next(last, after);
                set_previous(after, last);
                set_next(self.list, first);
                set_previous(first, self.list);
            }
        }
    }
}

/// Whether the collector has a container in any of its lists.
///
/// # Safety
///
/// A live object of a kind that the collector looks after.
pub(crate) unsafe fn is_tracked(container: Address) -> bool {
    // SAFETY: such an object has a head before it.
    unsafe { word(container - HEAD_SIZE) != 0 }
}

// SAFETY of all below: `head` is the head of a tracked object or of a list.

unsafe fn next(head: usize) -> usize {
    // SAFETY: see above.
    unsafe { word(head) & !FLAGS }
}

unsafe fn previous(head: usize) -> usize {
    // SAFETY: see above.
    unsafe { word(head + PREVIOUS) & !FLAGS }
}

unsafe fn set_next(head: usize, to: usize) {
    // SAFETY: see above; the flags stay.
    unsafe { *(head as *mut usize) = to | word(head) & FLAGS };
}

unsafe fn set_previous(head: usize, to: usize) {
    // SAFETY: see above; the flags stay.
    unsafe { *((head + PREVIOUS) as *mut usize) = to | word(head + PREVIOUS) & FLAGS };
}

unsafe fn unlink(head: usize) {
    // SAFETY: see above.
    unsafe {
        let (before, after) = (previous(head), next(head));
        set_next(before, after);
        set_previous(after, before);
    }
}

unsafe fn link_after(before: usize, head: usize) {
    // SAFETY: see above.
    unsafe {
        let after = next(before);
        set_next(before, head);
        set_previous(head, before);
        set_next(head, after);
        set_previous(after, head);
    }
}

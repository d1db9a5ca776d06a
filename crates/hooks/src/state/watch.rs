//! What a hook notes.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::sync::atomic::Ordering;

use leaktight_liveset::{Block, Family};

use super::*;
use crate::marks::Mark;
use crate::thread::thread;

/// One pass through a hook on a watched thread. While it lives, nested calls pass through unseen.
pub(crate) struct Watch {
    state: u64,
    guard_before: u32,
    own: bool,
    birth: u32,
    /// The guard is this thread's.
    _not_send: PhantomData<*const ()>,
}

impl Watch {
    /// For functions that allocate: `None` when this allocation is not to be noted. With stacks on, what unwatched
    /// threads allocate is noted as memory in use.
    #[inline(always)]
    pub(crate) fn allocations() -> Option<Watch> {
        Watch::enter(|guard, state| guard == 0 || state & STACKS != 0 && guard & IN_HOOK == 0)
    }

    /// For functions that free (and may allocate): frees count on unwatched threads too, since
    /// the block may have been noted when it was allocated.
    #[inline(always)]
    pub(crate) fn frees() -> Option<Watch> {
        Watch::enter(|guard, _| guard & IN_HOOK == 0)
    }

    #[inline(always)]
    fn enter(admits: impl FnOnce(u32, u64) -> bool) -> Option<Watch> {
        let state = STATE.load(Ordering::Relaxed);
        if state == 0 {
            return None;
        }
        let thread = thread();
        let guard = thread.guard.get();
        if !admits(guard, state) {
            return None;
        }
        thread.guard.set(guard | IN_HOOK);
        let own = thread.session.get() == (state >> 32) as u32;
        Some(Watch {
            state,
            guard_before: guard,
            own,
            birth: if own {
                birth(thread)
            } else {
                CALL.load(Ordering::Relaxed)
            },
            _not_send: PhantomData,
        })
    }

    /// Notes a new block; a null pointer is a failed allocation and no block.
    #[inline(always)]
    pub(crate) fn born(&self, address: usize, size: usize, family: Family) {
        if address == 0 {
            return;
        }
        match self.block(address, size, family) {
            Some(block) => {
                LIVE.insert(self.session(), &block);
                if block.stack != 0 {
                    tell_birth(&block);
                }
            }
            None if self.state & STACKS != 0 => self.given_out(address, size, family),
            None => {}
        }
    }

    /// A block that the live set does not have is in use.
    #[cold]
    fn given_out(&self, address: usize, size: usize, family: Family) {
        let block = Block {
            address,
            size,
            birth: 0,
            stack: 0,
            family,
            foreign: true,
        };
        FREED.insert(self.session(), &block);
    }

    /// Notes that a block is about to be freed; returns it when it was noted before.
    #[inline(always)]
    pub(crate) fn died(&self, address: usize) -> Option<Block> {
        let block = LIVE.remove(address);
        if self.state & STACKS != 0 {
            self.taken_back(address, block.as_ref());
        }
        block
    }

    #[cold]
    fn taken_back(&self, address: usize, block: Option<&Block>) {
        /// Larger ones may go back to the kernel, which gives their addresses to anybody (mallopt(3),
        /// `M_MMAP_THRESHOLD`).
        const MOST: usize = 128 << 10;
        let known = FREED.get(address);
        match block {
            Some(block) if block.size < MOST => {
                if known.is_none_or(|known| known.foreign || known.size < block.size) {
                    let block = Block {
                        foreign: false,
                        ..*block
                    };
                    FREED.insert(self.session(), &block);
                }
            }
            // One that was noted as in use, or went back to the kernel.
            _ => {
                FREED.remove(address);
            }
        }
    }

    /// Brings a block back whose realloc failed.
    #[cold]
    pub(crate) fn back(&self, block: &Block) {
        FREED.remove(block.address);
        LIVE.insert(self.session(), block);
    }

    pub(crate) fn mapped(&self, start: usize, len: usize, family: Family) {
        if let Some(block) = self.block(start, len, family) {
            self.mapping_back(&block);
        }
    }

    pub(crate) fn unmapped(&self, start: usize, len: usize) -> Option<Block> {
        let result = MAPPED.lock().remove(start, len);
        OVERFLOWED.fetch_or(result.is_err(), Ordering::Relaxed);
        result.ok().flatten()
    }

    pub(crate) fn mapped_len(&self, start: usize) -> Option<usize> {
        MAPPED.lock().len_of(start)
    }

    pub(crate) fn mapping_back(&self, block: &Block) {
        let failed = MAPPED.lock().insert(self.session(), block).is_err();
        OVERFLOWED.fetch_or(failed, Ordering::Relaxed);
    }

    /// With stacks on, clears what earlier owners left in a fresh block, whose content is undefined: pointers that would
    /// seem to hold what they once held, and the type of an object that is gone.
    #[inline(always)]
    pub(crate) fn clear(&self, block: *mut c_void, size: usize) {
        /// What is larger comes from the kernel, as a rule, and is clear.
        const MOST: usize = 64 << 10;
        if self.state & STACKS != 0 && size <= MOST && !block.is_null() {
            // SAFETY: the allocator just returned `size` bytes there, and nobody else has the pointer yet.
            unsafe { block.cast::<u8>().write_bytes(0, size) };
        }
    }

    #[inline(always)]
    fn block(&self, address: usize, size: usize, family: Family) -> Option<Block> {
        let unwatched = self.guard_before != 0;
        if unwatched || (!self.own && self.state & ONLY_OWN != 0) {
            return None;
        }
        let stack = if self.state & STACKS != 0 { self.capture() } else { 0 };
        Some(Block {
            address,
            size,
            birth: self.birth,
            stack,
            family,
            foreign: !self.own,
        })
    }

    /// Who is doing something that is not an allocation; `None` when it is not to be noted.
    pub(crate) fn mark(&self) -> Option<Mark> {
        let block = self.block(0, 0, Family::Malloc)?;
        Some(Mark {
            birth: block.birth,
            stack: block.stack,
            foreign: block.foreign,
        })
    }

    #[cold]
    fn capture(&self) -> u32 {
        let capture = CAPTURE.load(Ordering::Acquire);
        if capture == 0 {
            return 0;
        }
        let frames = Frames {
            inside: std::ptr::from_ref(self) as usize,
            outside: thread().outermost.get(),
        };
        // SAFETY: only `capture_with` stores here, and it stores a `fn(Frames) -> u32`.
        unsafe { std::mem::transmute::<usize, fn(Frames) -> u32>(capture)(frames) }
    }

    #[inline(always)]
    fn session(&self) -> u32 {
        (self.state >> 32) as u32
    }
}

impl Drop for Watch {
    #[inline(always)]
    fn drop(&mut self) {
        thread().guard.set(self.guard_before);
    }
}

//! A growable array in a region of its own.

use std::ops::{Deref, DerefMut};

use crate::region::{OutOfMemory, Region};

/// Like `Vec<T>` for plain data, in memory that a reachability scan skips.
///
/// `T: Copy` keeps drops out of it; zero bytes must be a valid `T` only where
/// [`MappedVec::zeroed`] is used.
pub struct MappedVec<T: Copy> {
    region: Option<Region>,
    len: usize,
    _of: std::marker::PhantomData<T>,
}

impl<T: Copy> MappedVec<T> {
    /// An empty array, without memory yet.
    pub const fn new() -> Self {
        MappedVec {
            region: None,
            len: 0,
            _of: std::marker::PhantomData,
        }
    }

    /// Adds `value` at the end.
    #[inline]
    pub fn push(&mut self, value: T) -> Result<(), OutOfMemory> {
        if self.len == self.capacity() {
            self.grow()?;
        }
        // SAFETY: len < capacity after the line above, so the slot lies in the region.
        unsafe { self.data().add(self.len).write(value) };
        self.len += 1;
        Ok(())
    }

    /// Puts `value` before the element at `at` (≤ length).
    pub fn insert(&mut self, at: usize, value: T) -> Result<(), OutOfMemory> {
        self.push(value)?;
        self[at..].rotate_right(1);
        Ok(())
    }

    /// Takes the element at `at` out; those behind it move up.
    pub fn remove(&mut self, at: usize) {
        self[at..].rotate_left(1);
        self.len -= 1;
    }

    /// Forgets the elements and keeps the memory.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    #[inline]
    fn capacity(&self) -> usize {
        self.region.as_ref().map_or(0, |region| region.len() / size_of::<T>())
    }

    #[inline]
    fn data(&self) -> *mut T {
        self.region
            .as_ref()
            .map_or(std::ptr::NonNull::dangling().as_ptr(), |region| region.start().cast())
    }

    #[cold]
    fn grow(&mut self) -> Result<(), OutOfMemory> {
        let bytes = (self.capacity() * size_of::<T>() * 2).max(1 << 16);
        let bigger = Region::new(bytes.max(size_of::<T>()))?;
        // SAFETY: both regions hold at least `len` elements and do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(self.data(), bigger.start().cast(), self.len) };
        self.region = Some(bigger);
        Ok(())
    }
}

impl MappedVec<u8> {
    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> Result<Self, OutOfMemory> {
        Ok(MappedVec {
            region: Some(Region::new(len.max(1))?),
            len,
            _of: std::marker::PhantomData,
        })
    }
}

impl<T: Copy> Default for MappedVec<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Copy> Deref for MappedVec<T> {
    type Target = [T];
    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: the first `len` elements were written (or are zero bytes, for u8); regions are page-aligned.
        unsafe { std::slice::from_raw_parts(self.data(), self.len) }
    }
}

impl<T: Copy> DerefMut for MappedVec<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `&mut self` makes the borrow the only one.
        unsafe { std::slice::from_raw_parts_mut(self.data(), self.len) }
    }
}

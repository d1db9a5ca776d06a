//! `operator new`, `operator delete` and `strdup` of an allocator that serves them from within.
//!
//! Those of libstdc++ and libc ask `malloc` through a slot, and that call is seen. mimalloc, tcmalloc, jemalloc
//! and the sanitizers' runtime libraries, where they serve `malloc`, do not ask it: without these hooks a
//! block from `new` would be nowhere, and the call that lost it clean.
//!
//! The names are those of the Itanium C++ ABI where `size_t` is `unsigned long`.

use std::ffi::{CStr, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};

use leaktight_liveset::Family;

use crate::native::allocate;
use crate::slots::{Hook, ReplacedFunction};
use crate::state::Watch;

type Pointer = *mut c_void;

/// With all arguments that any of them takes (size, alignment, `std::nothrow`; block, size, alignment, …):
/// where a caller passes fewer, the registers of the others are handed on and nobody reads them. An exception
/// may pass through.
type Function = unsafe extern "C-unwind" fn(usize, usize, usize, usize) -> Pointer;

macro_rules! functions {
    ($($name:literal $hook:ident $real:ident $kind:ident,)*) => {
        $(
            static $real: AtomicUsize = AtomicUsize::new(0);

            unsafe extern "C-unwind" fn $hook(first: usize, second: usize, third: usize, fourth: usize) -> Pointer {
                // SAFETY: the address of the function of this name, stored before any slot was patched.
                let real = unsafe { std::mem::transmute::<usize, Function>($real.load(Ordering::Relaxed)) };
                // SAFETY: the caller's own arguments, handed on.
                $kind(first, || unsafe { real(first, second, third, fourth) })
            }
        )*

        pub(crate) static FUNCTIONS: &[ReplacedFunction] = &[$(
            ReplacedFunction { name: $name, hook: Hook($hook as *const ()), real: &$real },
        )*];
    };
}

functions! {
    c"_Znwm" new NEW new_block,
    c"_Znam" new_array NEW_ARRAY new_block,
    c"_ZnwmRKSt9nothrow_t" new_nothrow NEW_NOTHROW new_block,
    c"_ZnamRKSt9nothrow_t" new_array_nothrow NEW_ARRAY_NOTHROW new_block,
    c"_ZnwmSt11align_val_t" new_aligned NEW_ALIGNED new_block,
    c"_ZnamSt11align_val_t" new_array_aligned NEW_ARRAY_ALIGNED new_block,
    c"_ZnwmSt11align_val_tRKSt9nothrow_t" new_aligned_nothrow NEW_ALIGNED_NOTHROW new_block,
    c"_ZnamSt11align_val_tRKSt9nothrow_t" new_array_aligned_nothrow NEW_ARRAY_ALIGNED_NOTHROW new_block,
    c"_ZdlPv" delete DELETE delete_block,
    c"_ZdaPv" delete_array DELETE_ARRAY delete_block,
    c"_ZdlPvm" delete_sized DELETE_SIZED delete_block,
    c"_ZdaPvm" delete_array_sized DELETE_ARRAY_SIZED delete_block,
    c"_ZdlPvRKSt9nothrow_t" delete_nothrow DELETE_NOTHROW delete_block,
    c"_ZdaPvRKSt9nothrow_t" delete_array_nothrow DELETE_ARRAY_NOTHROW delete_block,
    c"_ZdlPvSt11align_val_t" delete_aligned DELETE_ALIGNED delete_block,
    c"_ZdaPvSt11align_val_t" delete_array_aligned DELETE_ARRAY_ALIGNED delete_block,
    c"_ZdlPvmSt11align_val_t" delete_sized_aligned DELETE_SIZED_ALIGNED delete_block,
    c"_ZdaPvmSt11align_val_t" delete_array_sized_aligned DELETE_ARRAY_SIZED_ALIGNED delete_block,
    c"_ZdlPvSt11align_val_tRKSt9nothrow_t" delete_aligned_nothrow DELETE_ALIGNED_NOTHROW delete_block,
    c"_ZdaPvSt11align_val_tRKSt9nothrow_t" delete_array_aligned_nothrow DELETE_ARRAY_ALIGNED_NOTHROW delete_block,
    c"strdup" strdup STRDUP copy_text,
    c"__strdup" strdup_internal STRDUP_INTERNAL copy_text,
    c"strndup" strndup STRNDUP copy_text,
    c"__strndup" strndup_internal STRNDUP_INTERNAL copy_text,
}

#[inline(always)]
fn new_block(size: usize, call: impl Fn() -> Pointer) -> Pointer {
    allocate(Family::New, size, call)
}

#[inline(always)]
fn delete_block(block: usize, call: impl Fn() -> Pointer) -> Pointer {
    let watch = if block == 0 { None } else { Watch::frees() };
    if let Some(watch) = &watch {
        // Before the call, as in `free`.
        watch.died(block);
    }
    call()
}

#[inline(always)]
fn copy_text(_text: usize, call: impl Fn() -> Pointer) -> Pointer {
    let Some(watch) = Watch::allocations() else {
        return call();
    };
    let copy = call();
    if !copy.is_null() {
        // SAFETY: these functions return a string of their own.
        let size = unsafe { CStr::from_ptr(copy.cast()) }.to_bytes_with_nul().len();
        watch.born(copy as usize, size, Family::Malloc);
    }
    copy
}

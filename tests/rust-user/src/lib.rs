//! What a user might have written: functions that leak, and others that do not.

use std::collections::HashMap;
use std::ffi::{CString, c_char, c_int, c_void};
use std::hint::black_box;
use std::sync::{LazyLock, Mutex};

/// Forgets 100 bytes.
#[inline(never)]
pub fn forget_a_vector() {
    std::mem::forget(black_box(Vec::<u8>::with_capacity(100)));
}

/// Forgets the bytes that a C library was to give back: 12 and the NUL.
#[inline(never)]
pub fn give_a_string_away() {
    let _ = black_box(CString::new("twelve bytes").expect("no NUL inside").into_raw());
}

/// A boxed record that owns two vectors: three blocks of 48, 24 and 40 bytes.
#[inline(never)]
pub fn leak_a_record() {
    struct Record {
        _first: Vec<u64>,
        _second: Vec<u64>,
    }
    let record = Record {
        _first: vec![1; 3],
        _second: vec![2; 5],
    };
    black_box(Box::leak(Box::new(record)));
}

unsafe extern "C" {
    fn opendir(path: *const c_char) -> *mut c_void;
    fn dirfd(directory: *mut c_void) -> c_int;
    fn closedir(directory: *mut c_void) -> c_int;
    fn close(file: c_int) -> c_int;
}

/// Opens a directory and closes the file below it, but not the handle.
///
/// # Panics
///
/// When `/` cannot be opened.
#[inline(never)]
pub fn keep_a_handle() {
    // SAFETY: a NUL-terminated path; the handle is not used once its descriptor is closed.
    unsafe {
        let directory = opendir(c"/".as_ptr());
        assert!(!directory.is_null());
        assert_eq!(close(dirfd(directory)), 0);
        black_box(directory);
    }
}

/// Opens a directory and closes it.
///
/// # Panics
///
/// When `/` cannot be opened.
#[inline(never)]
pub fn use_a_handle() {
    // SAFETY: a NUL-terminated path; the handle is closed once.
    unsafe {
        let directory = opendir(c"/".as_ptr());
        assert!(!directory.is_null());
        assert_eq!(closedir(directory), 0);
    }
}

static SHARED: LazyLock<Mutex<HashMap<u64, Box<[u8; 40]>>>> = LazyLock::new(Mutex::default);

/// Looks a number up in a cache of 300 entries that all threads share.
///
/// # Panics
///
/// When another thread panicked in here.
#[inline(never)]
pub fn look_up(key: u64) -> u8 {
    let mut cache = SHARED.lock().expect("nobody panics with the lock");
    cache.entry(key % 300).or_insert_with(|| Box::new([7; 40]))[0]
}

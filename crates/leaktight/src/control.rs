//! The positive control: planted leaks that must be seen, and a look-alike that must not.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};

use leaktight_hooks as hooks;
use leaktight_memory::{Meter, Unseen};
use leaktight_report::Control;

use crate::checks::Checks;
use crate::resources;
use crate::subject::{Planted, Subject};

/// The birth of planted blocks.
const CONTROL: u32 = u32::MAX - 1;

/// Plants, looks, and takes everything away again. What was missed in any run of it stays noted.
///
/// `kernel`: the kernel's figures are asked as well.
pub(crate) fn run<S: Subject>(subject: &mut S, checks: Checks, references: bool, kernel: bool, control: &mut Control) {
    hooks::leave_call(CONTROL);
    let planted = hooks::watched(|| {
        let mut planted = vec![plant_in_libc()];
        planted.extend(subject.plant());
        planted
    });
    let look_alike = hooks::watched(plant_in_libc);
    let look_alike_at = look_alike.address;
    hooks::watched(|| (look_alike.free)());

    let mut missed: Vec<&str> = Vec::new();
    let seen = seen();
    let exact = |planted: &&Planted| seen.get(&planted.address) == Some(&planted.size);
    missed.extend(
        planted
            .iter()
            .filter(|planted| !exact(planted))
            .map(|planted| planted.name),
    );
    if seen.contains_key(&look_alike_at) {
        missed.push("the release of a freed block");
    }
    let addresses: Vec<usize> = planted.iter().map(|planted| planted.address).collect();
    control.planted = planted.len() as u32 + u32::from(checks.fds) + u32::from(references) + u32::from(kernel);
    if kernel {
        missed.extend(missed_by_kernel());
    }
    if checks.fds {
        missed.extend(missed_descriptor());
    }
    hooks::watched(|| planted.into_iter().for_each(|planted| (planted.free)()));
    if self::seen().keys().any(|address| addresses.contains(address)) {
        missed.push("the release of a planted block");
    }
    for name in missed {
        if !control.missed.iter().any(|known| known == name) {
            control.missed.push(name.to_owned());
        }
    }
    control.caught = control.planted.saturating_sub(control.missed.len() as u32);
}

/// What was missed of memory that no function of libc was asked for, and that was given back.
fn missed_by_kernel() -> Option<&'static str> {
    /// Much more than other threads map meanwhile, and never touched.
    const LEN: usize = 256 << 20;
    const MOST: u64 = LEN as u64 / 4 * 3;
    const TRIES: usize = 8;
    let meter = Meter::open().ok();
    let mapped = || Some(meter.as_ref()?.sizes()?.mapped);
    let is_seen = || {
        let before = mapped()?;
        let unseen = Unseen::map(LEN)?;
        let with = mapped()?;
        drop(unseen);
        Some(with >= before + MOST && mapped()? + MOST <= with)
    };
    let seen = (0..TRIES).any(|_| is_seen() == Some(true));
    (!seen).then_some("memory that only the kernel counts")
}

/// What was missed of a descriptor that is opened and closed again.
fn missed_descriptor() -> Option<&'static str> {
    // SAFETY: makes a descriptor, which is closed below; -1 where none can be had.
    let planted = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    let is_listed = || resources::descriptors().contains(&planted);
    let open = is_listed();
    // SAFETY: opened above, and nobody else knows it.
    unsafe { libc::close(planted) };
    match (open, is_listed()) {
        (false, _) => Some("an open descriptor"),
        (true, true) => Some("the closing of a descriptor"),
        (true, false) => None,
    }
}

fn seen() -> HashMap<usize, usize> {
    let live = hooks::live_blocks();
    let planted = live.iter().filter(|block| block.birth == CONTROL && !block.foreign);
    planted.map(|block| (block.address, block.size)).collect()
}

/// A node of a search tree (`tsearch(3)`), which libc allocates and frees through slots of its own.
fn plant_in_libc() -> Planted {
    unsafe extern "C" {
        fn tsearch(key: *const c_void, root: *mut *mut c_void, compare: Compare) -> *mut c_void;
        fn tdelete(key: *const c_void, root: *mut *mut c_void, compare: Compare) -> *mut c_void;
    }
    type Compare = extern "C" fn(*const c_void, *const c_void) -> c_int;
    extern "C" fn equal(_: *const c_void, _: *const c_void) -> c_int {
        0
    }
    /// Key and two children (glibc, misc/tsearch.c); musl's node has a height too.
    const SIZE: usize = if cfg!(target_env = "musl") { 32 } else { 24 };
    static KEY: u8 = 0;
    let key: *const c_void = (&raw const KEY).cast();
    let mut root = std::ptr::null_mut();
    // SAFETY: the comparison takes any pointers, and `root` is an empty tree of our own.
    let node = unsafe { tsearch(key, &mut root, equal) };
    Planted {
        name: "a block from malloc",
        address: node as usize,
        size: SIZE,
        free: Box::new(move || {
            let mut root = root;
            // SAFETY: the tree made above, with its one node; nobody else has it.
            unsafe { tdelete(key, &mut root, equal) };
        }),
    }
}

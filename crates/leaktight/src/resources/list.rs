//! What exists, asked of the system (`/proc`, see proc(5)).

use std::collections::BTreeMap;
use std::fs;

use leaktight_hooks::{self as hooks, Mark};

use super::Thing;

/// The open descriptors of this process.
pub(crate) fn descriptors() -> Vec<i32> {
    // The folder's own descriptor is closed again by the time anybody looks.
    let listed = numbers("/proc/self/fd");
    // SAFETY: F_GETFD only asks.
    let is_open = |descriptor: &i32| unsafe { libc::fcntl(*descriptor, libc::F_GETFD) } != -1;
    listed.into_iter().filter(is_open).collect()
}

/// How many descriptors this process may have.
pub(super) fn most_descriptors() -> usize {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: fills in the record.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } {
        0 => usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX),
        _ => usize::MAX,
    }
}

/// The threads of this process that run, and those of the calls that ended and were not joined.
pub(super) fn threads() -> BTreeMap<Thing, Option<Mark>> {
    let running = numbers("/proc/self/task");
    let mut threads: BTreeMap<Thing, Option<Mark>> = running
        .into_iter()
        .map(|number| (Thing::Thread(number), None))
        .collect();
    for thread in hooks::started_threads().iter().filter(|thread| thread.number != 0) {
        threads.insert(Thing::Thread(thread.number), Some(thread.mark));
    }
    threads
}

/// The child processes, those included that have ended and were not waited for.
pub(super) fn children() -> Vec<i32> {
    if !has_children() {
        return Vec::new();
    }
    let of = |thread: i32| fs::read_to_string(format!("/proc/self/task/{thread}/children")).unwrap_or_default();
    let parse = |list: String| -> Vec<i32> { list.split_whitespace().filter_map(|word| word.parse().ok()).collect() };
    numbers("/proc/self/task").into_iter().map(of).flat_map(parse).collect()
}

/// Asks for a child in any state, without waiting for it or taking its status away (waitid(2)).
fn has_children() -> bool {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::uninit();
    let states = libc::WEXITED | libc::WSTOPPED | libc::WCONTINUED;
    let options = states | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: fills in the record.
    unsafe { libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), options) == 0 }
}

/// The entries of a folder whose names are numbers.
fn numbers(folder: &str) -> Vec<i32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

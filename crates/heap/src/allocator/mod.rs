//! One file per allocator that keeps its own statistics and has a function of its own to ask for them.

#[cfg(any(target_os = "linux", target_os = "freebsd", target_os = "netbsd"))]
pub(crate) mod jemalloc;

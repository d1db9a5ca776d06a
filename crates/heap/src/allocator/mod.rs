//! One file per allocator that has functions of its own to ask it by.
//!
//! On Linux any of them may be there, in any object: [`any`] is the face that they share. On FreeBSD and NetBSD
//! jemalloc is the only one.

#[cfg(target_os = "linux")]
pub(crate) mod any;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc;
pub(crate) mod jemalloc;
#[cfg(target_os = "linux")]
mod mimalloc;
#[cfg(all(target_os = "linux", target_env = "musl"))]
mod musl;
#[cfg(target_os = "linux")]
mod tcmalloc;

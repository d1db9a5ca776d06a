//! One file per platform, each with `heap_info`, `heap_trim` and `allocators`.

#[cfg(target_os = "linux")]
#[path = "linux.rs"]
mod here;
#[cfg(target_os = "macos")]
#[path = "macos.rs"]
mod here;
#[cfg(windows)]
#[path = "windows.rs"]
mod here;
#[cfg(any(target_os = "freebsd", target_os = "netbsd"))]
#[path = "bsd.rs"]
mod here;

#[cfg(target_os = "linux")]
pub(crate) use here::statistics_of_malloc;
pub(crate) use here::{allocators, heap_info, heap_trim};

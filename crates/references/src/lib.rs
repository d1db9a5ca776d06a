//! How many references there are to each of CPython's objects, and how many of them the garbage collector sees.
//!
//! [`Held`] takes every object that can be found (what the collector tracks, what it reaches from there, what
//! static data of extension modules points to) and keeps it alive while calls are made, so that counts can be
//! compared at the same addresses and a reference that is released once too often frees nothing. Who
//! decides what the figures mean is somebody else.
//!
//! All of it needs the GIL, and a CPython whose layouts [`Runtime::find`] has checked.

mod addresses;
mod held;
mod runtime;
mod static_data;
mod visible;

pub use held::{Change, Held};
pub use runtime::{Runtime, Unknown};
pub use visible::{Seen, visible};

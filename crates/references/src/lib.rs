//! How many references there are to each of CPython's objects, and how many of them the garbage collector sees.
//!
//! [`Held`] finds every object that can be found (what the collector tracks, what it reaches from there, what
//! static data of extension modules points to), so that counts can be compared over many calls. It keeps those alive
//! whose death nobody can notice, so that a reference that is released once too often frees nothing, and knows of the
//! others whether they still live. Who decides what the figures mean is somebody else.
//!
//! All of it needs the GIL, and a CPython whose layouts [`Runtime::find`] has checked.

mod addresses;
mod frozen;
mod held;
mod loose;
mod runtime;
mod slots;
mod static_data;
mod told;
mod unnoticed;
mod visible;

pub use frozen::Frozen;
pub use held::{Change, Dying, Held, Lost};
pub use runtime::{Runtime, Unknown};
pub use slots::exporter;
pub use visible::{Seen, Stopped, visible};

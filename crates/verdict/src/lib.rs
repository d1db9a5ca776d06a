//! What the survivors mean.
//!
//! Numbers come in, a verdict goes out: no I/O, no clock, no memory but the series itself.
//! Whoever measures hands a [`Judge`] the totals at every checkpoint and, at every look, the
//! surviving blocks by site and birth call; the judge says whether to go on ([`Next`]).
//!
//! Five rules decide, each in a file of its own:
//!
//! * `births` – *who of the old is still alive?* A leak leaves survivors of every age. A cache leaves
//!   none once it is full, a ring or LRU none older than its turnover, a free list only early ones.
//!   Calls are compared in octaves, as in the octave low-water rule: a block that is alive at call n
//!   and was born at call k has been below every total from k to n.
//! * `trend` – *does the low-water mark of all bytes rise from octave to octave?* This sees what
//!   passes its growth on to ever new blocks, such as a vector that reallocates.
//! * `lost` – *does no word in memory point to it?* That is a proof, when it repeats. The opposite
//!   proves nothing: stale words abound.
//! * `scarce` – *are descriptors, threads or children still being added?* They run out early, so
//!   they are judged early.
//! * `witness` – *does what the kernel or an allocator counts grow, and no live block explains it?*
//!
//! Whoever measures also hands over how long the calls took; it decides only after how many calls growth is
//! called a leak.
//!
//! Guarantees, with C = [`Rules::confirm`] calls, or [`Rules::confirm_slow`] where calls are slow: what stops growing
//! before call C/8, or before 0.9 C if it left something in every tenth call or more often, and repeats with a period
//! below C/8 is never called growing; a leak with a fixed period up to [`Rules::period`] calls is never called clean.
#![forbid(unsafe_code)]

mod births;
mod history;
mod judge;
mod looks;
mod lost;
pub mod references;
mod rules;
mod scarce;
mod screen;
mod site;
mod trend;
mod witness;
pub mod writes;

pub use births::{Births, Rate};
pub use judge::{Judge, Next, Outcome, WITNESS};
pub use lost::is_proof;
pub use rules::{Certainty, Kept, Reason, Rules, Verdict};
pub use site::{Site, SiteFinding};
pub use trend::Amount;

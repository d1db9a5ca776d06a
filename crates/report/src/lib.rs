//! How a leak check is told: the report, its JSON form and its text for a terminal.
//!
//! Here live the types that every other part of Leaktight speaks when it talks about a result
//! ([`Report`], [`Finding`], [`Frame`]), one document format (`leaktight.report/1`, described field
//! by field in `SCHEMA.md`) and one text layout. Nothing here measures, decides or does I/O: the
//! engine fills a [`Report`], this crate turns it into a `String`, and whoever asked prints it.
//! Whether to use colour, and how wide the terminal is, are handed in as a [`Style`].
//!
//! ```text
//! engine ──▶ Report ──▶ to_json ──▶ from_json ──▶ Report
//!              └──────▶ text
//! ```
//!
//! Strings in a report come from the checked program, so the text escapes control characters and
//! the marks that reorder text: a symbol name cannot move the cursor or hide a line.
//!
//! ```
//! use leaktight_report::{Control, Environment, Report, Style, Verdict};
//!
//! let report = Report {
//!     subject: "zoo.sum(b\"abc\")".into(),
//!     verdict: Verdict::Clean,
//!     reason: String::new(),
//!     findings: vec![],
//!     calls: 2_560,
//!     period: 512,
//!     objects: 0,
//!     seconds: 0.4,
//!     looks: vec![],
//!     control: Control { planted: 3, caught: 3, missed: vec![] },
//!     blind_spots: vec![],
//!     not_done: vec![],
//!     kept: vec![],
//!     remarks: vec![],
//!     environment: Environment {
//!         runtime: "CPython 3.11.7".into(),
//!         libc: "glibc 2.36".into(),
//!         platform: "x86_64-linux".into(),
//!         leaktight: "0.1.0".into(),
//!     },
//! };
//!
//! assert_eq!(
//!     report.text(Style { color: false, width: 100 }),
//!     "\
//! CLEAN  zoo.sum(b\"abc\")
//!   no leak with a period up to 512 calls
//!   CPython 3.11.7, glibc 2.36; control: 3 of 3 planted leaks caught; 2,560 calls, 0.4 s"
//! );
//! assert_eq!(Report::from_json(&report.to_json())?, report);
//! # Ok::<(), leaktight_report::Error>(())
//! ```

#![forbid(unsafe_code)]

mod facts;
mod json;
mod model;
mod page;
mod paint;
mod path;
mod sentence;
mod stack;
mod terminal;
mod text;
mod words;

pub use json::{Error, SCHEMA};
pub use model::{
    Certainty, Control, Environment, Finding, Frame, Kept, Kind, Look, References, Report, Severity, Step, Verdict,
};
pub use sentence::sentence;
pub use text::Style;
pub use words::{counted, figure, integer, plural};

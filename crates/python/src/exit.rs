//! Exit statuses of the command line. `leaktight.ExitStatus`, the help in `cli.rs` and `docs/guide.md` list the
//! same in the same words; `tests/test_exit_status.py` compares them.

/// Clean or bounded.
pub const CLEAN: i32 = 0;
/// A leak.
pub const LEAK: i32 = 1;
/// The command line, the setup or the statement is wrong: nothing was judged.
pub const USAGE: i32 = 2;
/// It could not be decided.
pub const INDETERMINATE: i32 = 3;
/// Allocations cannot be seen in this process.
pub const CANNOT_SEE: i32 = 100;
/// The report could not be written.
pub const NOT_WRITTEN: i32 = 101;
/// Interrupted by Ctrl-C, as shells count it.
pub const INTERRUPTED: i32 = 130;

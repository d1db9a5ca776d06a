//! The public way in: what to check, how deep, and what can go wrong.

use std::time::Duration;

use leaktight_hooks::{self as hooks, Options, Threads};
use leaktight_report::Report;
use leaktight_verdict::Rules;

use crate::checks::Checks;
use crate::room::with_room;
use crate::run;
use crate::session::{Session, WhenBusy};
use crate::subject::{Planted, Subject};

/// As debug information names it.
pub(crate) const FILE: &str = file!();

/// A leak check of a subject: how many calls, how long, whose allocations.
///
/// ```
/// use std::time::Duration;
///
/// let report = leaktight::Check::new()
///     .time_budget(Duration::from_secs(5))
///     .closure("parse", || drop(String::from("x: y")));
/// assert_eq!(report.verdict, leaktight::Verdict::Clean);
/// ```
#[derive(Clone, Debug)]
pub struct Check {
    pub(crate) rules: Rules,
    period: Option<u32>,
    max_calls: Option<u32>,
    pub(crate) time: Duration,
    pub(crate) bytes: u64,
    pub(crate) checks: Checks,
    pub(crate) warm_up: u32,
    pub(crate) holders: bool,
    threads: Option<Threads>,
}

/// Why there is no report.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error<E> {
    /// A check runs on another thread of this process.
    Busy,
    /// The call under test started a check itself.
    Nested,
    /// Allocations cannot be seen in this process.
    Hooks(hooks::Error),
    /// The call failed.
    Call(E),
    /// The call forked, and this is the child. It is not tracked and must not go on with the check.
    ForkedChild,
}

impl<E: std::fmt::Display> std::fmt::Display for Error<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Busy => f.write_str(
                "a leak check is running on another thread of this process; run one after the other, or in processes of their own",
            ),
            Error::Nested => {
                f.write_str("the call under test started a leak check itself; only one can run at a time")
            }
            Error::Hooks(why) => why.fmt(f),
            Error::Call(why) => write!(f, "the call under test failed: {why}"),
            Error::ForkedChild => f.write_str("the call under test forked and returned in the child as well"),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for Error<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Hooks(why) => Some(why),
            Error::Call(why) => Some(why),
            _ => None,
        }
    }
}

/// Checks a closure as [`Check::closure`] does, with the defaults.
///
/// # Panics
///
/// As [`Check::closure`].
pub fn check(call: impl FnMut()) -> Report {
    Check::new().closure(std::any::type_name_of_val(&call), call)
}

impl Check {
    /// The defaults: leaks with a period up to 512 calls, at most 65,536 calls, 20 seconds and
    /// 1 GiB of leaked memory.
    pub fn new() -> Check {
        Check {
            rules: Rules::default(),
            period: None,
            max_calls: None,
            time: Duration::from_secs(20),
            bytes: 1 << 30,
            checks: Checks::ALL,
            warm_up: 0,
            holders: false,
            threads: None,
        }
    }

    /// A leak that happens once in so many calls must not be missed (at least 1). Default: 512, or a quarter of
    /// [`Check::max_calls`] if that is less.
    pub fn period(mut self, calls: u32) -> Check {
        self.period = Some(calls.max(1));
        self
    }

    /// Makes no more calls than this. If they are fewer than four for each one of a [`Check::period`] that was asked
    /// for, nothing is called clean. Default: 65,536, or 128 times the period if that is more.
    pub fn max_calls(mut self, calls: u32) -> Check {
        self.max_calls = Some(calls.max(1));
        self
    }

    /// So many calls are made before the first that counts as one. Default: none.
    pub fn warm_up(mut self, calls: u32) -> Check {
        self.warm_up = calls;
        self
    }

    /// Tells of all that the calls leave behind where it was allocated and what holds it, whatever the verdict
    /// ([`Report::kept`]). Default: of what is reported as a leak only.
    pub fn holders(mut self, tell: bool) -> Check {
        self.holders = tell;
        self
    }

    /// Starts no call after so long, and judges what was seen by then.
    pub fn time_budget(mut self, time: Duration) -> Check {
        self.time = time;
        self
    }

    /// Starts no call when those before it have left more than so many bytes behind.
    pub fn memory_budget(mut self, bytes: u64) -> Check {
        self.bytes = bytes;
        self
    }

    /// A first look after so few calls (at least 2): unless each of them has left something, but for the first and
    /// the last, they are clean, and the report says so for leaks at every call only. Of two calls the first must have left
    /// nothing. Another such look follows after twice as many, and so on up to 8 calls at least. For many subjects of
    /// which few leak. Default: no such looks.
    pub fn screen(mut self, calls: u32) -> Check {
        self.rules.screen = Some(calls.max(2));
        self
    }

    /// Growth that something still holds is called a leak from so many calls on, or after 32 periods if that is
    /// later. Default: 65,536, or 16,384 where more would take over five seconds.
    pub fn confirm(mut self, calls: u32) -> Check {
        (self.rules.confirm, self.rules.confirm_slow) = (calls, calls);
        self
    }

    /// What to look at. Default: everything.
    pub fn checks(mut self, checks: Checks) -> Check {
        self.checks = checks;
        self
    }

    /// Whose allocations count. Unless told otherwise: for [`Check::closure`] the calling thread's and
    /// those of threads that it starts, for [`Check::run`] all.
    pub fn threads(mut self, threads: Threads) -> Check {
        self.threads = Some(threads);
        self
    }

    /// Checks a closure. Only what the calling thread and the threads that it starts allocate counts
    /// (unless [`Check::threads`] asked for all), so other tests may run meanwhile. A check on another
    /// thread is waited for.
    ///
    /// # Panics
    ///
    /// When allocations cannot be seen in this process (a static program), when the closure starts a
    /// check itself, and when the closure panics. The hooks are taken out first.
    pub fn closure(&self, name: &str, call: impl FnMut()) -> Report {
        let mut subject = Closure {
            name: name.to_owned(),
            call,
        };
        match self.run_with(&mut subject, Threads::Own, WhenBusy::Wait) {
            Ok(report) => report,
            Err(Error::ForkedChild) => std::process::exit(0),
            Err(why) => panic!("{why}"),
        }
    }

    /// Checks a subject.
    ///
    /// # Errors
    ///
    /// See [`Error`]. The process is left as it was in any case.
    pub fn run<S: Subject>(&self, subject: &mut S) -> Result<Report, Error<S::Error>> {
        self.run_with(subject, Threads::All, WhenBusy::Fail)
    }

    fn run_with<S: Subject>(
        &self,
        subject: &mut S,
        threads: Threads,
        busy: WhenBusy,
    ) -> Result<Report, Error<S::Error>> {
        let options = Options {
            threads: self.threads.unwrap_or(threads),
            python: subject.is_python(),
            resources: self.checks.resources(),
            files: self.checks.files,
        };
        let own_only = options.threads == Threads::Own;
        let depth = Rules::of(self.period, self.max_calls);
        let mut check = self.clone();
        (check.rules.period, check.rules.max_calls) = (depth.period, depth.max_calls);
        hooks::unwatched(|| {
            let session = with_room(|| Session::start(options, busy))?;
            run::run(&check, own_only, session, subject)
        })
    }
}

impl Default for Check {
    fn default() -> Self {
        Self::new()
    }
}

struct Closure<F> {
    name: String,
    call: F,
}

impl<F: FnMut()> Subject for Closure<F> {
    type Error = std::convert::Infallible;

    /// A frame of its own: stacks are cut at that of the caller, and the closure may be inlined.
    #[inline(never)]
    fn call(&mut self) -> Result<(), Self::Error> {
        (self.call)();
        Ok(())
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn runtime(&self) -> String {
        "Rust".to_owned()
    }

    fn plant(&mut self) -> Vec<Planted> {
        const SIZE: usize = 40;
        const PAGE: usize = 4096;
        // SAFETY: plain allocations, each released once below.
        unsafe {
            let block = libc::malloc(SIZE);
            let (prot, flags) = (libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            let pages = libc::mmap(std::ptr::null_mut(), PAGE, prot, flags, -1, 0);
            vec![
                Planted {
                    name: "a block from malloc called by this program",
                    address: block as usize,
                    size: SIZE,
                    free: Box::new(move || libc::free(block)),
                },
                Planted {
                    name: "a mapping from mmap",
                    address: pages as usize,
                    size: PAGE,
                    free: Box::new(move || {
                        libc::munmap(pages, PAGE);
                    }),
                },
            ]
        }
    }
}

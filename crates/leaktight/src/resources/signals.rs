//! Which function handles which signal.

use std::mem::MaybeUninit;

/// The handlers at one moment, by signal number.
pub(super) struct Handlers(Vec<usize>);

impl Handlers {
    pub(super) fn now() -> Handlers {
        Handlers((1..libc::SIGRTMIN()).map(handler).collect())
    }

    /// The names of the signals that are handled otherwise now.
    pub(super) fn changed(&self) -> Vec<String> {
        let pairs = self.0.iter().zip(Handlers::now().0);
        let changed = (1..).zip(pairs).filter(|(_, (before, now))| *before != now);
        changed.map(|(signal, _)| name(signal)).collect()
    }
}

fn handler(signal: i32) -> usize {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action it only fills in the record.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr());
        action.assume_init().sa_sigaction
    }
}

fn name(signal: i32) -> String {
    let known = [
        (libc::SIGHUP, "SIGHUP"),
        (libc::SIGINT, "SIGINT"),
        (libc::SIGQUIT, "SIGQUIT"),
        (libc::SIGABRT, "SIGABRT"),
        (libc::SIGFPE, "SIGFPE"),
        (libc::SIGSEGV, "SIGSEGV"),
        (libc::SIGBUS, "SIGBUS"),
        (libc::SIGPIPE, "SIGPIPE"),
        (libc::SIGALRM, "SIGALRM"),
        (libc::SIGTERM, "SIGTERM"),
        (libc::SIGCHLD, "SIGCHLD"),
        (libc::SIGUSR1, "SIGUSR1"),
        (libc::SIGUSR2, "SIGUSR2"),
        (libc::SIGPROF, "SIGPROF"),
        (libc::SIGVTALRM, "SIGVTALRM"),
        (libc::SIGWINCH, "SIGWINCH"),
    ];
    let found = known.into_iter().find(|(number, _)| *number == signal);
    found.map_or_else(|| format!("signal {signal}"), |(_, name)| name.to_owned())
}

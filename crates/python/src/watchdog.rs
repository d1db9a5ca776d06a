//! Interrupts a call that does not return.

use std::ffi::c_long;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::MutexExt;

use crate::judge::CallTimeout;

/// How long after the end of the time budget a call may go on, and how long it may take in any case.
const GRACE: Duration = Duration::from_secs(1);
/// How often to look whether a call runs.
const POLL: Duration = Duration::from_millis(100);
/// How long after that Python code has to let itself be interrupted.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// A thread that raises `CallTimeout` in the thread that made this, when the time is up and a while, and
/// a call still runs. Gone when dropped.
pub(crate) struct Watchdog {
    target: c_long,
    call: Arc<Mutex<Call>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the two threads tell each other.
#[derive(Default)]
struct Call {
    /// A call is being made, since then.
    since: Option<Instant>,
    /// It was interrupted.
    interrupted: bool,
}

impl Watchdog {
    /// Starts the clock. `give_up` is called when the call cannot be interrupted, being stuck in native code.
    pub(crate) fn start(budget: Duration, give_up: Option<fn(Duration)>) -> Watchdog {
        // SAFETY: returns the number of the calling thread.
        let target = unsafe { ffi::PyThread_get_thread_ident() } as c_long;
        let call = Arc::new(Mutex::new(Call::default()));
        let (stop, stopped) = mpsc::channel::<()>();
        let watched = call.clone();
        // A thread allocates while it starts; that must be over before anything is counted.
        let (ready, started) = mpsc::channel::<()>();
        let watch = move || {
            drop(ready);
            let wait = |time| matches!(stopped.recv_timeout(time), Err(RecvTimeoutError::Timeout));
            if !wait(budget.saturating_add(GRACE)) {
                return;
            }
            loop {
                // What was seen is still being judged, or the time was spent between the calls.
                let since = watched.lock().unwrap_or_else(PoisonError::into_inner).since;
                let Some(late) = since.filter(|since| since.elapsed() >= GRACE) else {
                    if !wait(POLL) {
                        return;
                    }
                    continue;
                };
                // Waits for the GIL on a thread of its own, since native code may never let go of it.
                let call = watched.clone();
                std::thread::spawn(move || leaktight::unwatched(|| interrupt(target, &call, late)));
                if !wait(LAST_WAIT) {
                    return;
                }
                if watched.lock().unwrap_or_else(PoisonError::into_inner).since == Some(late) {
                    return give_up.into_iter().for_each(|give_up| give_up(budget));
                }
            }
        };
        // What the thread allocates is the tracker's own.
        let thread = std::thread::Builder::new()
            .name("leaktight-watchdog".to_owned())
            .spawn(move || leaktight::own_thread(|| leaktight::unwatched(watch)));
        let _ = started.recv();
        Watchdog {
            target,
            call,
            stop: Some(stop),
            thread: thread.ok(),
        }
    }
}

impl Watchdog {
    /// One that never interrupts.
    pub(crate) fn none() -> Watchdog {
        Watchdog {
            target: 0,
            call: Arc::default(),
            stop: None,
            thread: None,
        }
    }

    /// A call begins; it may be interrupted from now on.
    pub(crate) fn call_begins(&self, py: Python<'_>) {
        lock(py, &self.call).since = Some(Instant::now());
    }

    /// The call has ended. Returns whether it was interrupted; an exception that was not delivered in
    /// time is taken back.
    pub(crate) fn call_ends(&self, py: Python<'_>) -> bool {
        let mut call = lock(py, &self.call);
        call.since = None;
        if call.interrupted {
            // SAFETY: attached; null takes back what is not delivered yet.
            unsafe { ffi::PyThreadState_SetAsyncExc(self.target, std::ptr::null_mut()) };
        }
        call.interrupted
    }
}

/// Interrupts the call that began at `late`, unless it has ended by now.
fn interrupt(target: c_long, call: &Mutex<Call>, late: Instant) {
    Python::attach(|py| {
        let mut call = lock(py, call);
        if call.since == Some(late) {
            call.interrupted = true;
            let class = py.get_type::<CallTimeout>();
            // SAFETY: attached; an unknown thread number is ignored.
            unsafe { ffi::PyThreadState_SetAsyncExc(target, class.as_ptr()) };
            // What dies may run code that waits for the call's end.
            drop(call);
            // It may wait for something to die that is held.
            // SAFETY: attached.
            unsafe { leaktight::let_go_of_objects() };
        }
    });
}

/// Only under this lock a call ends, or is interrupted. While it is waited for others may run Python, and the collector.
fn lock<'a>(py: Python<'_>, call: &'a Mutex<Call>) -> MutexGuard<'a, Call> {
    call.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It waits for nothing but the channel, and never for the GIL.
            let _ = thread.join();
        }
    }
}

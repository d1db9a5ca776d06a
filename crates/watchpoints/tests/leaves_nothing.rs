//! Nothing is left over, however a watch ends and whatever happens beside it.

mod common;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{State, WAYS, by, eight, is, on_own_thread, one, output_of, passes, process};
use leaktight_watchpoints::{Options, Refusal, Watch, Way, watched};

static SIGNALS: AtomicU64 = AtomicU64::new(0);

extern "C" fn counts(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::SeqCst);
}

fn handle(signal: libc::c_int, handler: usize) {
    // SAFETY: the handler touches an atomic, or is none.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = libc::SA_RESTART;
        assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
    }
}

/// A watch, more writes after it than there were registers, and that they were not seen.
fn round(way: Way, words: &[AtomicU64; 4]) {
    let (_, log) = watched(&words.each_ref().map(eight), &by(way), |_| {
        for word in words.iter().chain(words).chain(words) {
            word.fetch_add(1, Ordering::SeqCst);
        }
    })
    .unwrap();
    assert_eq!(log.writes().len(), 12, "{way:?}: {log:?}");
    assert!(log.is_complete() && log.not_cleared.is_none(), "{log:?}");
    let in_order = log
        .writes()
        .iter()
        .enumerate()
        .all(|(at, write)| write.word == at % 4 && write.change() == 1);
    assert!(in_order, "{log:?}");
    // The default action is back, so a trap would end the process.
    words.iter().for_each(|word| word.store(0, Ordering::SeqCst));
}

const STORM: &str = "two_hundred_runs_under_signals_threads_and_forks_leave_nothing";

#[test]
fn two_hundred_runs_under_signals_threads_and_forks_leave_nothing() {
    if !is("storm by Perf") && !is("storm by Ptrace") {
        let _one = one();
        return WAYS
            .iter()
            .for_each(|way| passes(STORM, &format!("storm by {way:?}"), None));
    }
    let way = if is("storm by Perf") { Way::Perf } else { Way::Ptrace };
    handle(libc::SIGUSR1, counts as *const () as usize);
    handle(libc::SIGALRM, counts as *const () as usize);
    handle(libc::SIGCHLD, counts as *const () as usize);
    let (stop, forks, threads) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    // SAFETY: only asks.
    let own = unsafe { libc::pthread_self() };
    let words = [0; 4].map(AtomicU64::new);
    round(way, &words);
    let before = State::now();
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    std::thread::scope(|scope| {
        // A failure must not leave them running.
        let stopping = Stop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                // SAFETY: the thread lives, and handles the signal.
                unsafe { libc::pthread_kill(own, libc::SIGUSR1) };
                std::thread::sleep(Duration::from_micros(50));
            }
        });
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                // SAFETY: the child ends at once.
                unsafe {
                    let child = libc::fork();
                    if child == 0 {
                        libc::_exit(3);
                    }
                    let mut status = 0;
                    while libc::waitpid(-1, &mut status, 0) < 0 {}
                    assert_eq!(libc::WEXITSTATUS(status), 3, "somebody else's child");
                }
                forks.fetch_add(1, Ordering::SeqCst);
            }
        });
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                let block = std::thread::spawn(|| vec![1u8; 1000]).join().unwrap();
                threads.fetch_add(block.len() as u32 / 1000, Ordering::SeqCst);
            }
        });
        let every = libc::timeval {
            tv_sec: 0,
            tv_usec: 300,
        };
        let timer = libc::itimerval {
            it_interval: every,
            it_value: every,
        };
        // SAFETY: its signal is handled.
        unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) };
        for _ in 0..200 {
            round(way, &words);
        }
        let no_time = libc::timeval { tv_sec: 0, tv_usec: 0 };
        let off = libc::itimerval {
            it_interval: no_time,
            it_value: no_time,
        };
        // SAFETY: as above.
        unsafe { libc::setitimer(libc::ITIMER_REAL, &off, std::ptr::null_mut()) };
        drop(stopping);
    });
    assert_eq!(State::now(), before);
    let all = [&forks, &threads].map(|counter| counter.load(Ordering::SeqCst));
    eprintln!(
        "{way:?}: {all:?} forks and threads, {} signals",
        SIGNALS.load(Ordering::SeqCst)
    );
    assert!(all.iter().all(|count| *count > 5) && SIGNALS.load(Ordering::SeqCst) > 50);
    // What is left in the kernel.
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    assert!(status.contains("TracerPid:\t0\n"), "{status}");
}

const SILENT: &str = "a_helper_sends_no_signal_and_nobody_can_wait_for_it";

#[test]
fn a_helper_sends_no_signal_and_nobody_can_wait_for_it() {
    if !is("parent") {
        let _one = one();
        return passes(SILENT, "parent", None);
    }
    handle(libc::SIGCHLD, counts as *const () as usize);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            let mut waited = 0;
            while !stop.load(Ordering::SeqCst) {
                // SAFETY: asks for any child that ended.
                waited += u32::from(unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0);
            }
            waited
        });
        (0..20).for_each(|_| round(Way::Ptrace, &[0; 4].map(AtomicU64::new)));
        stop.store(true, Ordering::SeqCst);
        assert_eq!(waits.join().unwrap(), 0);
    });
    assert_eq!(SIGNALS.load(Ordering::SeqCst), 0);
}

#[test]
fn a_panic_and_a_drop_clear_the_registers() {
    let _one = one();
    for way in WAYS {
        on_own_thread(|| {
            let word = AtomicU64::new(0);
            round(way, &[0; 4].map(AtomicU64::new));
            let before = State::now();
            let panics = std::panic::catch_unwind(|| {
                watched(&[eight(&word)], &by(way), |_| {
                    word.store(1, Ordering::SeqCst);
                    std::panic::resume_unwind(Box::new("on purpose"))
                })
            });
            assert!(panics.is_err());
            word.store(2, Ordering::SeqCst);
            assert_eq!(State::now(), before);
            drop(Watch::start(&[eight(&word)], &by(way)).unwrap());
            word.store(3, Ordering::SeqCst);
            assert_eq!(State::now(), before);
        });
    }
}

#[test]
fn a_blocked_or_ignored_signal_is_so_again_afterwards() {
    let _one = one();
    for way in WAYS {
        on_own_thread(|| {
            // SAFETY: the mask of this thread; the action is put back below.
            unsafe {
                let mut set: libc::sigset_t = std::mem::zeroed();
                libc::sigaddset(&mut set, libc::SIGTRAP);
                libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
                libc::signal(libc::SIGTRAP, libc::SIG_IGN);
            }
            let before = State::now();
            round(way, &[0; 4].map(AtomicU64::new));
            assert_eq!(State::now(), before, "{way:?}");
            // SAFETY: as it was.
            unsafe { libc::signal(libc::SIGTRAP, libc::SIG_DFL) };
        });
    }
}

const LATE: &str = "a_write_with_the_signal_blocked_comes_late_by_perf";

#[test]
fn a_write_with_the_signal_blocked_comes_late_by_perf() {
    if !is("blocks") {
        let _one = one();
        return passes(LATE, "blocks", None);
    }
    let word = AtomicU64::new(0);
    let before = State::now();
    // SAFETY: the mask of this thread.
    let set_mask = |how| unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&mut set, libc::SIGTRAP);
        libc::pthread_sigmask(how, &set, std::ptr::null_mut());
    };
    let options = Options {
        capture: Some(|_| 5),
        ..by(Way::Perf)
    };
    let (_, log) = watched(&[eight(&word)], &options, |_| {
        word.store(1, Ordering::SeqCst);
        set_mask(libc::SIG_BLOCK);
        (2..5).for_each(|value| word.store(value, Ordering::SeqCst));
    })
    .unwrap();
    let told: Vec<_> = log
        .writes()
        .iter()
        .map(|write| (write.before, write.after, write.stack))
        .collect();
    // On aarch64 it is not known how many there were after the first.
    let missed = if cfg!(target_arch = "aarch64") { 1 } else { 2 };
    assert_eq!((told, log.missed), (vec![(0, 1, 5), (1, 4, 0)], missed));
    drop(log);
    assert_ne!(State::now(), before, "what the program has blocked stays blocked");
    set_mask(libc::SIG_UNBLOCK);
    assert_eq!(State::now(), before);
}

const CHILD: &str = "a_forked_child_has_no_watch_and_does_not_end_that_of_its_parent";

#[test]
fn a_forked_child_has_no_watch_and_does_not_end_that_of_its_parent() {
    let Some(way) = WAYS.into_iter().find(|way| is(&format!("fork by {way:?}"))) else {
        let _one = one();
        return WAYS
            .iter()
            .for_each(|way| passes(CHILD, &format!("fork by {way:?}"), None));
    };
    let word = AtomicU64::new(0);
    let before = State::now();
    let watch = Watch::start(&[eight(&word)], &by(way)).unwrap();
    // SAFETY: the child ends without going back to the test; no other thread runs that it could wait for.
    let child = unsafe { libc::fork() };
    if child == 0 {
        word.store(100, Ordering::SeqCst);
        drop(watch);
        word.store(101, Ordering::SeqCst);
        // By perf: the kernel tells a child of its parent's DR7, though the child's is clear.
        let again = watched(&[eight(&word)], &by(Way::Perf), |_| word.store(102, Ordering::SeqCst));
        let noted = again.map_or(0, |(_, log)| log.writes().len());
        // SAFETY: ends the child.
        unsafe { libc::_exit(noted as i32) };
    }
    let mut status = 0;
    // SAFETY: the child from above.
    unsafe { libc::waitpid(child, &mut status, 0) };
    assert!(
        libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 1,
        "{way:?}: {status:#x}"
    );
    word.store(7, Ordering::SeqCst);
    let log = watch.stop();
    assert_eq!(
        log.writes().iter().map(|write| write.after).collect::<Vec<_>>(),
        [7],
        "{way:?}"
    );
    assert!(log.is_complete());
    drop(log);
    word.store(8, Ordering::SeqCst);
    assert_eq!(State::now(), before, "{way:?}");
}

#[test]
fn a_child_that_lives_on_does_not_keep_a_watch_alive() {
    let _one = one();
    on_own_thread(|| {
        let word = AtomicU64::new(0);
        let watch = Watch::start(&[eight(&word)], &by(Way::Perf)).unwrap();
        // SAFETY: the child waits for the signal that ends it.
        let child = unsafe { libc::fork() };
        if child == 0 {
            loop {
                // SAFETY: waits.
                unsafe { libc::pause() };
            }
        }
        watch.stop();
        word.store(1, Ordering::SeqCst);
        // SAFETY: the child from above.
        unsafe {
            libc::kill(child, libc::SIGKILL);
            libc::waitpid(child, std::ptr::null_mut(), 0);
        }
    });
}

#[test]
fn descriptors_that_somebody_closed_are_missed_and_those_that_took_their_place_stay() {
    let _one = one();
    on_own_thread(|| {
        let word = AtomicU64::new(0);
        let watch = Watch::start(&[eight(&word)], &by(Way::Perf)).unwrap();
        let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let mut events = links.filter(|link| {
            let target = std::fs::read_link(link.path());
            target.is_ok_and(|target| target.to_string_lossy().contains("perf_event"))
        });
        let event: i32 = events.next().unwrap().file_name().to_str().unwrap().parse().unwrap();
        drop(events);
        // SAFETY: what a program does that closes all descriptors, and opens one.
        unsafe {
            let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY);
            assert_eq!(libc::dup2(null, event), event);
            libc::close(null);
        }
        word.store(1, Ordering::SeqCst);
        let log = watch.stop();
        assert!(
            log.disturbed && !log.is_complete() && log.writes().is_empty(),
            "{log:?}"
        );
        // SAFETY: opened above.
        assert_eq!(unsafe { libc::close(event) }, 0);
    });
}

#[test]
fn a_handler_that_somebody_set_meanwhile_stays() {
    let _one = one();
    // On aarch64 by ptrace the write would trap for ever, as the documentation of the way says.
    let ways = WAYS
        .iter()
        .filter(|way| **way == Way::Perf || cfg!(target_arch = "x86_64"));
    for way in ways.copied() {
        on_own_thread(|| {
            SIGNALS.store(0, Ordering::SeqCst);
            let word = AtomicU64::new(0);
            let (_, log) = watched(&[eight(&word)], &by(way), |_| {
                handle(libc::SIGTRAP, counts as *const () as usize);
                word.store(1, Ordering::SeqCst);
            })
            .unwrap();
            assert!(log.disturbed && log.writes().is_empty() && !log.is_complete());
            assert_eq!(SIGNALS.load(Ordering::SeqCst), 1, "theirs");
            word.store(2, Ordering::SeqCst);
            assert_eq!(SIGNALS.load(Ordering::SeqCst), 1);
            assert!(matches!(Watch::start(&[eight(&word)], &by(way)), Err(Refusal::Handled)));
            handle(libc::SIGTRAP, libc::SIG_DFL);
        });
    }
}

const FOREIGN: &str = "a_trap_that_is_not_ours_does_what_it_would_have_done";

#[test]
fn a_trap_that_is_not_ours_does_what_it_would_have_done() {
    use std::os::unix::process::ExitStatusExt;
    let roles = ["instruction", "sent", "sent to another thread", "sent and ignored"];
    let Some(role) = roles.into_iter().find(|role| is(role)) else {
        let _one = one();
        for role in roles {
            let status = output_of(process(FOREIGN, role, None)).status;
            let expected = (role != "sent and ignored").then_some(libc::SIGTRAP);
            assert_eq!(
                (status.signal(), status.success()),
                (expected, expected.is_none()),
                "{role}: {status}"
            );
        }
        return;
    };
    let word = AtomicU64::new(0);
    if role == "sent and ignored" {
        handle(libc::SIGTRAP, libc::SIG_IGN);
    }
    let _ = watched(&[eight(&word)], &Options::default(), |_| {
        word.store(1, Ordering::SeqCst);
        match role {
            // SAFETY: the trap of a breakpoint.
            #[cfg(target_arch = "x86_64")]
            "instruction" => unsafe { std::arch::asm!("int3") },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            "instruction" => unsafe { std::arch::asm!("brk #0") },
            // SAFETY: a signal to this process.
            "sent" | "sent and ignored" => unsafe {
                libc::raise(libc::SIGTRAP);
            },
            _ => on_own_thread(|| {
                // SAFETY: as above.
                unsafe { libc::raise(libc::SIGTRAP) };
            }),
        }
    })
    .unwrap();
}

#[test]
fn a_watch_is_set_and_cleared_in_good_time() {
    let _one = one();
    for way in WAYS {
        on_own_thread(|| {
            let words = [0; 4].map(AtomicU64::new);
            round(way, &words);
            let started = Instant::now();
            (0..20).for_each(|_| round(way, &words));
            let each = started.elapsed() / 20;
            eprintln!("{way:?}: {each:?} for setting, 12 writes, clearing");
            assert!(each < Duration::from_millis(100), "{way:?}: {each:?}");
        });
    }
}

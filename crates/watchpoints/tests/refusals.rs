//! Who is refused, and with which reason.

mod common;

use std::io::{BufRead, BufReader, Read, Write as _};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use common::{State, by, eight, forbid, is, on_own_thread, one, passes, process};
use leaktight_watchpoints::{Options, Refusal, Watch, Way, watched};

const EITHER: Options = Options {
    way: None,
    most_writes: 100,
    stop_after_dropping: 100,
    capture: None,
};

/// Which way was gone, if all of three writes were noted, and else why not.
fn try_it(options: &Options) -> Result<Way, Refusal> {
    let word = AtomicU64::new(0);
    let before = State::now();
    let result = watched(&[eight(&word)], options, |watch| {
        (0..3).for_each(|_| word.store(1, Ordering::SeqCst));
        watch.way()
    });
    let result = result.map(|(way, log)| {
        assert!(log.is_complete() && log.writes().len() == 3, "{log:?}");
        way
    });
    (0..3).for_each(|_| word.store(2, Ordering::SeqCst));
    assert_eq!(State::now(), before);
    result
}

#[test]
fn where_perf_is_forbidden_a_helper_does_it() {
    let _one = one();
    on_own_thread(|| {
        assert_eq!(try_it(&EITHER).unwrap(), Way::Perf);
        forbid(&[libc::SYS_perf_event_open]);
        assert_eq!(try_it(&EITHER).unwrap(), Way::Ptrace);
        let why = try_it(&by(Way::Perf)).unwrap_err();
        assert_eq!(
            why.to_string(),
            "the system forbids it: perf_event_open: Operation not permitted (os error 1)"
        );
    });
}

#[test]
fn where_ptrace_is_forbidden_perf_does_it() {
    let _one = one();
    on_own_thread(|| {
        forbid(&[libc::SYS_ptrace]);
        assert_eq!(try_it(&EITHER).unwrap(), Way::Perf);
        let why = try_it(&by(Way::Ptrace)).unwrap_err();
        assert_eq!(
            why.to_string(),
            "the system forbids it: ptrace: Operation not permitted (os error 1)"
        );
    });
}

#[test]
fn where_both_are_forbidden_it_says_so() {
    let _one = one();
    on_own_thread(|| {
        forbid(&[libc::SYS_ptrace, libc::SYS_perf_event_open]);
        let why = try_it(&EITHER).unwrap_err();
        assert!(matches!(
            &why,
            Refusal::Forbidden {
                perf: Some(perf),
                ptrace: Some(ptrace)
            } if [perf, ptrace].iter().all(|why| why.raw_os_error() == Some(libc::EPERM))
        ));
        assert_eq!(
            why.to_string(),
            "the system forbids it: perf_event_open: Operation not permitted (os error 1); \
             ptrace: Operation not permitted (os error 1)"
        );
    });
}

#[test]
fn memory_is_read_where_that_way_of_asking_is_forbidden() {
    let _one = one();
    for way in common::WAYS {
        on_own_thread(|| {
            forbid(&[libc::SYS_process_vm_readv]);
            assert_eq!(try_it(&by(way)).unwrap(), way);
        });
    }
}

const TRACED: &str = "under_a_tracer_it_says_so";

#[test]
fn under_a_tracer_it_says_so() {
    // SAFETY: only asks.
    let own = unsafe { libc::gettid() };
    if is("traced") {
        eprintln!("{own}");
        let mut tracer = String::new();
        std::io::stdin().read_line(&mut tracer).unwrap();
        let tracer: u32 = tracer.trim().parse().unwrap();
        let why = try_it(&EITHER).unwrap_err();
        assert!(matches!(why, Refusal::Traced(by) if by == tracer), "{why}");
        assert_eq!(
            why.to_string(),
            format!("process {tracer} traces this one, such as a debugger")
        );
        return;
    }
    let _one = one();
    let mut command = process(TRACED, "traced", None);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut told, mut line) = (BufReader::new(child.stderr.take().unwrap()), String::new());
    told.read_line(&mut line).unwrap();
    let thread: libc::pid_t = line.trim().parse().unwrap();
    // SAFETY: a thread of a child of ours; it is not stopped.
    let traced = unsafe { libc::ptrace(libc::PTRACE_SEIZE, thread, 0, 0) };
    assert_eq!(traced, 0, "{}", std::io::Error::last_os_error());
    writeln!(child.stdin.take().unwrap(), "{own}").unwrap();
    // SAFETY: the end of the thread, which only its tracer is told of.
    let ended = unsafe { libc::waitpid(thread, std::ptr::null_mut(), libc::__WALL) };
    assert_eq!(ended, thread);
    let status = child.wait().unwrap();
    std::fs::remove_file(command.get_program()).unwrap();
    told.read_to_string(&mut line).unwrap();
    assert!(status.success(), "{status}: {line}");
}

const DEBUGGED: &str = "under_gdb_it_says_so";

#[test]
fn under_gdb_it_says_so() {
    if is("debugged") {
        let why = try_it(&EITHER).unwrap_err();
        assert!(matches!(why, Refusal::Traced(_)), "{why}");
        return;
    }
    let _one = one();
    if Command::new("gdb").arg("--version").output().is_err() {
        eprintln!("NOT RUN: there is no gdb here; a tracer of our own stands for it");
        return;
    }
    let debugged = process(DEBUGGED, "debugged", None);
    let mut gdb = Command::new("gdb");
    gdb.args(["-batch", "-nx", "-ex", "run", "-ex", "kill", "--args"])
        .arg(debugged.get_program());
    gdb.args(debugged.get_args());
    gdb.envs(debugged.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = gdb.output().unwrap();
    std::fs::remove_file(debugged.get_program()).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("1 passed"),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn while_one_watches_another_is_refused() {
    let _one = one();
    on_own_thread(|| {
        let word = AtomicU64::new(0);
        let watch = Watch::start(&[eight(&word)], &EITHER).unwrap();
        assert!(matches!(Watch::start(&[eight(&word)], &EITHER), Err(Refusal::Busy)));
        on_own_thread(|| assert!(matches!(Watch::start(&[eight(&word)], &EITHER), Err(Refusal::Busy))));
        drop(watch);
        assert!(Watch::start(&[eight(&word)], &EITHER).is_ok());
    });
}

#[test]
fn a_signal_that_somebody_handles_or_waits_for_is_theirs() {
    extern "C" fn theirs(_: libc::c_int) {}
    let _one = one();
    on_own_thread(|| {
        // SAFETY: a handler that does nothing; the default is put back.
        unsafe {
            libc::signal(libc::SIGTRAP, theirs as *const () as usize);
            assert!(matches!(try_it(&EITHER), Err(Refusal::Handled)));
            libc::signal(libc::SIGTRAP, libc::SIG_DFL);
        }
        // SAFETY: blocked on this thread, sent to it, and taken.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigaddset(&mut set, libc::SIGTRAP);
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            libc::raise(libc::SIGTRAP);
            assert!(matches!(try_it(&EITHER), Err(Refusal::Handled)));
            let mut signal = 0;
            assert_eq!((libc::sigwait(&set, &mut signal), signal), (0, libc::SIGTRAP));
        }
        assert!(try_it(&EITHER).is_ok());
    });
}

const IN_USE: &str = "registers_in_use_are_left_alone";

/// Takes all registers of the calling thread by perf, as a profiler may.
fn take_registers(word: &AtomicU64) -> Vec<libc::c_int> {
    let mut taken = Vec::new();
    loop {
        let mut attributes = [0u64; 16];
        attributes[0] = 5 | 128 << 32;
        attributes[5] = 1 << 5;
        attributes[6] = 2 << 32;
        attributes[7] = word.as_ptr() as u64;
        attributes[8] = 8;
        // SAFETY: counts writes of this thread; no signal comes of it.
        let event = unsafe { libc::syscall(libc::SYS_perf_event_open, attributes.as_ptr(), 0, -1, -1, 8) };
        if event < 0 {
            return taken;
        }
        taken.push(event as libc::c_int);
    }
}

#[test]
fn registers_in_use_are_left_alone() {
    if !is("user") {
        let _one = one();
        return passes(IN_USE, "user", None);
    }
    let word = AtomicU64::new(0);
    let taken = take_registers(&word);
    assert!(!taken.is_empty(), "no register could be taken to begin with");
    for options in [EITHER, by(Way::Perf), by(Way::Ptrace)] {
        let why = try_it(&options).unwrap_err();
        assert!(matches!(why, Refusal::InUse), "{why}");
    }
    let counted = || {
        let mut counted = 0u64;
        // SAFETY: reads 8 bytes.
        unsafe { libc::read(taken[0], (&raw mut counted).cast(), 8) };
        counted
    };
    // Not from 0: qemu 7.2 takes other unaligned writes to the page for writes to the word.
    let before = counted();
    word.store(1, Ordering::SeqCst);
    assert_eq!(counted() - before, 1, "theirs still counts");
    for event in taken {
        // SAFETY: opened above.
        unsafe { libc::close(event) };
    }
    assert!(try_it(&EITHER).is_ok());
}

#[test]
fn after_ptrace_has_set_them_they_are_still_to_be_had() {
    let _one = one();
    on_own_thread(|| {
        for way in [Way::Perf, Way::Ptrace, Way::Ptrace] {
            assert_eq!(try_it(&by(way)).unwrap(), way);
        }
        // One register is with ptrace now, as the documentation of the way says, and there are more.
        assert_eq!(try_it(&EITHER).unwrap(), Way::Perf);
        let words = [0; 4].map(AtomicU64::new);
        let watch = Watch::start(&words.each_ref().map(eight), &EITHER).unwrap();
        assert_eq!(watch.way(), Way::Ptrace);
    });
}

const NOBODY: &str = "anybody_may_do_it_either_way";

#[test]
fn anybody_may_do_it_either_way() {
    const NOBODY_ID: u32 = 65534;
    if is("nobody") {
        // SAFETY: only asks.
        assert_eq!(unsafe { libc::geteuid() }, NOBODY_ID);
        for way in common::WAYS {
            on_own_thread(|| assert_eq!(try_it(&by(way)).unwrap(), way));
        }
        return;
    }
    // SAFETY: only asks.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("NOT RUN as another user: that takes root. All other tests ran as an ordinary user.");
        return;
    }
    let _one = one();
    passes(NOBODY, "nobody", Some(NOBODY_ID));
}

const WHOLE: &str = "the_reasons_hold_for_an_ordinary_user";

#[test]
fn the_reasons_hold_for_an_ordinary_user() {
    const TESTS: [&str; 5] = [
        "where_perf_is_forbidden_a_helper_does_it",
        "where_ptrace_is_forbidden_perf_does_it",
        "where_both_are_forbidden_it_says_so",
        "a_signal_that_somebody_handles_or_waits_for_is_theirs",
        "after_ptrace_has_set_them_they_are_still_to_be_had",
    ];
    // SAFETY: only asks.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("NOT RUN as another user: {WHOLE} takes root. All other tests ran as an ordinary user.");
        return;
    }
    let _one = one();
    TESTS.iter().for_each(|test| passes(test, "nobody", Some(65534)));
}

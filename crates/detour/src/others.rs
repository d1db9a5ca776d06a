//! Other threads: none may be between the instructions that are about to be replaced.
//!
//! A thread that waits in the kernel shows where it will go on (`/proc/self/task/…/syscall`). One that runs is sent a
//! signal, whose handler holds it until the code is changed. `SIGURG`, since its default is to do nothing: whatever
//! is still pending when the handler is gone again does no harm.
//!
//! What remains: a thread that wakes up within the few microseconds after it was looked at, and is between the
//! replaced instructions (for a nanosecond or two) just when they are.

use std::ffi::{c_int, c_void};
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::entry::Refusal;

const SIGNAL: c_int = libc::SIGURG;
/// A thread that runs takes the signal when it next gets a processor: within microseconds, but later where many wait for
/// one.
const PATIENCE: Duration = Duration::from_secs(1);

/// The round in which signalled threads are held; 0 = none.
static ROUND: AtomicU32 = AtomicU32::new(0);
static HELD: AtomicU32 = AtomicU32::new(0);
/// A held thread is between replaced instructions.
static CAUGHT: AtomicBool = AtomicBool::new(false);
/// Start and end of a list of `(usize, usize)` that outlives the round.
static BETWEEN: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

/// Runs `store` while no other thread is in one of the ranges `between`.
pub(crate) fn away_from(between: &[(usize, usize)], store: &mut dyn FnMut()) -> Result<(), Refusal> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock();
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        let (mut running, mut caught) = (Vec::new(), false);
        for thread in other_threads() {
            match waits_at(thread) {
                Some(at) => caught |= is_between(between, at),
                None => running.push(thread),
            }
        }
        if caught {
            std::thread::yield_now();
            continue;
        }
        if running.is_empty() {
            store();
            return Ok(());
        }
        match hold(&running, between, store) {
            Held::All => return Ok(()),
            Held::Between => {}
            // A thread that has ended since does not take a signal.
            Held::NotAll if running.iter().all(|thread| exists(*thread)) => break,
            Held::NotAll => {}
        }
    }
    Err(Refusal::Threads)
}

/// Makes all processors that run this program see changed code (membarrier(2)).
pub(crate) fn see_new_code() {
    const REGISTER_SYNC_CORE: c_int = 1 << 6;
    const SYNC_CORE: c_int = 1 << 5;
    // SAFETY: asks for barriers only. Where the kernel does not know them, the next interrupt does as much.
    unsafe {
        libc::syscall(libc::SYS_membarrier, REGISTER_SYNC_CORE, 0, 0);
        libc::syscall(libc::SYS_membarrier, SYNC_CORE, 0, 0);
    }
}

fn is_between(between: &[(usize, usize)], at: usize) -> bool {
    between.iter().any(|(start, end)| (*start..*end).contains(&at))
}

fn other_threads() -> Vec<c_int> {
    // SAFETY: asks for a number.
    let own = unsafe { libc::gettid() };
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let numbers = tasks.filter_map(|task| task.file_name().to_str()?.parse().ok());
    numbers.filter(|number| *number != own).collect()
}

/// Where a thread that waits in the kernel will go on; `None` if it runs, or nobody says. One that is gone waits
/// nowhere.
fn waits_at(thread: c_int) -> Option<usize> {
    match fs::read_to_string(format!("/proc/self/task/{thread}/syscall")) {
        Ok(text) => {
            let at = text.split_ascii_whitespace().last()?;
            usize::from_str_radix(at.strip_prefix("0x")?, 16).ok()
        }
        Err(_) if !exists(thread) => Some(0),
        Err(_) => None,
    }
}

fn exists(thread: c_int) -> bool {
    // SAFETY: signal 0 is not delivered, it only asks (tgkill(2)).
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, 0) == 0 }
}

/// How many threads were held.
enum Held {
    All,
    /// One of them was in a range where it must not be.
    Between,
    NotAll,
}

/// Holds these threads, and runs `store` if all came, none of them in `between`. They go on in any case.
///
/// While they are held nothing is allocated here: any of them may hold the allocator's lock.
fn hold(threads: &[c_int], between: &[(usize, usize)], store: &mut dyn FnMut()) -> Held {
    static ROUNDS: AtomicU32 = AtomicU32::new(0);
    let round = ROUNDS.fetch_add(1, Ordering::Relaxed).wrapping_add(1).max(1);
    let range = between.as_ptr_range();
    BETWEEN[0].store(range.start as usize, Ordering::SeqCst);
    BETWEEN[1].store(range.end as usize, Ordering::SeqCst);
    HELD.store(0, Ordering::SeqCst);
    CAUGHT.store(false, Ordering::SeqCst);
    // SAFETY: all zero is a value of it; the handler has the signature that SA_SIGINFO asks for.
    let before = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
        let mut before: libc::sigaction = std::mem::zeroed();
        libc::sigaction(SIGNAL, &action, &mut before);
        before
    };
    ROUND.store(round, Ordering::SeqCst);
    let started = Instant::now();
    let mut sent = 0;
    for thread in threads {
        // SAFETY: to a thread of this very process, or to none.
        sent += u32::from(unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), *thread, SIGNAL) } == 0);
    }
    while HELD.load(Ordering::SeqCst) < sent && started.elapsed() < PATIENCE / 4 {
        // SAFETY: gives the processor away.
        unsafe { libc::sched_yield() };
    }
    let held = match (HELD.load(Ordering::SeqCst) == sent, CAUGHT.load(Ordering::SeqCst)) {
        (true, false) => Held::All,
        (true, true) => Held::Between,
        (false, _) => Held::NotAll,
    };
    if let Held::All = held {
        store();
    }
    ROUND.store(0, Ordering::SeqCst);
    // Nobody reads the ranges any more once all have left. One that comes late finds no round.
    while HELD.load(Ordering::SeqCst) > 0 {
        // SAFETY: gives the processor away.
        unsafe { libc::sched_yield() };
    }
    // SAFETY: what stood there before.
    unsafe { libc::sigaction(SIGNAL, &before, std::ptr::null_mut()) };
    held
}

/// Holds the thread until the round is over. Touches atomics only.
extern "C" fn handler(_signal: c_int, _info: *mut libc::siginfo_t, context: *mut c_void) {
    HELD.fetch_add(1, Ordering::SeqCst);
    let round = ROUND.load(Ordering::SeqCst);
    if round != 0 {
        let (from, to) = (BETWEEN[0].load(Ordering::SeqCst), BETWEEN[1].load(Ordering::SeqCst));
        let len = (to - from) / size_of::<(usize, usize)>();
        // SAFETY: the list outlives the round, which does not end before this thread, counted in HELD, has left.
        let between = unsafe { std::slice::from_raw_parts(from as *const (usize, usize), len) };
        // SAFETY: the kernel passes the registers of the interrupted thread.
        if is_between(between, unsafe { program_counter(context) }) {
            CAUGHT.store(true, Ordering::SeqCst);
        }
    }
    let mut spins = 0;
    while round != 0 && ROUND.load(Ordering::SeqCst) == round {
        spins += 1;
        if spins < 100 {
            std::hint::spin_loop();
        } else {
            // SAFETY: gives the processor away; one system call, which leaves `errno` alone as it cannot fail.
            unsafe { libc::sched_yield() };
        }
    }
    HELD.fetch_sub(1, Ordering::SeqCst);
}

/// # Safety
///
/// The third argument of a signal handler.
#[cfg(target_arch = "x86_64")]
unsafe fn program_counter(context: *mut c_void) -> usize {
    // SAFETY: the caller's promise.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    context.uc_mcontext.gregs[libc::REG_RIP as usize] as usize
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn program_counter(_context: *mut c_void) -> usize {
    0
}

//! What the tests share.
#![allow(dead_code)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use leaktight_watchpoints::{Options, Way, Width, Word};

pub const WAYS: [Way; 2] = [Way::Perf, Way::Ptrace];

/// One at a time: there is one handler of SIGTRAP.
pub fn one() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

pub fn by(way: Way) -> Options {
    Options {
        way: Some(way),
        ..Options::default()
    }
}

pub fn eight(word: &AtomicU64) -> Word {
    Word {
        address: word.as_ptr() as usize,
        width: Width::Eight,
    }
}

pub fn four(word: &AtomicU32) -> Word {
    Word {
        address: word.as_ptr() as usize,
        width: Width::Four,
    }
}

/// Runs `work` on a thread of its own: what ptrace has set once stays reserved for the thread.
pub fn on_own_thread(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|why| std::panic::resume_unwind(why));
}

const ROLE: &str = "LEAKTIGHT_WATCHPOINTS_ROLE";

/// Whether this process is one that [`process`] has started for the role.
pub fn is(role: &str) -> bool {
    std::env::var(ROLE).is_ok_and(|own| own == role)
}

/// A process that runs one test of this program, on its main thread, in a role; as another user where one is named.
pub fn process(test: &str, role: &str, user: Option<u32>) -> Command {
    // A copy that any user may run: the original may lie in somebody's home.
    static COPIES: AtomicU32 = AtomicU32::new(0);
    let number = COPIES.fetch_add(1, Ordering::SeqCst);
    let path = std::env::temp_dir().join(format!("leaktight-watchpoints-{}-{number}", std::process::id()));
    fs::copy(std::env::current_exe().unwrap(), &path).unwrap();
    let mut command = Command::new(&path);
    command
        .args(["--exact", test, "--test-threads=1", "--nocapture"])
        .env(ROLE, role);
    if let Some(user) = user {
        command.uid(user).gid(user).current_dir("/");
    }
    command
}

pub fn output_of(mut command: Command) -> Output {
    let output = command.output().unwrap();
    fs::remove_file(command.get_program()).unwrap();
    output
}

/// Runs a test again in a process of its own; it must pass.
pub fn passes(test: &str, role: &str, user: Option<u32>) {
    let output = output_of(process(test, role, user));
    let told = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(
        output.status.success(),
        "{test} as {role}: {}\n{}",
        output.status,
        told.join("\n")
    );
    assert!(told[0].contains("1 passed"), "there is no test {test}: {}", told[0]);
}

/// What must be the same after a watch as before.
#[derive(Debug, PartialEq, Eq)]
pub struct State {
    descriptors: BTreeSet<String>,
    children: String,
    action: [u64; 4],
    mask: u64,
    own_bytes: u64,
}

impl State {
    pub fn now() -> State {
        let list = fs::read_dir("/proc/self/fd").unwrap().flatten();
        let named = list.filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            Some(format!("{:?} {}", entry.file_name(), target.display()))
        });
        let (mut action, mut mask) = ([0u64; 4], 0u64);
        // SAFETY: `struct sigaction` of the kernel has four words, and a mask one.
        unsafe {
            let null = std::ptr::null_mut::<u64>();
            libc::syscall(libc::SYS_rt_sigaction, libc::SIGTRAP, null, action.as_mut_ptr(), 8);
            libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, null, &raw mut mask, 8);
        }
        State {
            descriptors: named.filter(|name| !name.contains("/proc/")).collect(),
            children: fs::read_to_string("/proc/thread-self/children").unwrap(),
            action,
            mask,
            own_bytes: leaktight_liveset::own_bytes(),
        }
    }
}

/// Makes these system calls fail with EPERM on the calling thread and in its children, as a container may.
pub fn forbid(calls: &[libc::c_long]) {
    const LOAD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const ERROR: u32 = 0x0005_0000;
    let statement = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    let mut filter = vec![statement(LOAD, 0)];
    for (at, call) in calls.iter().enumerate() {
        filter.push(libc::sock_filter {
            code: JUMP_IF_EQUAL,
            jt: (calls.len() - at) as u8,
            jf: 0,
            k: *call as u32,
        });
    }
    filter.push(statement(RETURN, ALLOW));
    filter.push(statement(RETURN, ERROR | libc::EPERM as u32));
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: a program that loads the number of the call, compares, and returns.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program),
            0
        );
    }
}

//! Setting the registers by ptrace. A thread cannot trace itself, nor another of its process, so a helper does: a child
//! that shares our memory, attaches to the calling thread, writes, and lets go.
//!
//! Nobody notices the child: it is made by `clone` and not by `fork`, so no handler runs; it sends no signal when it
//! ends, and only who asks for such children (`__WCLONE`) is told of it. It makes system calls and nothing else, as
//! it shares `errno` and all locks with its parent, which waits for it.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use leaktight_liveset::Region;

use crate::kernel::{Errno, call, thread, wants_named_tracer, yield_now};
use crate::processor::Registers;
use crate::signal::Blocked;

/// What the helper runs on.
pub(crate) const STACK_BYTES: usize = 64 << 10;

/// Not ended yet.
const PENDING: c_int = -1;

struct Job {
    thread: c_int,
    registers: Registers,
    may_begin: AtomicBool,
    /// 0 or an error.
    result: AtomicI32,
}

/// Sets the debug registers of the calling thread. Allocates nothing, and may be called by a signal handler.
///
/// Errors that say something: `EBUSY` and `ENOSPC`, the registers are in use; `EPERM` and `ENOSYS`, forbidden.
pub(crate) fn write_registers(registers: Registers, stack: &Region) -> Result<(), Errno> {
    // Nothing may come in while the thread is stopped: what a signal would do to it is not ours to pass on.
    let _blocked = Blocked::all();
    match run(registers, stack, false) {
        Err(libc::EPERM) if wants_named_tracer() => run(registers, stack, true),
        result => result,
    }
}

/// `named`: as the one process that may trace us. Whom the program had named is forgotten then; the kernel does not
/// tell, and cannot be asked to put it back.
fn run(registers: Registers, stack: &Region, named: bool) -> Result<(), Errno> {
    let job = Job {
        thread: thread(),
        registers,
        may_begin: AtomicBool::new(!named),
        result: AtomicI32::new(PENDING),
    };
    // CLONE_VM: no page table is copied, however large the process. No signal when it ends.
    let flags = libc::CLONE_VM | libc::CLONE_UNTRACED;
    // SAFETY: the stack grows down from the end of a region of its own; the job outlives the child, which has ended
    // when this function returns.
    let child = unsafe {
        let end = stack.start().add(stack.len());
        libc::clone(helper, end.cast(), flags, (&raw const job).cast_mut().cast())
    };
    if child < 0 {
        return Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EAGAIN));
    }
    if named {
        // SAFETY: names a process.
        let _ = unsafe {
            call(
                libc::SYS_prctl,
                [libc::PR_SET_PTRACER as usize, child as usize, 0, 0, 0, 0],
            )
        };
        job.may_begin.store(true, Ordering::SeqCst);
    }
    // Somebody who waits for every kind of child (`__WALL`) may have been quicker: then there is none left.
    while let Err(libc::EINTR) = wait(child, libc::__WCLONE, std::ptr::null_mut()) {}
    if named {
        // SAFETY: names nobody.
        let _ = unsafe { call(libc::SYS_prctl, [libc::PR_SET_PTRACER as usize, 0, 0, 0, 0, 0]) };
    }
    match job.result.load(Ordering::SeqCst) {
        0 => Ok(()),
        PENDING => Err(libc::ESRCH), // Killed.
        error => Err(error),
    }
}

extern "C" fn helper(job: *mut c_void) -> c_int {
    // SAFETY: `run` passes a job that lives until this process has ended.
    let job = unsafe { &*job.cast_const().cast::<Job>() };
    while !job.may_begin.load(Ordering::SeqCst) {
        yield_now();
    }
    let result = traced(job.thread, || job.registers.write(job.thread));
    job.result.store(result.err().unwrap_or(0), Ordering::SeqCst);
    // SAFETY: ends this process, which has nothing to put in order.
    let _ = unsafe { call(libc::SYS_exit_group, [0; 6]) };
    0
}

/// Runs `work` while the thread is stopped.
fn traced(thread: c_int, work: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
    let request = |request, data: usize| {
        // SAFETY: attaches to a thread that waits for us, stops it, or lets it go; touches none of its memory.
        unsafe { call(libc::SYS_ptrace, [request as usize, thread as usize, 0, data, 0, 0]) }
    };
    // Not PTRACE_ATTACH, which stops by a signal that others may see.
    request(libc::PTRACE_SEIZE, 0)?;
    let mut status = 0;
    let result = request(libc::PTRACE_INTERRUPT, 0).and_then(|_| {
        while let Err(error) = wait(thread, libc::__WALL, &mut status) {
            if error != libc::EINTR {
                return Err(error);
            }
        }
        work()
    });
    // A signal that came first, which cannot be blocked, is passed on.
    let is_signal = libc::WIFSTOPPED(status) && status >> 16 == 0;
    let signal = if is_signal { libc::WSTOPSIG(status) } else { 0 };
    request(libc::PTRACE_DETACH, signal as usize)?;
    result
}

fn wait(process: c_int, options: c_int, status: *mut c_int) -> Result<usize, Errno> {
    // SAFETY: stores a status where the caller has room for it, or nowhere.
    unsafe {
        call(
            libc::SYS_wait4,
            [process as usize, status as usize, options as usize, 0, 0, 0],
        )
    }
}

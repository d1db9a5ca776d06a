//! SIGTRAP as the kernel knows it: the action, the mask, and what is waiting. libc's functions would not put the action
//! back exactly, since they add flags of their own.

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::kernel::{call, process, thread};

/// A set of signals, number n in bit n - 1.
pub(crate) type Mask = u64;
const MASK_BYTES: usize = size_of::<Mask>();
const TRAP: Mask = 1 << (libc::SIGTRAP - 1);

/// The signals that an instruction of the thread raises. They are never blocked by us: that would end the process
/// (`force_sig_info_to_task` in Linux).
const RAISED: [c_int; 5] = [libc::SIGTRAP, libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL];

/// All others.
pub(crate) const SENT: Mask = {
    let (mut mask, mut at) = (Mask::MAX, 0);
    while at < RAISED.len() {
        mask &= !(1 << (RAISED[at] - 1));
        at += 1;
    }
    mask
};

/// The mask that the thread has when the handler returns.
pub(crate) fn mask_in(context: &mut libc::ucontext_t) -> &mut Mask {
    // SAFETY: the set begins with the kernel's, which is all that the kernel reads and writes (asm/ucontext.h).
    unsafe { &mut *(&raw mut context.uc_sigmask).cast() }
}

/// What a handler with `SA_SIGINFO` gets.
pub(crate) type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// `struct sigaction` of the kernel (asm/signal.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Action {
    handler: usize,
    flags: usize,
    restorer: usize,
    mask: Mask,
}

impl Action {
    fn of_trap() -> Action {
        let mut action = Action::default();
        // SAFETY: stores the action in a variable of the kernel's layout.
        let _ = unsafe { rt_sigaction(0, (&raw mut action) as usize) };
        action
    }

    fn set_for_trap(&self) {
        // SAFETY: an action that the kernel has told us of before, or the default.
        let _ = unsafe { rt_sigaction((&raw const *self) as usize, 0) };
    }
}

/// # Safety
///
/// Each is 0 or the address of an [`Action`].
unsafe fn rt_sigaction(new: usize, old: usize) -> Result<usize, c_int> {
    let arguments = [libc::SIGTRAP as usize, new, old, MASK_BYTES, 0, 0];
    // SAFETY: the caller's promise.
    unsafe { call(libc::SYS_rt_sigaction, arguments) }
}

/// The handler that [`Installed`] has set last, and whether the action before it was to ignore the signal.
static OURS: AtomicUsize = AtomicUsize::new(0);
static WAS_IGNORED: AtomicUsize = AtomicUsize::new(0);

/// A handler for SIGTRAP, which the calling thread lets in. [`put_back`](Self::put_back) ends that, and so does a drop.
pub(crate) struct Installed {
    before: Action,
    was_blocked: bool,
    done: bool,
}

impl Installed {
    /// `None` if somebody else handles the signal, or one is waiting.
    ///
    /// All signals are blocked while the handler runs, but for those that an instruction raises.
    pub(crate) fn new(handler: Handler) -> Option<Installed> {
        let mut before = Action::of_trap();
        if before.handler == handler as *const () as usize {
            // Put there by somebody who found ours, and has restored it since.
            before = Action::default();
        }
        if ![libc::SIG_DFL, libc::SIG_IGN].contains(&before.handler) || is_waiting() {
            return None;
        }
        WAS_IGNORED.store(usize::from(before.handler == libc::SIG_IGN), Ordering::SeqCst);
        OURS.store(handler as *const () as usize, Ordering::SeqCst);
        // SAFETY: all zero is a value of it; the handler has the signature that SA_SIGINFO asks for. By libc, which
        // knows how to return from a handler. No other stack: what is interrupted may be on it.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_NODEFER;
            libc::sigfillset(&mut action.sa_mask);
            for raised in RAISED {
                libc::sigdelset(&mut action.sa_mask, raised);
            }
            libc::sigaction(libc::SIGTRAP, &action, null_mut());
        }
        let was_blocked = change_mask(libc::SIG_UNBLOCK, TRAP) & TRAP != 0;
        Some(Installed {
            before,
            was_blocked,
            done: false,
        })
    }

    /// Puts the action and the mask back as they were. `false` if somebody has set another action since: that stays.
    pub(crate) fn put_back(&mut self) -> bool {
        if std::mem::replace(&mut self.done, true) {
            return true;
        }
        // One that was blocked meanwhile still comes to our handler.
        let is_blocked = change_mask(libc::SIG_UNBLOCK, TRAP) & TRAP != 0;
        let is_ours = Action::of_trap().handler == OURS.load(Ordering::SeqCst);
        if is_ours {
            self.before.set_for_trap();
        }
        if is_blocked || self.was_blocked {
            change_mask(libc::SIG_BLOCK, TRAP);
        }
        is_ours
    }

    /// Leaves the handler where it is, for good.
    pub(crate) fn leave(&mut self) {
        self.done = true;
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        self.put_back();
    }
}

/// Does with a signal that is not for us what would have been done without our handler, which must return then.
pub(crate) fn pass_on(info: *mut libc::siginfo_t) {
    // SAFETY: the kernel passes it to the handler.
    let is_sent = unsafe { (*info).si_code } <= 0;
    if is_sent && WAS_IGNORED.load(Ordering::SeqCst) != 0 {
        return;
    }
    // The default: it ends the process, with what it was told of the signal. An instruction that traps cannot be ignored.
    Action::default().set_for_trap();
    let arguments = [
        process() as usize,
        thread() as usize,
        libc::SIGTRAP as usize,
        info as usize,
        0,
        0,
    ];
    // SAFETY: to the calling thread; what the kernel has filled in.
    let _ = unsafe { call(libc::SYS_rt_tgsigqueueinfo, arguments) };
}

fn is_waiting() -> bool {
    let mut waiting: Mask = 0;
    // SAFETY: stores a mask of this length.
    let _ = unsafe {
        call(
            libc::SYS_rt_sigpending,
            [(&raw mut waiting) as usize, MASK_BYTES, 0, 0, 0, 0],
        )
    };
    waiting & TRAP != 0
}

/// Returns the mask of the calling thread as it was before.
fn change_mask(how: c_int, mask: Mask) -> Mask {
    let mut before: Mask = 0;
    let arguments = [
        how as usize,
        (&raw const mask) as usize,
        (&raw mut before) as usize,
        MASK_BYTES,
        0,
        0,
    ];
    // SAFETY: reads one mask and stores another.
    let _ = unsafe { call(libc::SYS_rt_sigprocmask, arguments) };
    before
}

/// While it lives, the calling thread takes no signal.
pub(crate) struct Blocked(Mask);

impl Blocked {
    pub(crate) fn all() -> Blocked {
        Blocked(change_mask(libc::SIG_BLOCK, Mask::MAX))
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        change_mask(libc::SIG_SETMASK, self.0);
    }
}

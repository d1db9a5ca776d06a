//! Threads that a watched thread starts belong to it and are followed to their end, and unloading of
//! modules is noticed.

use std::ffi::{c_int, c_void};
use std::mem::transmute;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};

use leaktight_liveset::{MappedVec, SpinLock};

use crate::marks::Mark;
use crate::native::{function, real};
use crate::slots::{Hook, ReplacedFunction};
use crate::state::{self, Watch};

type Pointer = *mut c_void;
/// `pthread_t`: a number in glibc, a pointer in musl.
type Id = usize;
unsafe extern "C" {
    /// Not in the libc crate for glibc.
    fn pthread_attr_getdetachstate(attributes: *const libc::pthread_attr_t, state: *mut c_int) -> c_int;
}

type Start = unsafe extern "C-unwind" fn(Pointer) -> Pointer;

real!(
    PTHREAD_CREATE,
    real_create,
    fn(*mut Id, Pointer, Start, Pointer) -> c_int
);
real!(PTHREAD_JOIN, real_join, fn(Id, Pointer) -> c_int);
real!(PTHREAD_TRYJOIN, real_tryjoin, fn(Id, Pointer) -> c_int);
real!(PTHREAD_TIMEDJOIN, real_timedjoin, fn(Id, Pointer, Pointer) -> c_int);
real!(
    PTHREAD_CLOCKJOIN,
    real_clockjoin,
    fn(Id, Pointer, c_int, Pointer) -> c_int
);
real!(PTHREAD_DETACH, real_detach, fn(Id) -> c_int);
static PTHREAD_EXIT: AtomicUsize = AtomicUsize::new(0);
real!(DLCLOSE, real_dlclose, fn(Pointer) -> c_int);

pub(crate) static FUNCTIONS: &[ReplacedFunction] = &[
    function!(c"pthread_create", pthread_create, PTHREAD_CREATE),
    function!(c"pthread_join", pthread_join, PTHREAD_JOIN),
    function!(c"pthread_tryjoin_np", pthread_tryjoin, PTHREAD_TRYJOIN),
    function!(c"pthread_timedjoin_np", pthread_timedjoin, PTHREAD_TIMEDJOIN),
    function!(c"pthread_clockjoin_np", pthread_clockjoin, PTHREAD_CLOCKJOIN),
    function!(c"pthread_detach", pthread_detach, PTHREAD_DETACH),
    function!(c"pthread_exit", pthread_exit, PTHREAD_EXIT),
    function!(c"dlclose", dlclose, DLCLOSE),
];

/// A thread that a call of this session started, and that still costs something.
#[derive(Clone, Copy, Debug)]
pub struct StartedThread {
    /// Who started it.
    pub mark: Mark,
    /// The kernel's number for it; 0 until it has taken its first step.
    pub number: c_int,
    /// It has returned, and waits for a `pthread_join`.
    pub ended: bool,
    detached: bool,
    /// What pthreads call it; 0 until that is known.
    id: Id,
    serial: u64,
}

/// What a new thread is to run, between its creation and its first step.
#[derive(Clone, Copy)]
struct Errand {
    session: u32,
    call: u32,
    serial: u64,
    start: Option<Start>,
    argument: Pointer,
}

// SAFETY: the pointers are handed from the creating thread to the created one, as pthread_create does.
unsafe impl Send for Errand {}

const NO_ERRAND: Errand = Errand {
    session: 0,
    call: 0,
    serial: 0,
    start: None,
    argument: std::ptr::null_mut(),
};

/// Threads under way at one moment; a thread that finds no room is started plainly.
static ERRANDS: SpinLock<[Errand; 256]> = SpinLock::new([NO_ERRAND; 256]);
static STARTED: SpinLock<MappedVec<StartedThread>> = SpinLock::new(MappedVec::new());
/// The kernel's number for the thread that makes the calls; 0: none does.
static CHECKING: AtomicI32 = AtomicI32::new(0);
static LAST_SERIAL: AtomicU64 = AtomicU64::new(0);

/// The threads that calls have started and that are running, or have ended and were not joined.
pub fn started_threads() -> MappedVec<StartedThread> {
    let mut started = STARTED.lock();
    // One that ended by `pthread_exit` or was cancelled has not told us.
    for thread in started.iter_mut().filter(|thread| thread.number != 0 && !thread.ended) {
        thread.ended = !exists(thread.number);
    }
    let mut all = MappedVec::new();
    let mut at = 0;
    while at < started.len() {
        if started[at].ended && started[at].detached {
            started.remove(at);
        } else {
            // Without memory for the list, it is shorter.
            let _ = all.push(started[at]);
            at += 1;
        }
    }
    all
}

/// How many threads that calls have started are running.
pub fn threads_under_way() -> usize {
    started_threads().iter().filter(|thread| !thread.ended).count()
}

/// How many threads calls have ever started: what has changed since it was last asked was started meanwhile.
pub fn threads_ever_started() -> u64 {
    LAST_SERIAL.load(Ordering::Relaxed)
}

/// Whether the calling thread makes calls from now on, or no thread does.
pub(crate) fn this_thread_checks(checks: bool) {
    // SAFETY: asks for a number.
    let number = if checks { unsafe { libc::gettid() } } else { 0 };
    CHECKING.store(number, Ordering::Relaxed);
}

pub(crate) fn forget_threads() {
    STARTED.lock().clear();
}

/// # Safety
///
/// Only in a forked child, before it has a second thread.
pub(crate) unsafe fn unlock_after_fork() {
    // SAFETY: the thread that forked holds none of the locks, and there is no other.
    unsafe {
        STARTED.force_unlock();
        ERRANDS.force_unlock();
    }
}

fn exists(number: c_int) -> bool {
    // SAFETY: signal 0 is not delivered, it only asks (tgkill(2)).
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), number, 0) == 0 }
}

unsafe extern "C" fn pthread_create(id: *mut Id, attributes: Pointer, start: Start, argument: Pointer) -> c_int {
    let Some(place) = set_out(attributes, start, argument) else {
        // SAFETY: the caller's own arguments, handed on.
        return state::unwatched(|| unsafe { real_create()(id, attributes, start, argument) });
    };
    let serial = ERRANDS.lock()[place].serial;
    // What a thread costs, its stack above all, is told with the thread.
    // SAFETY: as above, with a start routine that runs the caller's.
    let status = state::unwatched(|| unsafe { real_create()(id, attributes, run, place as Pointer) });
    if status == 0 {
        // SAFETY: on success it holds the new thread's id. The thread may have set it already, or be gone.
        let id = unsafe { id.read() };
        change(|thread| thread.serial == serial, |thread| thread.id = id);
    } else {
        take(place);
        forget(|thread| thread.serial == serial);
    }
    status
}

/// In place of attributes, by glibc's and musl's `thrd_create`.
const OF_C11: Pointer = usize::MAX as Pointer;

/// Notes a thread that is about to be started, if the calling thread is watched and there is room.
fn set_out(attributes: Pointer, start: Start, argument: Pointer) -> Option<usize> {
    let (session, call) = state::own_session();
    if session == 0 {
        return None;
    }
    let serial = LAST_SERIAL.fetch_add(1, Ordering::Relaxed) + 1;
    let place = put(Errand {
        session,
        call,
        serial,
        start: Some(start),
        argument,
    })?;
    let mark = Watch::allocations().and_then(|watch| watch.mark());
    let mut state = libc::PTHREAD_CREATE_JOINABLE;
    if !attributes.is_null() && attributes != OF_C11 {
        // SAFETY: the attributes that the caller passes to pthread_create.
        unsafe { pthread_attr_getdetachstate(attributes.cast(), &mut state) };
    }
    // Without memory it is not followed.
    let _ = STARTED.lock().push(StartedThread {
        mark: mark.unwrap_or(Mark {
            birth: call,
            ..Mark::default()
        }),
        number: 0,
        ended: false,
        detached: state == libc::PTHREAD_CREATE_DETACHED,
        id: 0,
        serial,
    });
    Some(place)
}

/// First step of a thread that belongs to the call. Nothing here has a destructor, so that
/// `pthread_exit` and cancellation may unwind through it.
unsafe extern "C-unwind" fn run(place: Pointer) -> Pointer {
    let errand = take(place as usize);
    state::belong_to(errand.session, errand.call);
    // SAFETY: both only ask who runs here.
    let (number, id) = unsafe { (libc::gettid(), libc::pthread_self() as Id) };
    let is_this = |thread: &StartedThread| thread.serial == errand.serial;
    change(is_this, |thread| (thread.number, thread.id) = (number, id));
    let Some(start) = errand.start else {
        return std::ptr::null_mut();
    };
    // SAFETY: what the caller of pthread_create asked to be run, with its argument.
    let result = unsafe { start(errand.argument) };
    change(is_this, |thread| thread.ended = true);
    forget(|thread| is_this(thread) && thread.detached);
    result
}

fn put(errand: Errand) -> Option<usize> {
    let mut errands = ERRANDS.lock();
    let place = errands.iter().position(|other| other.start.is_none())?;
    errands[place] = errand;
    Some(place)
}

fn take(place: usize) -> Errand {
    std::mem::replace(&mut ERRANDS.lock()[place], NO_ERRAND)
}

/// Changes the youngest thread that `is` the one meant: ids are used again.
fn change(is: impl Fn(&StartedThread) -> bool, change: impl FnOnce(&mut StartedThread)) {
    if let Some(thread) = STARTED.lock().iter_mut().rev().find(|thread| is(thread)) {
        change(thread);
    }
}

fn forget(is: impl Fn(&StartedThread) -> bool) {
    let mut started = STARTED.lock();
    if let Some(at) = started.iter().rposition(is) {
        started.remove(at);
    }
}

/// Forgets the thread that was joined if `status` is 0.
fn joined(id: Id, status: c_int) -> c_int {
    if status == 0 {
        forget(|thread| thread.id == id);
    }
    status
}

// SAFETY of the calls below: each hands its own arguments to the real function of the same name.

unsafe extern "C" fn pthread_join(id: Id, result: Pointer) -> c_int {
    // SAFETY: see above.
    joined(id, unsafe { real_join()(id, result) })
}

unsafe extern "C" fn pthread_tryjoin(id: Id, result: Pointer) -> c_int {
    // SAFETY: see above.
    joined(id, unsafe { real_tryjoin()(id, result) })
}

unsafe extern "C" fn pthread_timedjoin(id: Id, result: Pointer, until: Pointer) -> c_int {
    // SAFETY: see above.
    joined(id, unsafe { real_timedjoin()(id, result, until) })
}

unsafe extern "C" fn pthread_clockjoin(id: Id, result: Pointer, clock: c_int, until: Pointer) -> c_int {
    // SAFETY: see above.
    joined(id, unsafe { real_clockjoin()(id, result, clock, until) })
}

unsafe extern "C" fn pthread_detach(id: Id) -> c_int {
    // Noted first: afterwards the id may be another thread's.
    change(|thread| thread.id == id, |thread| thread.detached = true);
    forget(|thread| thread.id == id && thread.ended);
    // SAFETY: see above.
    unsafe { real_detach()(id) }
}

/// CPython ends threads like this that want the GIL while the interpreter ends. The frames of a check cannot be unwound
/// then: what they clean up needs the GIL. So its thread waits for the end of the process, as all such threads do from
/// CPython 3.14 on.
unsafe extern "C-unwind" fn pthread_exit(result: Pointer) {
    // SAFETY: asks for a number.
    let is_checking = CHECKING.load(Ordering::Relaxed) == unsafe { libc::gettid() };
    if is_checking || state::is_unwatched() {
        loop {
            // SAFETY: waits for a signal.
            unsafe { libc::pause() };
        }
    }
    let exit = PTHREAD_EXIT.load(Ordering::Relaxed);
    // SAFETY: the real function, which unwinds this frame and all others; nothing here needs to be cleaned up.
    unsafe { transmute::<usize, unsafe extern "C-unwind" fn(Pointer)>(exit)(result) };
}

unsafe extern "C" fn dlclose(handle: Pointer) -> c_int {
    // SAFETY: the caller's own argument, handed on.
    state::unload(|| unsafe { real_dlclose()(handle) })
}

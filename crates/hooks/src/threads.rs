//! Threads that a watched thread starts belong to it, and unloading of modules is noticed.

use std::ffi::{c_int, c_void};
use std::mem::transmute;
use std::sync::atomic::{AtomicUsize, Ordering};

use leaktight_liveset::SpinLock;

use crate::native::real;
use crate::slots::{Hook, ReplacedFunction};
use crate::state;

type Pointer = *mut c_void;
type Start = unsafe extern "C-unwind" fn(Pointer) -> Pointer;

real!(
    PTHREAD_CREATE,
    real_create,
    fn(Pointer, Pointer, Start, Pointer) -> c_int
);
real!(DLCLOSE, real_dlclose, fn(Pointer) -> c_int);

pub(crate) static FUNCTIONS: &[ReplacedFunction] = &[
    ReplacedFunction {
        name: c"pthread_create",
        hook: Hook(pthread_create as *const ()),
        real: &PTHREAD_CREATE,
    },
    ReplacedFunction {
        name: c"dlclose",
        hook: Hook(dlclose as *const ()),
        real: &DLCLOSE,
    },
];

/// What a new thread is to run, between its creation and its first step.
#[derive(Clone, Copy)]
struct Errand {
    session: u32,
    call: u32,
    start: Option<Start>,
    argument: Pointer,
}

// SAFETY: the pointers are handed from the creating thread to the created one, as pthread_create does.
unsafe impl Send for Errand {}

const NO_ERRAND: Errand = Errand {
    session: 0,
    call: 0,
    start: None,
    argument: std::ptr::null_mut(),
};

/// Threads under way at one moment; a thread that finds no room is started plainly.
static ERRANDS: SpinLock<[Errand; 256]> = SpinLock::new([NO_ERRAND; 256]);

/// Threads that calls of this session started and that have not returned yet. One that ends by
/// `pthread_exit` stays counted.
static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// How many threads that calls have started are under way.
pub fn threads_under_way() -> usize {
    UNDER_WAY.load(Ordering::Relaxed)
}

pub(crate) fn forget_threads() {
    UNDER_WAY.store(0, Ordering::Relaxed);
}

fn one_less() {
    let less = |count: usize| count.checked_sub(1);
    let _ = UNDER_WAY.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
}

unsafe extern "C" fn pthread_create(id: Pointer, attributes: Pointer, start: Start, argument: Pointer) -> c_int {
    let (session, call) = state::own_session();
    let errand = Errand {
        session,
        call,
        start: Some(start),
        argument,
    };
    let place = if session == 0 { None } else { put(errand) };
    let Some(place) = place else {
        // SAFETY: the caller's own arguments, handed on.
        return unsafe { real_create()(id, attributes, start, argument) };
    };
    UNDER_WAY.fetch_add(1, Ordering::Relaxed);
    // SAFETY: as above, with a start routine that runs the caller's.
    let status = unsafe { real_create()(id, attributes, run, place as Pointer) };
    if status != 0 {
        one_less();
        take(place);
    }
    status
}

/// First step of a thread that belongs to the call. Nothing here has a destructor, so that
/// `pthread_exit` and cancellation may unwind through it.
unsafe extern "C-unwind" fn run(place: Pointer) -> Pointer {
    let errand = take(place as usize);
    state::belong_to(errand.session, errand.call);
    let Some(start) = errand.start else {
        return std::ptr::null_mut();
    };
    // SAFETY: what the caller of pthread_create asked to be run, with its argument.
    let result = unsafe { start(errand.argument) };
    if state::own_session().0 == errand.session {
        one_less();
    }
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

unsafe extern "C" fn dlclose(handle: Pointer) -> c_int {
    // SAFETY: the caller's own argument, handed on.
    state::unload(|| unsafe { real_dlclose()(handle) })
}

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
    // SAFETY: as above, with a start routine that runs the caller's.
    let status = unsafe { real_create()(id, attributes, run, place as Pointer) };
    if status != 0 {
        take(place);
    }
    status
}

/// First step of a thread that belongs to the call. Nothing here has a destructor, so that
/// `pthread_exit` and cancellation may unwind through it.
unsafe extern "C-unwind" fn run(place: Pointer) -> Pointer {
    let errand = take(place as usize);
    state::belong_to(errand.session, errand.call);
    match errand.start {
        // SAFETY: what the caller of pthread_create asked to be run, with its argument.
        Some(start) => unsafe { start(errand.argument) },
        None => std::ptr::null_mut(),
    }
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

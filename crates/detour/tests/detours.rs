//! Detours at real functions: of this program, of libc, beside threads that call them all the time.
#![cfg(target_arch = "x86_64")]

use std::ffi::c_void;
use std::hint::black_box;
use std::os::fd::AsRawFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};

use leaktight_detour::{Detour, Function, Refusal, prepare, put_in, take_out};

/// One at a time: all change the same functions.
static ONE: Mutex<()> = Mutex::new(());

static ORIGINAL: AtomicUsize = AtomicUsize::new(0);
static SEEN: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" fn counted(block: *mut c_void) -> usize {
    SEEN.fetch_add(1, Ordering::Relaxed);
    let original = ORIGINAL.load(Ordering::Relaxed);
    // SAFETY: `malloc_usable_size` itself, by its trampoline.
    unsafe { std::mem::transmute::<usize, unsafe extern "C" fn(*mut c_void) -> usize>(original)(block) }
}

/// Of libc, and called by nobody else here.
fn usable_size() -> unsafe extern "C" fn(*mut c_void) -> usize {
    black_box(libc::malloc_usable_size)
}

fn detour() -> Detour {
    // SAFETY: looks a name up.
    let start = unsafe { libc::dlsym(libc::RTLD_NEXT, c"malloc_usable_size".as_ptr()) } as usize;
    assert_ne!(start, 0);
    // SAFETY: libc stays loaded, and the hook has the signature of the function, which is longer than this.
    let made = unsafe { prepare(&[(Function { start, len: 16 }, counted as *const () as usize)]) };
    let detour = *made[0].as_ref().unwrap();
    ORIGINAL.store(detour.original(), Ordering::Relaxed);
    detour
}

#[test]
fn every_call_passes_through_the_hook_while_it_is_in_and_none_afterwards() {
    let _one = ONE.lock();
    let detour = detour();
    // SAFETY: a block of malloc's, released below; the detour is at a function that stays.
    unsafe {
        let block = libc::malloc(100);
        let size = usable_size()(block);
        for _ in 0..3 {
            let before = SEEN.load(Ordering::Relaxed);
            assert_eq!(usable_size()(block), size);
            assert_eq!(SEEN.load(Ordering::Relaxed), before, "not yet");
            put_in(&[detour]).unwrap();
            assert!(!detour.is_out());
            assert_eq!(usable_size()(block), size);
            // By an address that nobody patches.
            let looked_up = libc::dlsym(libc::RTLD_NEXT, c"malloc_usable_size".as_ptr());
            let function = std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut c_void) -> usize>(looked_up);
            assert_eq!(function(block), size);
            assert_eq!(SEEN.load(Ordering::Relaxed), before + 2);
            take_out(&[detour]).unwrap();
            assert!(detour.is_out());
        }
        libc::free(block);
    }
}

#[test]
fn a_second_one_at_the_same_place_is_refused_and_nothing_is_left_half_done() {
    let _one = ONE.lock();
    let (first, second) = (detour(), detour());
    // SAFETY: as above.
    unsafe {
        put_in(&[first]).unwrap();
        assert!(matches!(put_in(&[second]), Err(Refusal::Changed)));
        take_out(&[second]).unwrap();
        assert!(!first.is_out(), "it is not the second one's to take out");
        take_out(&[first]).unwrap();
    }
}

#[test]
fn threads_that_call_all_the_time_go_on_and_those_that_wait_are_not_woken() {
    let _one = ONE.lock();
    let detour = detour();
    let (stop, interrupted) = (AtomicBool::new(false), AtomicBool::new(false));
    let (calls, sleeper) = (AtomicU64::new(0), AtomicI32::new(0));
    let (wait, wake) = std::io::pipe().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                // SAFETY: a block of malloc's.
                unsafe {
                    let block = libc::malloc(200);
                    let size = libc::malloc_usable_size(block);
                    while !stop.load(Ordering::Relaxed) {
                        assert_eq!(usable_size()(block), size);
                        calls.fetch_add(1, Ordering::Relaxed);
                    }
                    libc::free(block);
                }
            });
        }
        scope.spawn(|| {
            // SAFETY: asks for a number.
            sleeper.store(unsafe { libc::gettid() }, Ordering::Relaxed);
            let mut end = libc::pollfd {
                fd: wait.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one descriptor, which is open; a signal would end it early.
            let ended = unsafe { libc::poll(&mut end, 1, -1) };
            interrupted.store(ended != 1, Ordering::Relaxed);
        });
        let sleeps = |thread: i32| {
            let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat"));
            stat.is_ok_and(|stat| {
                stat.rsplit(')')
                    .next()
                    .unwrap_or_default()
                    .trim_start()
                    .starts_with('S')
            })
        };
        while !sleeps(sleeper.load(Ordering::Relaxed)) {
            std::thread::yield_now();
        }
        for _ in 0..60 {
            // SAFETY: as above.
            unsafe {
                put_in(&[detour]).unwrap();
                take_out(&[detour]).unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
        drop(wake);
    });
    assert!(calls.load(Ordering::Relaxed) > 0);
    assert!(
        !interrupted.load(Ordering::Relaxed),
        "a thread that sleeps was disturbed"
    );
}

#[test]
fn what_is_no_whole_function_is_refused() {
    let _one = ONE.lock();
    // SAFETY: nothing is put in.
    let made = unsafe {
        prepare(&[(
            Function {
                start: SEEN.as_ptr() as usize | 4,
                len: 8,
            },
            1,
        )])
    };
    assert!(matches!(made[0], Err(Refusal::Shape("its entry is not aligned"))));
}

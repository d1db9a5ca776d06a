//! A stack is captured in the handler of a signal, from where it has interrupted, and nothing is allocated.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use leaktight_elf::loaded_objects;
use leaktight_stacks::{Interrupted, Module, Symbols, capture_at, forget_modules, prepare, set_modules, stack};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static INSIDE: AtomicBool = AtomicBool::new(false);
static STACK: AtomicU32 = AtomicU32::new(0);
static OUTSIDE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator, and a counter.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(u64::from(INSIDE.load(Ordering::SeqCst)), Ordering::SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        ALLOCATIONS.fetch_add(u64::from(INSIDE.load(Ordering::SeqCst)), Ordering::SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

extern "C" fn handler(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes the registers of the interrupted thread.
    let interrupted = interrupted(unsafe { &mut *context.cast::<libc::ucontext_t>() });
    INSIDE.store(true, Ordering::SeqCst);
    let number = capture_at(&interrupted, OUTSIDE.load(Ordering::SeqCst), |_, _| true);
    INSIDE.store(false, Ordering::SeqCst);
    STACK.store(number, Ordering::SeqCst);
}

#[cfg(target_arch = "x86_64")]
fn interrupted(context: &mut libc::ucontext_t) -> Interrupted {
    let registers = [libc::REG_RIP, libc::REG_RSP, libc::REG_RBP];
    let [pc, sp, fp] = registers.map(|register| context.uc_mcontext.gregs[register as usize] as usize);
    Interrupted { pc, sp, fp, lr: 0 }
}

/// Behind the breakpoint, where the thread does not get by itself.
#[cfg(target_arch = "aarch64")]
fn interrupted(context: &mut libc::ucontext_t) -> Interrupted {
    let saved = &mut context.uc_mcontext;
    saved.pc += 4;
    let [pc, sp, fp, lr] = [saved.pc, saved.sp, saved.regs[29], saved.regs[30]].map(|register| register as usize);
    Interrupted { pc, sp, fp, lr }
}

/// Where it is interrupted, at a depth that each capture has for the first time.
#[inline(never)]
fn interrupted_at(depth: u32) {
    if depth > 0 {
        interrupted_at(depth - 1);
    } else {
        interrupted_at_once();
    }
    std::hint::black_box(depth);
}

/// Calls nothing, so on aarch64 only the link register says where it returns to.
#[inline(never)]
fn interrupted_at_once() {
    // SAFETY: a breakpoint, whose signal is handled.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!("int3", options(nostack))
    };
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!("brk #0", options(nostack))
    };
}

fn tell_modules() {
    let mut modules = Vec::new();
    loaded_objects(|object| {
        let loads = || object.headers().filter(|header| header.0 == libc::PT_LOAD);
        let table = object.headers().find(|header| header.0 == libc::PT_GNU_EH_FRAME);
        let Some((_, table, len)) = table else { return };
        let Some(segment) = loads().find(|(_, start, len)| table.wrapping_sub(*start) < *len) else {
            return;
        };
        modules.push(Module {
            base: object.base,
            range: (
                loads().map(|load| load.1).min().unwrap(),
                loads().map(|load| load.1 + load.2).max().unwrap(),
            ),
            unwind_table: (table, len),
            unwind_segment: (segment.1, segment.1 + segment.2),
            copy: None,
        });
    });
    // SAFETY: nothing is unloaded before they are forgotten.
    unsafe { set_modules(&modules) };
}

#[test]
fn the_stack_of_what_was_interrupted_is_captured_and_nothing_allocated() {
    tell_modules();
    prepare();
    // SAFETY: all zero is a value of it; the handler has the signature that SA_SIGINFO asks for.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(libc::SIGTRAP, &action, std::ptr::null_mut()), 0);
    }
    let here = 0u8;
    OUTSIDE.store(
        std::ptr::from_ref(std::hint::black_box(&here)) as usize,
        Ordering::SeqCst,
    );
    for depth in 0..30 {
        interrupted_at(depth);
        let native = stack(STACK.load(Ordering::SeqCst)).unwrap().native;
        assert_eq!(native.len() as u32, depth + 2, "{native:x?}");
        let resolved = Symbols::new().resolve(&native, |_| false).unwrap();
        let names = resolved.iter().map(|at| at.last().unwrap().function.clone().unwrap());
        names.for_each(|name| assert!(name.contains("interrupted_at"), "{name}"));
    }
    assert_eq!(ALLOCATIONS.load(Ordering::SeqCst), 0);
    forget_modules();
}

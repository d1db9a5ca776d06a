//! Native unwinding by the tables that compilers write for exceptions (`.eh_frame`).

use std::borrow::Cow;
use std::mem::MaybeUninit;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use framehop::{
    CacheNative, ExplicitModuleSectionInfo, FrameAddress, MustNotAllocateDuringUnwind, UnwindRegsNative, Unwinder as _,
    UnwinderNative,
};
use leaktight_liveset::SpinLock;

use crate::bounds::stack_around;
use crate::signed::without_sign_states;

/// Tables in place, or a copy.
type Bytes = Cow<'static, [u8]>;
type Unwinder = UnwinderNative<Bytes, MustNotAllocateDuringUnwind>;
type Cache = CacheNative<MustNotAllocateDuringUnwind>;

/// A loaded object, as the unwinder needs it.
#[derive(Clone, Debug)]
pub struct Module {
    /// What is added to the addresses in the file.
    pub base: usize,
    /// Start and end of its code and data in memory.
    pub range: (usize, usize),
    /// Start and length in bytes of `.eh_frame_hdr` (`PT_GNU_EH_FRAME`).
    pub unwind_table: (usize, usize),
    /// Start and end of the loaded segment that the table lies in.
    pub unwind_segment: (usize, usize),
    /// A copy of that segment, where it may be gone at any time; otherwise it is read in place.
    pub copy: Option<Vec<u8>>,
}

static UNWINDER: SpinLock<Option<Unwinder>> = SpinLock::new(None);
/// Readers inside `native_frames`; the unwinder is exchanged only when there are none.
static READERS: AtomicUsize = AtomicUsize::new(0);
static USABLE: AtomicBool = AtomicBool::new(false);
const CACHES: usize = 8;

/// Makes the unwinder know exactly these modules. Captures on other threads go without
/// native frames meanwhile.
///
/// # Safety
///
/// The modules that have no copy stay loaded until the next call of this or of [`forget_modules`].
pub unsafe fn set_modules(modules: &[Module]) {
    let mut unwinder = Unwinder::new();
    for module in modules {
        if let Some(module) = framehop_module(module) {
            unwinder.add_module(module);
        }
    }
    caches();
    forget_modules();
    *UNWINDER.lock() = Some(unwinder);
    USABLE.store(true, Ordering::SeqCst);
}

/// No native frames from now on, until [`set_modules`]. To be called before a module is unloaded.
pub fn forget_modules() {
    USABLE.store(false, Ordering::SeqCst);
    while READERS.load(Ordering::SeqCst) != 0 {
        std::thread::yield_now();
    }
}

fn framehop_module(module: &Module) -> Option<framehop::Module<Bytes>> {
    let (header, header_len) = module.unwind_table;
    let (segment_start, segment_end) = module.unwind_segment;
    if header_len < 8 || header.checked_add(header_len)? > segment_end || header < segment_start {
        return None;
    }
    // SAFETY: PT_GNU_EH_FRAME names this range, it lies in a loaded segment, and `set_modules` promises that it stays.
    let header_bytes = unsafe { module.bytes(header, header_len) }?;
    let frames = eh_frame_start(header, &header_bytes)?;
    if !(module.unwind_segment.0..segment_end).contains(&frames) {
        return None;
    }
    // SAFETY: from `.eh_frame` to the end of its loaded segment.
    let frame_bytes = unsafe { module.bytes(frames, segment_end - frames) }?;
    let stated = |start: usize, len: usize| {
        let start = start.wrapping_sub(module.base) as u64;
        start..start.wrapping_add(len as u64)
    };
    Some(framehop::Module::new(
        String::new(),
        module.range.0 as u64..module.range.1 as u64,
        module.base as u64,
        ExplicitModuleSectionInfo {
            base_svma: 0,
            eh_frame_svma: Some(stated(frames, frame_bytes.len())),
            eh_frame: Some(match frame_bytes {
                bytes if !cfg!(target_arch = "aarch64") => bytes,
                Cow::Borrowed(bytes) => without_sign_states(bytes),
                Cow::Owned(bytes) => Cow::Owned(without_sign_states(&bytes).into_owned()),
            }),
            eh_frame_hdr_svma: Some(stated(header, header_len)),
            eh_frame_hdr: Some(header_bytes),
            ..Default::default()
        },
    ))
}

impl Module {
    /// What stands in so many bytes of the segment.
    ///
    /// # Safety
    ///
    /// They lie in the segment, and if there is no copy it is loaded for as long as the result is used.
    unsafe fn bytes(&self, start: usize, len: usize) -> Option<Bytes> {
        match &self.copy {
            Some(copy) => {
                let at = start.checked_sub(self.unwind_segment.0)?;
                Some(Cow::Owned(copy.get(at..at.checked_add(len)?)?.to_vec()))
            }
            // SAFETY: the caller's word.
            None => Some(Cow::Borrowed(unsafe {
                std::slice::from_raw_parts(start as *const u8, len)
            })),
        }
    }
}

/// Reads `eh_frame_ptr` from `.eh_frame_hdr` (Linux Standard Base, "exception frames"): version 1, and the
/// pointer relative to itself in 4 bytes, which is what GNU ld, gold, lld and mold all write.
fn eh_frame_start(header: usize, bytes: &[u8]) -> Option<usize> {
    const PC_RELATIVE_4_BYTES: u8 = 0x1b;
    let [1, PC_RELATIVE_4_BYTES, _, _, a, b, c, d, ..] = *bytes else {
        return None;
    };
    let distance = i32::from_le_bytes([a, b, c, d]);
    (header + 4).checked_add_signed(distance as isize)
}

/// Fills `frames` with code addresses of the calling thread, innermost first, and returns how many there are. Unwinding
/// begins `here`, in a frame that is still there. Starts with the caller of the frame that the first stack address lies
/// in; stops before the frame that the second one (0: none) lies in, or after the first that `is_last` accepts.
/// Allocates nothing.
#[inline(never)]
pub(crate) fn native_frames(
    here: Here,
    frames: &mut [MaybeUninit<u64>],
    between: (usize, usize),
    is_last: impl Fn(u64) -> bool,
) -> usize {
    wait_until_usable();
    READERS.fetch_add(1, Ordering::SeqCst);
    let count = if USABLE.load(Ordering::SeqCst) {
        unwind(here, frames, between, is_last)
    } else {
        0
    };
    READERS.fetch_sub(1, Ordering::SeqCst);
    count
}

/// Modules are told anew within a millisecond; a stack without native frames would pass for another place.
/// Not for ever: this thread may be the one that unloads a module, and allocate while that is going on.
fn wait_until_usable() {
    const TRIES: u32 = 2000;
    let mut tries = 0;
    while !USABLE.load(Ordering::SeqCst) && tries < TRIES {
        std::thread::yield_now();
        tries += 1;
    }
}

fn unwind(
    here: Here,
    frames: &mut [MaybeUninit<u64>],
    between: (usize, usize),
    is_last: impl Fn(u64) -> bool,
) -> usize {
    let caches = caches();
    let free = caches.iter().find_map(SpinLock::try_lock);
    let mut cache = free.unwrap_or_else(|| caches[between.0 / 64 % caches.len()].lock());
    // Counted among READERS, so nobody exchanges the unwinder while the reference lives.
    let unwinder: *const Option<Unwinder> = &raw const *UNWINDER.lock();
    // SAFETY: the static outlives this call, and see above for why it does not change.
    let Some(unwinder) = (unsafe { &*unwinder }) else {
        return 0;
    };
    let (inside, outside) = between;
    let Here {
        pc,
        sp: start,
        mut registers,
    } = here;
    let (_, end) = stack_around(start);
    let mut read_stack = |address: u64| {
        let address = address as usize;
        let readable = address >= start && address.saturating_add(8) <= end && address.is_multiple_of(8);
        // SAFETY: between this thread's stack pointer and the end of the mapping that holds its stack.
        readable.then(|| unsafe { *(address as *const u64) }).ok_or(())
    };
    let mut frame = FrameAddress::from_instruction_pointer(pc);
    let mut count = 0;
    while count < frames.len() {
        let next = unwinder.unwind_frame(frame, &mut registers, &mut cache, &mut read_stack);
        let Some(next) = next.ok().flatten().and_then(FrameAddress::from_return_address) else {
            break;
        };
        frame = next;
        // The stack pointer is now that of the caller, just above the frame that was left.
        let left = registers.sp() as usize;
        if outside != 0 && left > outside {
            // The frame that was left, and noted last, is the one that holds `outside`.
            count = count.saturating_sub(1);
            break;
        }
        if left > inside {
            // One less than a return address lies inside the call, which is what symbols are wanted for.
            let address = frame.address_for_lookup();
            frames[count].write(address);
            count += 1;
            if is_last(address) {
                break;
            }
        }
    }
    count
}

fn caches() -> &'static [SpinLock<Cache>] {
    static ALL: OnceLock<Vec<SpinLock<Cache>>> = OnceLock::new();
    ALL.get_or_init(|| (0..CACHES).map(|_| SpinLock::new(Cache::new_in())).collect())
}

/// Where unwinding begins.
#[derive(Clone, Copy)]
pub(crate) struct Here {
    pc: u64,
    pub sp: usize,
    registers: UnwindRegsNative,
}

#[cfg(target_arch = "x86_64")]
impl Here {
    /// Where a signal has interrupted the calling thread.
    pub(crate) fn at(interrupted: &Interrupted) -> Here {
        let [pc, sp, fp] = [interrupted.pc, interrupted.sp, interrupted.fp].map(|register| register as u64);
        Here {
            pc,
            sp: interrupted.sp,
            registers: UnwindRegsNative::new(pc, sp, fp),
        }
    }
}

#[cfg(target_arch = "aarch64")]
impl Here {
    /// Where a signal has interrupted the calling thread.
    pub(crate) fn at(interrupted: &Interrupted) -> Here {
        let Interrupted { pc, sp, fp, lr } = *interrupted;
        Here {
            pc: pc as u64,
            sp,
            registers: registers(lr as u64, sp as u64, fp as u64),
        }
    }
}

/// The registers of the calling thread where a signal has interrupted it, behind the instruction that is of interest.
#[derive(Clone, Copy, Debug)]
pub struct Interrupted {
    /// The program counter.
    pub pc: usize,
    /// The stack pointer.
    pub sp: usize,
    /// The register that holds the frame pointer in code that has one.
    pub fp: usize,
    /// The link register, on a processor that has one (aarch64).
    pub lr: usize,
}

impl Interrupted {
    /// As if the calling thread were interrupted here.
    #[inline(always)]
    pub(crate) fn here() -> Interrupted {
        let Here { pc, sp, registers } = here();
        #[cfg(target_arch = "x86_64")]
        let (fp, lr) = (registers.bp(), 0);
        #[cfg(target_arch = "aarch64")]
        let (fp, lr) = (registers.fp(), registers.lr());
        Interrupted {
            pc: pc as usize,
            sp,
            fp: fp as usize,
            lr: lr as usize,
        }
    }
}

/// Where the function begins that a code address lies in, as the tables for unwinding say; parts that a compiler has put
/// elsewhere count as functions. `None` where no table speaks of it.
pub fn function_at(address: u64) -> Option<u64> {
    unsafe extern "C" {
        /// Of the unwinder that Rust's library is linked with (unwind-dw2.c in GCC). It takes a return address.
        fn _Unwind_FindEnclosingFunction(address: *mut std::ffi::c_void) -> *mut std::ffi::c_void;
    }
    // SAFETY: takes any address; it reads the tables of loaded objects.
    let start = unsafe { _Unwind_FindEnclosingFunction((address + 1) as *mut _) };
    (!start.is_null()).then_some(start as u64)
}

/// The place that this is inlined into.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn here() -> Here {
    let (ip, sp, bp): (u64, u64, u64);
    // SAFETY: only reads registers.
    unsafe {
        std::arch::asm!(
            "lea {ip}, [rip]", "mov {sp}, rsp", "mov {bp}, rbp",
            ip = out(reg) ip, sp = out(reg) sp, bp = out(reg) bp,
            options(nomem, nostack, preserves_flags)
        );
    }
    Here {
        pc: ip,
        sp: sp as usize,
        registers: UnwindRegsNative::new(ip, sp, bp),
    }
}

#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub(crate) fn here() -> Here {
    let (pc, sp, fp, lr): (u64, u64, u64, u64);
    // SAFETY: only reads registers.
    unsafe {
        std::arch::asm!(
            "adr {pc}, .", "mov {sp}, sp", "mov {fp}, x29", "mov {lr}, x30",
            pc = out(reg) pc, sp = out(reg) sp, fp = out(reg) fp, lr = out(reg) lr,
            options(nomem, nostack, preserves_flags)
        );
    }
    Here {
        pc,
        sp: sp as usize,
        registers: registers(lr, sp, fp),
    }
}

#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn registers(lr: u64, sp: u64, fp: u64) -> UnwindRegsNative {
    UnwindRegsNative::new_with_ptr_auth_mask(framehop::aarch64::PtrAuthMask(address_bits()), lr, sp, fp)
}

/// The bits of a code address that are no part of a signature. Return addresses on the stack are signed where code is
/// built with `-mbranch-protection`, as distributions do. How many bits a signature has depends on the kernel's
/// page tables, so the processor is asked: XPACLRI strips the signature off x30, and does nothing on a processor that
/// signs nothing (Arm Architecture Reference Manual, C6.2).
#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn address_bits() -> u64 {
    let stripped: u64;
    // SAFETY: changes the one register that it names.
    unsafe {
        std::arch::asm!("hint #7", inlateout("x30") ALL_SIGNED => stripped, options(nomem, nostack, preserves_flags));
    }
    stripped
}

/// An address of user space, which bit 55 tells, with all other bits of a signature set.
#[cfg(target_arch = "aarch64")]
const ALL_SIGNED: u64 = !(1 << 55);

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "aarch64")]
    #[test]
    fn a_signature_is_stripped() {
        let address = a_signature_is_stripped as *const () as u64;
        let signed: u64;
        // SAFETY: PACIAZ signs x30, or does nothing, and the asm names that register.
        unsafe { std::arch::asm!("hint #24", inlateout("x30") address => signed, options(nomem, nostack)) };
        assert_eq!(signed & address_bits(), address, "{signed:#x}");
    }

    #[test]
    fn the_function_of_an_address_is_found() {
        let start = stack_around as *const () as u64;
        assert_eq!(function_at(start), Some(start));
        assert_eq!(function_at(start + 4), Some(start));
        assert_eq!(function_at(16), None);
    }

    #[test]
    fn a_broken_header_is_refused() {
        assert_eq!(eh_frame_start(0x1000, &[]), None);
        assert_eq!(eh_frame_start(0x1000, &[1, 0x1b, 3, 0x3b, 0, 0]), None);
        assert_eq!(eh_frame_start(0x1000, &[2, 0x1b, 3, 0x3b, 4, 0, 0, 0]), None);
        assert_eq!(eh_frame_start(0x1000, &[1, 0x1b, 3, 0x3b, 4, 0, 0, 0]), Some(0x1008));
        assert_eq!(eh_frame_start(0, &[1, 0x1b, 3, 0x3b, 0, 0, 0, 0x80]), None);
    }

    #[test]
    fn a_copy_is_read_and_not_what_it_is_of() {
        // The header says that `.eh_frame` begins 8 bytes behind it.
        let copy = vec![1, 0x1b, 3, 0x3b, 4, 0, 0, 0, 7];
        let module = Module {
            base: 0x1000,
            range: (0x1000, 0x2000),
            unwind_table: (0x1000, 8),
            unwind_segment: (0x1000, 0x1009),
            copy: Some(copy),
        };
        assert!(framehop_module(&module).is_some());
        let short = Module {
            copy: Some(vec![1, 0x1b, 3, 0x3b, 4, 0, 0, 0]),
            ..module
        };
        assert!(framehop_module(&short).is_none());
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_read_or_refused(at: usize, bytes: Vec<u8>) {
            let _ = eh_frame_start(at, &bytes);
        }

        #[test]
        fn a_module_whose_parts_do_not_fit_is_refused(base: usize, table: usize, len: usize, segment: (usize, usize)) {
            // Nothing is mapped there, so reading any of it would crash.
            let module = Module {
                base,
                range: (base, base),
                unwind_table: (table, len),
                unwind_segment: (segment.0, segment.1.min(table)),
                copy: None,
            };
            proptest::prop_assert!(framehop_module(&module).is_none());
        }
    }
}

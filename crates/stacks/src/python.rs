//! Python frames, read from the interpreter's own structures.
//!
//! `PyEval_GetFrame` must not be used inside a hook, since it allocates a frame object from 3.11 on. The
//! offsets below are private to CPython and fixed within a minor version (they come from each version's
//! `Include/cpython` and `Include/internal`); [`Interpreter::check`] compares what they yield with
//! `sys._getframe` before they are used.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

use leaktight_memory::Memory;

type Pointer = *mut c_void;
type GetThread = unsafe extern "C" fn() -> Pointer;
type Count = unsafe extern "C" fn(Pointer);

/// One frame: a code object and the offset in bytes of the instruction that runs in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PythonFrame {
    /// Address of the code object. Kept alive until the stack store is cleared, unless
    /// [`capture`](crate::capture) was told that somebody else looks after it.
    pub code: usize,
    /// For `PyCode_Addr2Line`.
    pub offset: i32,
}

/// The frames read through the private layout are not those that `sys._getframe` shows.
#[derive(Debug)]
pub struct FrameMismatch;

impl std::fmt::Display for FrameMismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the frames of this interpreter do not have the layout of its version")
    }
}

impl std::error::Error for FrameMismatch {}

/// What is needed of a running CPython.
pub struct Interpreter {
    layout: Layout,
    this_thread: GetThread,
    current_thread: GetThread,
    pub(crate) hold: Count,
    pub(crate) release: Count,
    evaluation: (u64, u64),
}

static CURRENT: AtomicPtr<Interpreter> = AtomicPtr::new(std::ptr::null_mut());

/// Offsets in bytes. `thread_to_frame` has two steps where a C frame lies between.
#[derive(Clone, Copy)]
struct Layout {
    thread_to_frame: (usize, Option<usize>),
    code: usize,
    previous: usize,
    instruction: Instruction,
    /// Where a byte says who owns the frame, and the least value of frames that are no Python code.
    owner: Option<(usize, u8)>,
}

/// From 3.14 on a frame tells in these bits of the reference to its code how it holds that (`_PyStackRef`,
/// Include/internal/pycore_stackref.h).
const TAG: usize = 3;

#[derive(Clone, Copy)]
enum Instruction {
    /// An index at this offset, in units of so many bytes.
    Index(usize, i32),
    /// A pointer at the first offset, into the code that starts at the second one of the code object.
    Pointer(usize, usize),
    /// The same, or into a copy of the code that the frame's thread has (free-threaded CPython).
    Copied(usize, usize, Copies),
}

/// Where the copies of a function's code are found (Include/cpython/code.h, `_PyCodeArray`).
#[derive(Clone, Copy)]
struct Copies {
    /// In a frame: the number of its copy, four bytes; 0 = the code of the code object itself.
    number: usize,
    /// In a code object: where the table of all copies is. A word says how many it has, and then come their addresses.
    table: usize,
}

/// Reads a word, or says that it cannot.
trait Read {
    /// One that does not change while the thread looks at its own frames.
    fn own(&self, address: usize) -> Option<usize>;
    /// One in memory that other threads may free meanwhile.
    fn shared(&self, address: usize) -> Option<usize>;
}

/// More than any walk is asked for.
const MOST_FRAMES: usize = 10_000;

impl Layout {
    fn of(version: (u8, u8), is_free_threaded: bool) -> Option<Layout> {
        if is_free_threaded {
            return Layout::free_threaded(version);
        }
        let classic = |lasti, unit| Layout {
            thread_to_frame: (24, None),
            code: 32,
            previous: 24,
            instruction: Instruction::Index(lasti, unit),
            owner: None,
        };
        Some(match version {
            (3, 9) => classic(104, 1),
            (3, 10) => classic(96, 2),
            (3, 11) => Layout {
                thread_to_frame: (56, Some(8)),
                code: 32,
                previous: 48,
                instruction: Instruction::Pointer(56, 184),
                owner: None,
            },
            (3, 12) => Layout {
                thread_to_frame: (56, Some(0)),
                code: 0,
                previous: 8,
                instruction: Instruction::Pointer(56, 192),
                owner: Some((70, 3)),
            },
            (3, 13) => Layout {
                thread_to_frame: (72, None),
                code: 0,
                previous: 8,
                instruction: Instruction::Pointer(56, 200),
                owner: Some((70, 3)),
            },
            (3, 14 | 15) => Layout {
                thread_to_frame: (72, None),
                code: 0,
                previous: 8,
                instruction: Instruction::Pointer(56, 208),
                owner: Some((74, 3)),
            },
            _ => return None,
        })
    }

    fn free_threaded(version: (u8, u8)) -> Option<Layout> {
        let copies = Copies { number: 72, table: 224 };
        matches!(version, (3, 14 | 15)).then_some(Layout {
            thread_to_frame: (72, None),
            code: 0,
            previous: 8,
            instruction: Instruction::Copied(56, 232, copies),
            owner: Some((78, 3)),
        })
    }

    /// Walks the frames of a thread state, innermost first.
    fn walk(&self, thread: usize, reader: impl Read, mut each: impl FnMut(PythonFrame) -> bool) -> Option<()> {
        let read = |address| reader.own(address);
        let mut frame = read(thread + self.thread_to_frame.0)?;
        if let Some(second) = self.thread_to_frame.1 {
            frame = read(frame + second)?;
        }
        // What is read carefully may lead in a circle.
        let mut rest = MOST_FRAMES;
        while frame != 0 && rest > 0 {
            rest -= 1;
            let foreign = match self.owner {
                Some((at, value)) => (read((frame + at) & !7)? >> (at % 8 * 8)) as u8 >= value,
                None => false,
            };
            if !foreign {
                let code = read(frame + self.code)? & !TAG;
                let offset = match self.instruction {
                    Instruction::Index(at, unit) => (read(frame + at)? as u32 as i32).wrapping_mul(unit),
                    Instruction::Pointer(at, start) => read(frame + at)?.wrapping_sub(code + start) as i32,
                    Instruction::Copied(at, start, copies) => {
                        let start = match read(frame + copies.number)? as u32 {
                            0 => code + start,
                            number => copies.start(&reader, code, number as usize)?,
                        };
                        read(frame + at)?.wrapping_sub(start) as i32
                    }
                };
                if code == 0 || !each(PythonFrame { code, offset }) {
                    return Some(());
                }
            }
            frame = read(frame + self.previous)?;
        }
        Some(())
    }
}

impl Copies {
    /// Where the copy with this number starts.
    fn start(&self, reader: &impl Read, code: usize, number: usize) -> Option<usize> {
        let table = reader.own(code + self.table)?;
        let count = reader.shared(table)?;
        (number < count).then(|| reader.shared(table + (1 + number) * size_of::<usize>()))?
    }
}

/// Every word through the kernel.
struct Careful;

impl Read for Careful {
    fn own(&self, address: usize) -> Option<usize> {
        Memory::open().ok()?.try_word(address)
    }

    fn shared(&self, address: usize) -> Option<usize> {
        self.own(address)
    }
}

/// In place, for the thread's own frames; the rest only while it is attached to the interpreter: until it has let go of
/// it, nothing is freed that others have replaced meanwhile (Python/qsbr.c).
struct InPlace {
    is_attached: bool,
}

impl InPlace {
    /// # Safety
    ///
    /// The layout was checked, the frames that are read are the calling thread's, which is inside C code and so leaves them
    /// alone, and `is_attached` says of it what is true.
    unsafe fn new(is_attached: bool) -> InPlace {
        InPlace { is_attached }
    }
}

impl Read for InPlace {
    fn own(&self, address: usize) -> Option<usize> {
        // SAFETY: a word of a live frame or of the code object that it keeps alive, by the promise of `new`; that of the table
        // is exchanged as a whole.
        Some(unsafe { (address as *const usize).read_volatile() })
    }

    fn shared(&self, address: usize) -> Option<usize> {
        match self.is_attached {
            true => self.own(address),
            false => Careful.own(address),
        }
    }
}

impl Interpreter {
    /// Finds the running interpreter of this version (major, minor), built without a GIL or with one; `None` without one, or
    /// when the layout of its frames is not known.
    pub fn find(version: (u8, u8), is_free_threaded: bool) -> Option<Interpreter> {
        let function = |name: &std::ffi::CStr| {
            // SAFETY: looks a name up.
            let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
            (!address.is_null()).then_some(address)
        };
        let evaluation = function(c"_PyEval_EvalFrameDefault")?;
        // The second one until 3.12.
        let current_thread =
            function(c"PyThreadState_GetUnchecked").or_else(|| function(c"_PyThreadState_UncheckedGet"))?;
        // SAFETY: the four functions have had these signatures in every CPython 3 (Include/pystate.h, object.h).
        unsafe {
            Some(Interpreter {
                layout: Layout::of(version, is_free_threaded)?,
                this_thread: std::mem::transmute::<Pointer, GetThread>(function(c"PyGILState_GetThisThreadState")?),
                current_thread: std::mem::transmute::<Pointer, GetThread>(current_thread),
                hold: std::mem::transmute::<Pointer, Count>(function(c"Py_IncRef")?),
                release: std::mem::transmute::<Pointer, Count>(function(c"Py_DecRef")?),
                evaluation: symbol_range(evaluation),
            })
        }
    }

    /// Compares the layout with the code objects of the running frames, innermost first, as
    /// `sys._getframe` shows them, and their `f_lasti`. Every read asks the kernel, so a wrong layout cannot crash.
    pub fn check(&self, expected: &[PythonFrame]) -> Result<(), FrameMismatch> {
        // SAFETY: returns this thread's state or null.
        let thread = unsafe { (self.this_thread)() } as usize;
        let mut found = Vec::new();
        let walked = self.layout.walk(thread, Careful, |frame| {
            found.push(frame);
            found.len() < 1000
        });
        if walked.is_some() && !expected.is_empty() && found == expected {
            Ok(())
        } else {
            Err(FrameMismatch)
        }
    }

    /// Makes [`capture`](crate::capture) read this interpreter's frames from now on. To be called
    /// once per process, after [`Interpreter::check`].
    pub fn install(self) {
        let new = Box::into_raw(Box::new(self));
        // An interpreter that was there before stays in memory, since a hook may be reading it.
        CURRENT.store(new, Ordering::Release);
    }

    pub(crate) fn current() -> Option<&'static Interpreter> {
        // SAFETY: null, or a box that `install` leaked.
        unsafe { CURRENT.load(Ordering::Acquire).as_ref() }
    }

    /// Whether a code address lies in the evaluation loop, behind which Python frames tell the rest.
    pub(crate) fn evaluates(&self, address: u64) -> bool {
        (self.evaluation.0..self.evaluation.1).contains(&address)
    }

    /// Calls `each` with the calling thread's frames, innermost first, until it returns false; and with whether the
    /// thread holds the GIL, so that the code objects can be kept alive. `careful`: the thread may be anywhere, also where
    /// it makes or clears a frame.
    pub(crate) fn frames(&self, careful: bool, mut each: impl FnMut(PythonFrame, bool) -> bool) {
        // SAFETY: both functions may be called on any thread at any time.
        let (current, thread) = unsafe { ((self.current_thread)() as usize, (self.this_thread)() as usize) };
        // Not PyGILState_Check, which always says yes once there was a subinterpreter (Python/pystate.c).
        let holds_gil = current == thread;
        if careful && thread != 0 {
            self.layout.walk(thread, Careful, |frame| each(frame, holds_gil));
        } else if thread != 0 {
            // SAFETY: the calling thread, which is inside C code; the layout was checked before this was installed.
            let reader = unsafe { InPlace::new(holds_gil) };
            self.layout.walk(thread, reader, |frame| each(frame, holds_gil));
        }
    }
}

/// Start and end of the function at `start`, from its symbol.
fn symbol_range(start: Pointer) -> (u64, u64) {
    const RTLD_DL_SYMENT: c_int = 1;
    unsafe extern "C" {
        fn dladdr1(address: *const c_void, info: *mut libc::Dl_info, extra: *mut Pointer, flags: c_int) -> c_int;
    }
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::uninit();
    let mut symbol: Pointer = std::ptr::null_mut();
    // SAFETY: both out-pointers are valid; with this flag the second receives an ElfW(Sym) pointer or null.
    let size = unsafe {
        if dladdr1(start, info.as_mut_ptr(), &mut symbol, RTLD_DL_SYMENT) == 0 || symbol.is_null() {
            0
        } else {
            (*symbol.cast::<libc::Elf64_Sym>()).st_size
        }
    };
    (start as u64, start as u64 + size)
}

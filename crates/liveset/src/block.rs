//! One live block, and the kinds of allocation it can come from.

/// The allocation function family that a block came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Family {
    /// `malloc` and what libc builds on it (`strdup`, `getline`, …).
    Malloc = 0,
    /// `calloc`.
    Calloc = 1,
    /// `realloc`, `reallocarray`.
    Realloc = 2,
    /// `posix_memalign`, `aligned_alloc`, `memalign`, `valloc`, `pvalloc`.
    Aligned = 3,
    /// `mmap`, `mremap`: a mapping, sized in bytes as asked for.
    Mmap = 4,
    /// `PyMem_Malloc` and its siblings.
    PyMem = 5,
    /// `PyObject_Malloc` and its siblings: every Python object.
    PyObject = 6,
    /// `operator new`, where it does not come from `malloc`.
    New = 7,
    /// `sbrk`, `brk`: the program break.
    Break = 8,
    /// `shmat`: a shared segment of System V.
    Shared = 9,
}

impl Family {
    /// The name a C programmer knows it by.
    pub const fn name(self) -> &'static str {
        match self {
            Family::Malloc => "malloc",
            Family::Calloc => "calloc",
            Family::Realloc => "realloc",
            Family::Aligned => "aligned malloc",
            Family::Mmap => "mmap",
            Family::PyMem => "PyMem_Malloc",
            Family::PyObject => "PyObject_Malloc",
            Family::New => "operator new",
            Family::Break => "sbrk",
            Family::Shared => "shmat",
        }
    }

    /// Whether it is memory from the kernel, as it is, in which allocators may keep blocks of theirs.
    pub const fn is_mapping(self) -> bool {
        matches!(self, Family::Mmap | Family::Break | Family::Shared)
    }

    pub(crate) const fn from_bits(bits: u8) -> Family {
        match bits {
            0 => Family::Malloc,
            1 => Family::Calloc,
            2 => Family::Realloc,
            3 => Family::Aligned,
            4 => Family::Mmap,
            5 => Family::PyMem,
            6 => Family::PyObject,
            8 => Family::Break,
            9 => Family::Shared,
            _ => Family::New,
        }
    }
}

/// A block that was allocated while tracking and has not been freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Where it starts, as the allocator returned it.
    pub address: usize,
    /// Bytes, as asked for. Sizes above 2^48 - 1 saturate.
    pub size: usize,
    /// The call in which it was allocated; 0 = outside any call.
    pub birth: u32,
    /// The stack's number in the stack store; 0 = not captured.
    pub stack: u32,
    /// Which function family it came from.
    pub family: Family,
    /// Allocated by a thread that does not belong to the call.
    pub foreign: bool,
}

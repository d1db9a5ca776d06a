//! Functions of an object's type.

use leaktight_memory::Memory;

/// `ob_type` (Include/object.h).
const TYPE: usize = 8;
/// `tp_as_buffer`, and the first word of what it points to, `bf_getbuffer` (Include/cpython/object.h): the same in
/// CPython 3.9 to 3.15.
const AS_BUFFER: usize = 160;
const GET_BUFFER: usize = 0;

/// The function of an object's type that exports buffers. Read through the kernel: of what is no object it is some word,
/// or none.
pub fn exporter(object: usize) -> Option<usize> {
    let memory = Memory::open().ok()?;
    let kind = memory.try_word(object.checked_add(TYPE)?)?;
    let procs = memory.try_word(kind.checked_add(AS_BUFFER)?)?;
    let function = memory.try_word(procs.checked_add(GET_BUFFER)?)?;
    (function != 0).then_some(function)
}

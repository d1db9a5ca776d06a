//! Memory that belongs to an object file or to a thread: what it holds, and what to call it.

use std::ffi::{CStr, c_int, c_void};

use leaktight_elf::loaded_objects;
use leaktight_memory::Memory;

use crate::subject::Subject;

const WORD: usize = 8;

/// What the address is part of, worded to follow "held by": the static data of a module, with the variable if its name
/// is exported, or a thread's own data. The runtime's own data names nobody.
pub(crate) fn holder<S: Subject>(address: usize, subject: &S) -> Option<String> {
    if let Some(path) = thread_local(address) {
        return Some(format!(
            "a thread's own data, a thread-local variable of {}",
            file_name(&path)
        ));
    }
    if is_in_thread_descriptor(address) {
        return Some("a thread's own data (pthread_setspecific)".to_owned());
    }
    let mut module = None;
    loaded_objects(|object| {
        if module.is_none() && object.writable().any(|(start, len)| address.wrapping_sub(start) < len) {
            let path = object.name().to_string_lossy().into_owned();
            module = Some((path, address - object.base));
        }
    });
    let (path, offset) = module?;
    if subject.is_runtime(&executable_or(&path)) {
        return None;
    }
    let name = file_name(&path);
    Some(match variable_at(address) {
        Some(variable) => format!("static data of {name} (`{variable}`)"),
        None => format!("static data of {name} (+{offset:#x})"),
    })
}

/// A word of some module's static data that holds the address. The runtime's own caches do not count, nor does what we
/// know ourselves.
pub(crate) fn find<S: Subject>(address: usize, subject: &S) -> Option<usize> {
    let memory = Memory::open().ok()?;
    let mut buffer = Vec::new();
    of_program(subject).into_iter().find_map(|(start, end)| {
        let first = start.next_multiple_of(WORD);
        buffer.resize(end.saturating_sub(first), 0);
        memory.read(first, &mut buffer);
        let mut words = buffer.chunks_exact(WORD);
        let at = words.position(|word| word == address.to_ne_bytes())?;
        Some(first + at * WORD)
    })
}

/// Start and end of the static data of all modules but the runtime's and our own, by rising address.
pub(crate) fn of_program<S: Subject>(subject: &S) -> Vec<(usize, usize)> {
    let here = of_program::<S> as *const () as usize;
    let mut runs = Vec::new();
    loaded_objects(|object| {
        let path = object.name().to_string_lossy().into_owned();
        let is_ours = object.contains(here) && subject.is_python();
        if !is_ours && !subject.is_runtime(&executable_or(&path)) {
            runs.extend(object.writable().map(|(start, len)| (start, start + len)));
        }
    });
    runs.sort_unstable();
    runs
}

/// Whether what lies there was made by the compiler: nobody has allocated it, and nobody frees it.
pub(crate) fn is_made_by_compiler(address: usize) -> bool {
    let mut is_made = false;
    loaded_objects(|object| is_made |= object.initialises(address));
    is_made
}

fn file_name(path: &str) -> &str {
    match path.rsplit('/').next() {
        Some(name) if !name.is_empty() => name,
        _ => "the program",
    }
}

/// The loader has no name for the main program.
fn executable_or(path: &str) -> String {
    let program = || {
        std::env::current_exe()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    if path.is_empty() { program() } else { path.to_owned() }
}

fn variable_at(address: usize) -> Option<String> {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: dladdr takes any address and fills `info` when it returns non-zero; its strings live as
    // long as the module, which is loaded.
    unsafe {
        if libc::dladdr(address as *const _, info.as_mut_ptr()) == 0 {
            return None;
        }
        let name = info.assume_init().dli_sname;
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    }
}

/// The module whose thread-local variables of this thread the address is one of.
fn thread_local(address: usize) -> Option<String> {
    struct Search {
        address: usize,
        found: Option<String>,
    }

    unsafe extern "C" fn each(info: *mut libc::dl_phdr_info, size: usize, search: *mut c_void) -> c_int {
        // SAFETY: dl_iterate_phdr(3) hands over a filled structure of this size, and our own search.
        let (info, search) = unsafe { (&*info, &mut *search.cast::<Search>()) };
        // The last field, which older C libraries do not have.
        if size < size_of::<libc::dl_phdr_info>() || info.dlpi_tls_data.is_null() {
            return 0;
        }
        // SAFETY: the table of the module's segments, mapped as long as it is loaded.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
        let start = info.dlpi_tls_data as usize;
        let mut segments = headers.iter().filter(|header| header.p_type == libc::PT_TLS);
        if segments.any(|segment| search.address.wrapping_sub(start) < segment.p_memsz as usize) {
            // SAFETY: the loader's string.
            search.found = Some(unsafe { CStr::from_ptr(info.dlpi_name) }.to_string_lossy().into_owned());
            return 1;
        }
        0
    }

    let mut search = Search { address, found: None };
    // SAFETY: `each` has the signature that is asked for, and `search` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(each), (&raw mut search).cast()) };
    search.found
}

/// Whether the address lies in what the C library keeps of this thread, where the first 32 values of
/// `pthread_setspecific` are (`struct pthread`, nptl/descr.h).
fn is_in_thread_descriptor(address: usize) -> bool {
    const DESCRIPTOR_BYTES: usize = 0x900;
    // SAFETY: asks for the handle of this thread, with glibc the address of its descriptor.
    let descriptor = unsafe { libc::pthread_self() } as usize;
    address.wrapping_sub(descriptor) < DESCRIPTOR_BYTES
}

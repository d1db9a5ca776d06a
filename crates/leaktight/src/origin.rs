//! From captured stacks to the frames that a person is shown.

use std::cell::Cell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use leaktight_elf::objects_generation;
use leaktight_hooks as hooks;
use leaktight_report::Frame;
use leaktight_stacks::{CapturedStack, Location, Symbols};

use crate::subject::Subject;

/// Where an allocation happened, without the machinery around it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    /// The function of a library or runtime that the innermost frame called.
    pub via: Option<String>,
    pub frames: Vec<Frame>,
    /// So many frames are inside the initialisation of a module, and what that is called.
    pub module_at: Option<usize>,
    pub module: Option<String>,
}

impl Origin {
    /// Leaves only the frames from the one that initialises the module outwards, without its line.
    pub(crate) fn narrow_to_module(&mut self) {
        let at = self.module_at.unwrap_or(0).min(self.frames.len());
        let initialiser = self.frames.drain(..at).next_back();
        (self.module_at, self.via) = (Some(0), None);
        if let Some(frame) = initialiser.filter(|frame| !frame.python || is_module(frame)) {
            let (line, source) = (None, None);
            self.frames.insert(0, Frame { line, source, ..frame });
            self.module_at = Some(1);
        }
    }

    /// All frames so far are inside the initialisation of a module. One that another imports is part of that.
    fn initialises(&mut self, module: Option<String>) {
        self.module_at = Some(self.frames.len());
        self.module = module.or(self.module.take());
    }
}

/// Turns stacks into frames; reads object files and source files once.
pub(crate) struct Origins {
    symbols: Symbols,
    sources: HashMap<PathBuf, Vec<String>>,
    here: Option<PathBuf>,
    own_object: Option<String>,
}

thread_local! {
    /// What was read of object files, as long as the same ones are loaded.
    static KEPT: Cell<Option<((u64, u64), Symbols)>> = const { Cell::new(None) };
}
static KEEPS: AtomicBool = AtomicBool::new(false);

/// Whether what is read of object files is kept for the next check on the same thread.
pub(crate) fn keep_symbols(keep: bool) {
    KEEPS.store(keep, Ordering::Relaxed);
    KEPT.set(None);
}

impl Drop for Origins {
    fn drop(&mut self) {
        if KEEPS.load(Ordering::Relaxed) {
            KEPT.set(Some((objects_generation(), std::mem::take(&mut self.symbols))));
        }
    }
}

impl Origins {
    pub(crate) fn new() -> Origins {
        let kept = KEPT.take().filter(|(loaded, _)| *loaded == objects_generation());
        let mut symbols = kept.map_or_else(Symbols::new, |(_, symbols)| symbols);
        let own = symbols.resolve(&[Origins::new as *const () as u64], |_| true).ok();
        Origins {
            own_object: own.and_then(|found| found.first()?.first()?.module.clone()),
            symbols,
            sources: HashMap::new(),
            // Below the root everything lies.
            here: std::env::current_dir().ok().filter(|here| here.parent().is_some()),
        }
    }

    /// The frames of a stack: native ones outside of libc, the language runtimes and the tracker, then
    /// the runtime's own frames.
    pub(crate) fn of<S: Subject>(&mut self, stack: &CapturedStack, subject: &mut S) -> Origin {
        let own = self.own_object.as_deref().filter(|_| subject.is_python());
        let exported_only = |module: &str| is_library(module) || subject.is_runtime(module) || own == Some(module);
        let resolved = self.symbols.resolve(&stack.native, exported_only).unwrap_or_default();
        let mut origin = Origin::default();
        for location in resolved.iter().flat_map(|locations| locations.iter()) {
            match self.role(location, origin.frames.is_empty(), subject) {
                Role::Shown => {
                    let frame = self.frame(location);
                    // Cython's wrapper of a function has the function's name.
                    if origin
                        .frames
                        .last()
                        .is_none_or(|last| last.function != frame.function || last.line == frame.line)
                    {
                        let module = frame.function.as_deref().and_then(|name| name.strip_prefix("PyInit_"));
                        let module = module.map(str::to_owned);
                        origin.frames.push(frame);
                        if module.is_some() {
                            origin.initialises(module);
                        }
                    }
                }
                Role::Library if origin.frames.is_empty() => {
                    if let Some(name) = location.function.as_deref().filter(|name| is_telling(name)) {
                        origin.via = Some(without_version(name).to_owned());
                    }
                }
                // CPython calls the function that fills a module through one of these (Objects/moduleobject.c).
                Role::Library if is_module_machinery(location.function.as_deref()) => {
                    let file = origin.frames.last().and_then(|last| last.module.as_deref());
                    let name = file.and_then(|file| file.rsplit('/').next()?.split('.').next());
                    let name = name.map(str::to_owned);
                    origin.initialises(name);
                }
                // Below the tracker's own frames lies its loop, not the program.
                Role::Tracker if !origin.frames.is_empty() => break,
                Role::Library | Role::Tracker | Role::Hook => {}
            }
        }
        for frame in &stack.python {
            if hooks::was_freed(frame.code) {
                continue;
            }
            if let Some(mut frame) = subject.frame(frame) {
                if subject.is_tracker(frame.file.as_deref().unwrap_or("")) {
                    break;
                }
                frame.source = frame
                    .source
                    .or_else(|| self.source(frame.file.as_deref()?, frame.line?));
                frame.file = frame.file.map(|file| self.shorten(&file));
                if is_import_machinery(&frame) {
                    let module = origin.frames.last().filter(|last| is_module(last));
                    let file = module.and_then(|module| module.file.clone());
                    origin.initialises(file);
                }
                origin.frames.push(frame);
            }
        }
        origin
    }

    /// File and line of the innermost function at an address that is shown.
    pub(crate) fn line<S: Subject>(&mut self, address: u64, subject: &S) -> Option<(String, u32)> {
        let resolved = self
            .symbols
            .resolve(&[address], |module| subject.is_runtime(module))
            .ok()?;
        let is_shown = |location: &&Location| matches!(self.role(location, true, subject), Role::Shown);
        let location = resolved.first()?.iter().find(is_shown)?;
        Some((location.file.clone()?, location.line?))
    }

    /// Whether a function of CPython's headers, which a library has of its own, is all that there is at an address: the
    /// compiler has not inlined it.
    pub(crate) fn is_of_headers<S: Subject>(&mut self, address: u64, subject: &S) -> bool {
        let resolved = self.symbols.resolve(&[address], |module| subject.is_runtime(module));
        let locations = resolved
            .ok()
            .and_then(|resolved| resolved.into_iter().next())
            .unwrap_or_default();
        let is_of_headers = |location: &Location| {
            let function = location.function.as_deref().unwrap_or_default();
            ["Py_", "_Py_"].iter().any(|start| function.starts_with(start))
        };
        !locations.is_empty() && locations.iter().all(is_of_headers)
    }

    /// The function that begins at an address, unless it is the runtime's.
    pub(crate) fn function<S: Subject>(&mut self, address: u64, subject: &S) -> Option<Frame> {
        let resolved = self
            .symbols
            .resolve(&[address], |module| subject.is_runtime(module))
            .ok()?;
        let location = resolved.first()?.last()?;
        let is_shown = matches!(self.role(location, true, subject), Role::Shown);
        is_shown.then(|| self.frame(location))
    }

    /// The name that the runtime exports for the function at an address.
    pub(crate) fn exported(&mut self, address: u64) -> Option<String> {
        let resolved = self.symbols.resolve(&[address], |_| true).ok()?;
        resolved.first()?.first()?.function.clone()
    }

    fn role<S: Subject>(&self, location: &Location, is_innermost: bool, subject: &S) -> Role {
        let function = location.function.as_deref().unwrap_or("");
        let module = location.module.as_deref().unwrap_or("");
        if function.starts_with("leaktight_hooks::") {
            return Role::Hook;
        }
        if is_tracker(function, location.file.as_deref()) || (subject.is_python() && location.module == self.own_object)
        {
            return Role::Tracker;
        }
        let file = location.file.as_deref().unwrap_or("");
        let library = is_library(module)
            || subject.is_runtime(module)
            || is_standard_source(file)
            || is_glue(function, file)
            || is_caller(module) && !is_innermost;
        if library || is_standard_name(function, file) {
            Role::Library
        } else {
            Role::Shown
        }
    }

    fn frame(&mut self, location: &Location) -> Frame {
        let source = location
            .file
            .as_deref()
            .zip(location.line)
            .and_then(|(file, line)| self.source(file, line));
        Frame {
            function: location.function.as_deref().map(readable),
            file: location.file.as_deref().map(|file| self.shorten(file)),
            line: location.line,
            module: location.module.as_deref().map(|module| self.shorten(module)),
            offset: location.function.is_none().then_some(location.offset).flatten(),
            source,
            python: false,
            inlined: location.inlined,
        }
    }

    /// The text of a source line, if the file is there.
    fn source(&mut self, file: &str, line: u32) -> Option<String> {
        let lines = self.sources.entry(PathBuf::from(file)).or_insert_with(|| {
            let text = std::fs::read(file).unwrap_or_default();
            String::from_utf8_lossy(&text)
                .lines()
                .map(|line| line.trim().to_owned())
                .collect()
        });
        lines
            .get(line.checked_sub(1)? as usize)
            .filter(|text| !text.is_empty())
            .cloned()
    }

    fn shorten(&self, file: &str) -> String {
        let below = self
            .here
            .as_deref()
            .and_then(|here| Path::new(file).strip_prefix(here).ok());
        below.map_or_else(|| file.to_owned(), |short| short.to_string_lossy().into_owned())
    }
}

enum Role {
    Shown,
    Library,
    Tracker,
    /// Between the program and the function that it called.
    Hook,
}

/// Frames between the program's closure and the tracker's loop. Inlined functions have no namespace
/// in sparse debug information, so the source file tells as well.
fn is_tracker(function: &str, file: Option<&str>) -> bool {
    function.trim_start_matches(['<', '&']).starts_with("leaktight::")
        || file.is_some_and(|file| {
            [crate::check::FILE, crate::run::FILE]
                .iter()
                .any(|own| file.ends_with(own))
        })
}

/// Object files of the C and C++ runtimes: what they allocate, somebody asked them to.
pub(crate) fn is_library(module: &str) -> bool {
    let name = module.rsplit('/').next().unwrap_or(module);
    [
        "libc.so",
        "libc-",
        "libasan",
        "ld-linux",
        "ld-musl",
        "libpthread",
        "libm.so",
        "libdl.so",
        "libstdc++",
        "libc++",
        "libgcc_s",
        "libffi.so",
        "linux-vdso",
    ]
    .iter()
    .any(|library| name.starts_with(library))
}

/// Headers of the C++ library, sources of Rust's.
fn is_standard_source(file: &str) -> bool {
    file.starts_with("/rustc/")
        || file.contains("/rustlib/src/rust/library/")
        || file.contains("/include/c++/")
        || file.contains("/include/x86_64-linux-gnu/bits/")
        || file.contains("/include/bits/")
}

/// What binding generators put between C and Python: PyO3, pybind11, nanobind, Cython's helpers.
fn is_glue(function: &str, file: &str) -> bool {
    let name = function.trim_start_matches(['<', '&']);
    is_python_header(file)
        || file.contains("/pyo3-")
        || file.contains("/pybind11/")
        || file.contains("/nanobind/")
        || [
            "pyo3::",
            "pyo3_ffi::",
            "pybind11::",
            "nanobind::",
            "__Pyx_",
            "__pyx_tp_",
        ]
        .iter()
        .any(|glue| name.starts_with(glue))
}

/// What `Py_INCREF` and the like are inlined from.
fn is_python_header(file: &str) -> bool {
    file.contains("/include/python3.")
}

/// ctypes and cffi, which stand between Python and what they call. What they allocate themselves is theirs.
fn is_caller(module: &str) -> bool {
    let name = module.rsplit('/').next().unwrap_or(module);
    name.starts_with("_ctypes.") || name.starts_with("_cffi_backend.")
}

/// The same without debug information: by namespace. What a trait does for a primitive type
/// (`<&str as …>`) is the library's too.
fn is_standard_name(function: &str, file: &str) -> bool {
    const NAMESPACES: [&str; 8] = [
        "std::",
        "core::",
        "alloc::",
        "__gnu_cxx::",
        "operator new",
        "__rust_",
        "__rdl_",
        "__rustc",
    ];
    let name = function.trim_start_matches(['<', '&']);
    let of_primitive = || {
        function
            .strip_prefix('<')
            .and_then(|rest| rest.split_once(" as "))
            .is_some_and(|(of, _)| !of.contains("::"))
    };
    file.is_empty() && (NAMESPACES.iter().any(|standard| name.starts_with(standard)) || of_primitive())
}

fn is_module(frame: &Frame) -> bool {
    frame.python && frame.function.as_deref() == Some("<module>")
}

/// The frame from which an import runs the code of a module, or the function that fills it (Lib/importlib/_bootstrap.py).
/// The code itself may be gone, and with it the name of its frame.
fn is_import_machinery(frame: &Frame) -> bool {
    let is_importlib = frame
        .file
        .as_deref()
        .is_some_and(|file| file.starts_with("<frozen importlib"));
    is_importlib && frame.function.as_deref() == Some("_call_with_frames_removed")
}

fn is_module_machinery(function: Option<&str>) -> bool {
    matches!(function, Some("PyModule_ExecDef" | "PyModule_FromDefAndSpec2"))
}

/// The evaluation loop and call machinery of the interpreter, and of libffi, name no function that somebody called.
fn is_telling(function: &str) -> bool {
    let machinery = [
        "_Py_NewReference",
        "_PyEval",
        "PyEval",
        "PyObject_Call",
        "PyObject_Vectorcall",
        "_PyObject_Vectorcall",
        "_PyObject_MakeTpCall",
        "cfunction_",
        "_PyFunction_Vectorcall",
        "ffi_",
        "start_thread",
    ];
    !machinery.iter().any(|name| function.starts_with(name))
}

/// `strdup@@GLIBC_2.2.5`, `__strdup`.
fn without_version(function: &str) -> &str {
    let name = function.split('@').next().unwrap_or(function);
    let bare = name.trim_start_matches("__GI_").trim_start_matches("__libc_");
    if bare.starts_with("__") && !bare.contains("::") {
        &bare[2..]
    } else {
        bare
    }
}

/// Cython's names as they stand in the source: `__pyx_pf_3zoo_5Table_2grow` is `zoo.Table.grow`. Parts
/// are prefixed by their length; the last may carry a counter. Other names stay as they are.
fn readable(function: &str) -> String {
    let prefixes = ["__pyx_pf_", "__pyx_pw_", "__pyx_f_"];
    let Some(mut rest) = prefixes.iter().find_map(|prefix| function.strip_prefix(prefix)) else {
        return function.to_owned();
    };
    let mut parts = Vec::new();
    loop {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let length: usize = rest[..digits].parse().unwrap_or(0);
        match rest[digits..].split_at_checked(length) {
            Some((part, behind)) if length > 0 && part != "_" && behind.starts_with('_') => {
                parts.push(part);
                rest = &behind[1..];
            }
            _ if parts.is_empty() => return function.to_owned(),
            _ => {
                parts.push(&rest[digits..]);
                return parts.join(".");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cython_names_are_read_back_and_others_left_alone() {
        for (linked, source) in [
            ("__pyx_pf_6zoo_cy_leak_malloc", "zoo_cy.leak_malloc"),
            ("__pyx_pf_6zoo_cy_2leak_incref", "zoo_cy.leak_incref"),
            ("__pyx_pw_6zoo_cy_5Table_1__cinit__", "zoo_cy.Table.__cinit__"),
            ("__pyx_pf_6zoo_cy_5Table___cinit__", "zoo_cy.Table.__cinit__"),
            ("__pyx_f_6zoo_cy_copy_row", "zoo_cy.copy_row"),
            ("__pyx_pf_", "__pyx_pf_"),
            ("__pyx_pf_99999999999999999999_x", "__pyx_pf_99999999999999999999_x"),
            ("copy_field", "copy_field"),
        ] {
            assert_eq!(readable(linked), source);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_name_is_read(name in "__pyx_(pf|pw|f)_.*|.*") {
            let _ = readable(&name);
        }
    }
}

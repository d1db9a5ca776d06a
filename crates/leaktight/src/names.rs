//! The places of writes to a reference count by name, for the verdict and for people.

use std::collections::HashMap;

use leaktight_report::Frame;
use leaktight_stacks as stacks;
use leaktight_verdict::writes::{Frame as Place, Owner};

use crate::origin::{Origins, is_library};
use crate::places::capture;
use crate::subject::Subject;

/// Frames by the number of their stack, for the verdict and for people.
#[derive(Default)]
pub(crate) struct Names {
    of_stacks: HashMap<u32, Vec<Place>>,
    of_addresses: HashMap<u64, Place>,
    of_headers: HashMap<u64, bool>,
    /// By the path of the object file.
    owners: HashMap<String, Owner>,
    /// By file and line.
    lines: HashMap<(String, u32), u32>,
    /// By the number of a stack and the function that may export.
    exports: HashMap<(u32, Option<usize>), usize>,
    origins: Option<Origins>,
}

impl Names {
    pub(crate) fn frames<S: Subject>(&mut self, stack: u32, subject: &S) -> Vec<Place> {
        if let Some(known) = self.of_stacks.get(&stack) {
            return known.clone();
        }
        let native = stacks::stack(stack).unwrap_or_default().native;
        let frames: Vec<Place> = native.iter().map(|address| self.frame(*address, subject)).collect();
        // What a library has of CPython's headers, such as Py_INCREF, is the work of the function that called it.
        let mut is_helper =
            |frame: &Place| frame.owner != Owner::Interpreter && self.is_of_headers(frame.address, subject);
        let frames: Vec<Place> = frames.into_iter().filter(|frame| !is_helper(frame)).collect();
        self.of_stacks.insert(stack, frames.clone());
        frames
    }

    fn is_of_headers<S: Subject>(&mut self, address: u64, subject: &S) -> bool {
        if let Some(known) = self.of_headers.get(&address) {
            return *known;
        }
        let is_of_headers = self.origins().is_of_headers(address, subject);
        self.of_headers.insert(address, is_of_headers);
        is_of_headers
    }

    fn frame<S: Subject>(&mut self, address: u64, subject: &S) -> Place {
        if let Some(known) = self.of_addresses.get(&address) {
            return *known;
        }
        let object = stacks::object_at(address).unwrap_or_default();
        let (own, libraries) = (stacks::object_at(capture as *const () as u64), self.owners.len() as u32);
        let owner = *self.owners.entry(object).or_insert_with_key(|object| {
            // What the tracker does between the calls cancels like what the interpreter does.
            let is_interpreter = subject.is_runtime(object) || is_library(object) || own.as_ref() == Some(object);
            if is_interpreter {
                Owner::Interpreter
            } else {
                Owner::Library(libraries)
            }
        });
        let (line, frees) = match owner {
            Owner::Interpreter => (0, self.frees(address)),
            Owner::Library(_) => (self.line(address, subject), false),
        };
        let frame = Place {
            function: stacks::function_at(address).unwrap_or(address),
            address,
            owner,
            line,
            frees,
        };
        self.of_addresses.insert(address, frame);
        frame
    }

    /// Whether the interpreter frees an object there. (Most of its destructors are not exported, but all are called by one
    /// that is.)
    fn frees(&mut self, address: u64) -> bool {
        let name = self.origins().exported(address).unwrap_or_default();
        name == "_Py_Dealloc" || name.ends_with("_dealloc")
    }

    pub(crate) fn origins(&mut self) -> &mut Origins {
        self.origins.get_or_insert_with(Origins::new)
    }

    /// Whether a library had the interpreter make an instance, which holds its type.
    pub(crate) fn makes_instance(&mut self, stack: &[Place]) -> bool {
        const MAKERS: [&str; 8] = [
            "PyType_GenericAlloc",
            "PyType_GenericNew",
            "PyObject_Init",
            "PyObject_InitVar",
            "_PyObject_New",
            "_PyObject_NewVar",
            "_PyObject_GC_New",
            "_PyObject_GC_NewVar",
        ];
        let mut inner = stack.iter().take_while(|frame| frame.owner == Owner::Interpreter);
        inner.any(|frame| {
            let name = self.origins().exported(frame.address);
            name.is_some_and(|name| MAKERS.contains(&name.as_str()))
        })
    }

    /// The line that a person is shown for an address, by a number.
    fn line<S: Subject>(&mut self, address: u64, subject: &S) -> u32 {
        let place = self.origins().line(address, subject);
        let next = self.lines.len() as u32 + 1;
        place.map_or(0, |place| *self.lines.entry(place).or_insert(next))
    }

    /// What the interpreter did, and for which line.
    pub(crate) fn whereabouts<S: Subject>(&mut self, stack: u32, subject: &mut S) -> String {
        let stack = stacks::stack(stack).unwrap_or_default();
        let origin = self.origins().of(&stack, subject);
        let line = origin.frames.first().and_then(|frame| {
            let (file, line) = (frame.file.as_deref()?, frame.line?);
            Some(format!(" for {file}:{line}"))
        });
        match (origin.via, line) {
            (Some(via), line) => format!(" (`{via}`{})", line.unwrap_or_default()),
            (None, Some(line)) => format!(" (what it does{line})"),
            (None, None) => String::new(),
        }
    }

    /// How many frames, the innermost, are those of an export of a buffer that takes a reference: the export holds it.
    /// `exporter`: the function of the object's type for that. (`PyObject_GetBuffer` jumps there, so it may have no frame.)
    /// What memoryviews hold is theirs.
    pub(crate) fn exports_buffer(&mut self, number: u32, stack: &[Place], exporter: Option<usize>) -> usize {
        if let Some(known) = self.exports.get(&(number, exporter)) {
            return *known;
        }
        let inner = self.find_export(stack, exporter).unwrap_or(0);
        self.exports.insert((number, exporter), inner);
        inner
    }

    fn find_export(&mut self, stack: &[Place], exporter: Option<usize>) -> Option<usize> {
        const EXPORTS: [&str; 2] = ["PyObject_GetBuffer", "PyBuffer_FillInfo"];
        let is_export = |names: &mut Names, frame: &Place| {
            let is_exporter = exporter.is_some_and(|function| function as u64 == frame.function);
            is_exporter || EXPORTS.iter().any(|name| names.is_named(frame, name))
        };
        let first = stack.iter().position(|frame| is_export(self, frame))?;
        let more = stack[first + 1..].iter();
        let at = first + more.take_while(|frame| is_export(self, frame)).count();
        // What a buffer's own code calls, Python code above all, takes references for itself.
        if stack[..first].iter().any(|frame| self.is_named(frame, "_PyEval_Eval")) {
            return None;
        }
        let callers = stack[at + 1..].iter();
        let mut callers = callers.take_while(|frame| frame.owner == Owner::Interpreter);
        let is_view = callers.any(|frame| self.is_named(frame, "PyMemoryView_"));
        (!is_view).then_some(at + 1)
    }

    fn is_named(&mut self, frame: &Place, start: &str) -> bool {
        let name = self.origins().exported(frame.address);
        name.is_some_and(|name| name.starts_with(start))
    }

    /// The frames that a person is shown of a stack, without so many at its innermost end.
    pub(crate) fn words<S: Subject>(&mut self, stack: u32, without: usize, subject: &mut S) -> Vec<Frame> {
        let mut stack = stacks::stack(stack).unwrap_or_default();
        stack.native.drain(..without.min(stack.native.len()));
        self.origins().of(&stack, subject).frames
    }
}

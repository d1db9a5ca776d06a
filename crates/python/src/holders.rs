//! What in the interpreter holds a block that is not lost.

use leaktight::Block;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple, PyType};

use crate::types::KnownTypes;

/// What holds `block`, worded to follow "held by". For an object: who refers to it; for anything else
/// the object that the word at `address` lies in.
pub(crate) fn holder(py: Python<'_>, types: Option<&KnownTypes>, block: &Block, address: usize) -> Option<String> {
    let gc = py.import("gc").ok()?;
    if let Some(object) = types.and_then(|types| types.object(py, block)) {
        // SAFETY: a live object, see `KnownTypes::object`.
        let object = unsafe { Bound::from_borrowed_ptr(py, object.address as *mut ffi::PyObject) };
        let referrers = gc
            .call_method1("get_referrers", (&object,))
            .ok()?
            .cast_into::<PyList>()
            .ok()?;
        // The tuple that carries the question is no answer.
        let is_question = |referrer: &Bound<'_, PyAny>| {
            referrer
                .cast_exact::<PyTuple>()
                .is_ok_and(|tuple| tuple.len() == 1 && tuple.iter().all(|item| item.is(&object)))
        };
        let mut answers = referrers.iter().filter(|referrer| !is_question(referrer));
        if let Some(name) = answers.find_map(|referrer| describe(py, &referrer)) {
            return Some(name);
        }
    }
    let objects = gc.call_method0("get_objects").ok()?.cast_into::<PyList>().ok()?;
    objects
        .iter()
        .find(|object| covers(object, address))
        .and_then(|object| describe(py, &object))
}

/// Whether the word lies in the object itself.
fn covers(object: &Bound<'_, PyAny>, address: usize) -> bool {
    let start = object.as_ptr() as usize;
    let class = object.get_type();
    let size = class
        .getattr("__basicsize__")
        .and_then(|size| size.extract::<usize>())
        .unwrap_or(0);
    address.wrapping_sub(start) < size
}

/// A short name without running foreign code: type and size for containers of the language, and of
/// which module or class a namespace it is.
fn describe(py: Python<'_>, object: &Bound<'_, PyAny>) -> Option<String> {
    if let Ok(list) = object.cast_exact::<PyList>() {
        let owner = owner_of(py, object).map(|name| format!(", {name}")).unwrap_or_default();
        return Some(format!("a list of {} items{owner}", list.len()));
    }
    if let Ok(dict) = object.cast_exact::<PyDict>() {
        if let Ok(Some(name)) = dict.get_item("__name__") {
            return name
                .extract::<String>()
                .ok()
                .map(|name| format!("the namespace of `{name}`"));
        }
        let owner = owner_of(py, object).map(|name| format!(", {name}")).unwrap_or_default();
        return Some(format!("a dict of {} items{owner}", dict.len()));
    }
    let class = object.get_type();
    let name = class.qualname().ok()?.to_string();
    // Frames and lists that exist because we look.
    if name == "frame" || object.is_instance_of::<PyType>() && name == "type" {
        return None;
    }
    Some(format!("a `{name}` object"))
}

/// The module-level name of a container: "`cache` of module `zoo`".
fn owner_of(py: Python<'_>, object: &Bound<'_, PyAny>) -> Option<String> {
    let modules = py
        .import("sys")
        .ok()?
        .getattr("modules")
        .ok()?
        .cast_into::<PyDict>()
        .ok()?;
    modules.iter().find_map(|(module, value)| {
        let namespace = value.getattr("__dict__").ok()?.cast_into::<PyDict>().ok()?;
        let (name, _) = namespace.iter().find(|(_, candidate)| candidate.is(object))?;
        Some(format!(
            "`{}` of module `{}`",
            name.extract::<String>().ok()?,
            module.extract::<String>().ok()?
        ))
    })
}

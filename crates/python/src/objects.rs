//! The objects whose references are counted: those that the call uses, two of our own, and their names.

use leaktight::Description;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple, PyType};

use crate::subject::Callee;

/// Two objects of which more references are taken than anybody else does.
pub(crate) struct Probes {
    /// References to it are taken and held by nobody.
    leaked: Py<PyAny>,
    /// References to it are held by the list.
    kept: Py<PyAny>,
    keeper: Py<PyList>,
    taken: usize,
}

impl Probes {
    pub(crate) fn new(py: Python<'_>) -> PyResult<Probes> {
        let object = py.get_type::<PyAny>();
        Ok(Probes {
            leaked: object.call0()?.unbind(),
            kept: object.call0()?.unbind(),
            keeper: PyList::empty(py).unbind(),
            taken: 0,
        })
    }

    pub(crate) fn objects(&self) -> [usize; 3] {
        [
            self.leaked.as_ptr() as usize,
            self.kept.as_ptr() as usize,
            self.keeper.as_ptr() as usize,
        ]
    }

    /// Takes so many references to each, and returns them.
    pub(crate) fn take(&mut self, py: Python<'_>, count: u32) -> PyResult<[usize; 2]> {
        for _ in 0..count {
            self.keeper.bind(py).append(&self.kept)?;
            // SAFETY: a live object, and the GIL is held. `give_back` releases it again.
            unsafe { ffi::Py_INCREF(self.leaked.as_ptr()) };
            self.taken += 1;
        }
        let [leaked, kept, _] = self.objects();
        Ok([leaked, kept])
    }

    pub(crate) fn give_back(&mut self, py: Python<'_>) {
        for _ in 0..std::mem::take(&mut self.taken) {
            // SAFETY: one of those that `take` took; our own reference is left.
            unsafe { ffi::Py_DECREF(self.leaked.as_ptr()) };
        }
        let keeper = self.keeper.bind(py);
        // An empty list frees its memory; this cannot fail.
        let _ = keeper.del_slice(0, keeper.len());
    }
}

/// A tuple of arguments, those of them that are given on by a `functools.partial`, and all in it: nothing of this changes.
pub(crate) fn parts_of_call(object: &Bound<'_, PyAny>, partial: &Bound<'_, PyAny>, parts: &mut Vec<usize>) {
    /// Tuples and calls within each other; longer chains are cut.
    const MOST: usize = 1000;
    parts.push(object.as_ptr() as usize);
    if parts.len() > MOST {
        return;
    }
    if let Ok(tuple) = object.cast_exact::<PyTuple>() {
        tuple
            .iter_borrowed()
            .for_each(|item| parts_of_call(&item, partial, parts));
    } else if object.get_type().is(partial)
        && let (Ok(function), Ok(arguments)) = (object.getattr("func"), object.getattr("args"))
    {
        parts_of_call(&function, partial, parts);
        parts_of_call(&arguments, partial, parts);
    }
}

/// What the call is given: a function and its arguments, or a statement and its variables.
pub(crate) struct Given<'py> {
    pub function: Option<Bound<'py, PyAny>>,
    pub arguments: Bound<'py, PyTuple>,
    pub names: Bound<'py, PyDict>,
    pub statement: String,
}

impl<'py> Given<'py> {
    pub(crate) fn of(callee: &Callee, py: Python<'py>) -> Given<'py> {
        match callee {
            Callee::Function(function, arguments) => Given {
                function: Some(function.bind(py).clone()),
                arguments: arguments.bind(py).clone(),
                names: PyDict::new(py),
                statement: String::new(),
            },
            Callee::Code(_, names, statement) => Given {
                function: None,
                arguments: PyTuple::empty(py),
                names: names.bind(py).clone(),
                statement: statement.clone(),
            },
        }
    }
}

/// What a live object is.
pub(crate) fn describe(object: &Bound<'_, PyAny>, given: &Given<'_>) -> PyResult<Description> {
    let helper = object.py().import("leaktight._objects")?;
    let question = (
        object,
        &given.function,
        &given.arguments,
        &given.names,
        &given.statement,
    );
    let words = helper.call_method1("describe", question)?;
    let (name, type_name, is_permanent, is_constant) = words.extract()?;
    Ok(Description {
        type_name: Some(type_name),
        name,
        is_permanent,
        is_constant,
        is_type: object.is_instance_of::<PyType>(),
    })
}

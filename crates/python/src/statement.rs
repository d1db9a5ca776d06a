//! A line of Python to be judged, as `python -m timeit` takes it.

use pyo3::prelude::*;
use pyo3::types::{PyCode, PyDict, PyList, PyType};

use crate::subject::Callee;

/// Compiles the statement and runs the setup, in a namespace of their own.
pub(crate) fn prepare(py: Python<'_>, setup: &str, statement: &str) -> PyResult<Callee> {
    let compile = py.import("builtins")?.getattr("compile")?;
    let code = |text: &str, file: &str| -> PyResult<Bound<'_, PyCode>> {
        Ok(compile.call1((text, file, "exec"))?.cast_into::<PyCode>()?)
    };
    // Both first: a mistake in the statement should show before the setup takes its time.
    let setup = code(setup, "<setup>")?;
    let text = statement.to_owned();
    let statement = code(statement, "<statement>")?;
    let namespace = PyDict::new(py);
    namespace.set_item("__name__", "__main__")?;
    namespace.set_item("__builtins__", py.import("builtins")?)?;
    run(py, &setup, &namespace)?;
    Ok(Callee::Code(statement.unbind(), namespace.unbind(), text))
}

/// What is wrong with a statement that calls nothing.
pub(crate) fn complaint(py: Python<'_>, callee: &Callee) -> PyResult<Option<String>> {
    let Callee::Code(_, namespace, text) = callee else {
        return Ok(None);
    };
    let inert = py.import("leaktight._inert")?;
    inert.call_method1("of_statement", (text, namespace))?.extract()
}

/// The objects to which a statement refers by names that it does not replace.
pub(crate) fn used(py: Python<'_>, statement: &str, namespace: &Bound<'_, PyDict>) -> PyResult<Vec<usize>> {
    let inert = py.import("leaktight._inert")?;
    let used = inert
        .call_method1("used", (statement, namespace))?
        .cast_into::<PyList>()?;
    Ok(used.iter().map(|object| object.as_ptr() as usize).collect())
}

/// By which name of the namespace an exception's class, or the nearest one that it is derived from, can be asked for.
pub(crate) fn exception_name(py: Python<'_>, callee: &Callee, why: &PyErr) -> Option<String> {
    let classes = why.get_type(py).mro();
    classes.iter().find_map(|class| {
        let class = class.cast_into::<PyType>().ok()?;
        let (module, name) = (class.module().ok()?.to_string(), class.qualname().ok()?.to_string());
        let is_it = |name: &String| exception_class(py, callee, name).is_ok_and(|found| found.is(&class));
        [name.clone(), format!("{module}.{name}")].into_iter().find(is_it)
    })
}

/// The class that a name stands for in the namespace of the setup.
pub(crate) fn exception_class(py: Python<'_>, callee: &Callee, name: &str) -> PyResult<Py<PyAny>> {
    let namespace = match callee {
        Callee::Code(_, namespace, _) => namespace.bind(py).clone(),
        Callee::Function(..) => PyDict::new(py),
    };
    let eval = py.import("builtins")?.getattr("eval")?;
    Ok(eval.call1((name, namespace))?.unbind())
}

fn run(py: Python<'_>, code: &Bound<'_, PyCode>, namespace: &Bound<'_, PyDict>) -> PyResult<()> {
    let exec = py.import("builtins")?.getattr("exec")?;
    exec.call1((code, namespace)).map(drop)
}

//! `check` for Python, and the conversion of reports.

use std::time::Duration;

use leaktight::{Check, Checks, Error, Report, Style};
use pyo3::create_exception;
use pyo3::exceptions::{PyRuntimeError, PyTimeoutError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::subject::{Callee, PythonSubject};
use crate::watchdog::Watchdog;

create_exception!(
    leaktight,
    CheckError,
    PyRuntimeError,
    "A leak check could not be carried out. Nothing is said about leaks."
);

create_exception!(
    leaktight,
    CallTimeout,
    PyTimeoutError,
    "A call had not returned some time after the end of the time budget."
);

/// How deep to look; `None` = the default.
#[derive(Clone, Debug, Default)]
pub(crate) struct Depth {
    pub max_calls: Option<u32>,
    pub time_budget: Option<Duration>,
    pub period: Option<u32>,
    pub checks: Checks,
}

/// The default time budget.
pub(crate) const TIME_BUDGET: Duration = Duration::from_secs(20);

impl Depth {
    pub(crate) fn time(&self) -> Duration {
        self.time_budget.unwrap_or(TIME_BUDGET)
    }

    fn check(&self) -> Check {
        let mut check = Check::new().time_budget(self.time()).checks(self.checks);
        if let Some(period) = self.period {
            check = check.period(period);
        }
        match self.max_calls {
            Some(calls) => check.max_calls(calls),
            None => check,
        }
    }
}

/// Checks `function(*arguments)` and returns the report as JSON. `trim()` is called before memory is counted.
#[pyfunction]
#[pyo3(signature = (name, function, arguments, *, max_calls=None, time_budget=None, period=None, raises=None, checks=None, trim=None))]
#[expect(clippy::too_many_arguments, reason = "the keywords of the Python function")]
pub(crate) fn check(
    py: Python<'_>,
    name: String,
    function: Py<PyAny>,
    arguments: Py<PyTuple>,
    max_calls: Option<u32>,
    time_budget: Option<f64>,
    period: Option<u32>,
    raises: Option<Py<PyAny>>,
    checks: Option<Vec<String>>,
    trim: Option<Py<PyAny>>,
) -> PyResult<String> {
    let time_budget = time_budget.map(Duration::try_from_secs_f64).transpose();
    let depth = Depth {
        max_calls,
        time_budget: time_budget.map_err(|why| PyValueError::new_err(format!("time_budget: {why}")))?,
        period,
        checks: checks.map_or(Ok(Checks::ALL), |names| known(&names))?,
    };
    let watchdog = Watchdog::start(depth.time(), None);
    let callee = Callee::Function(function, arguments);
    let mut subject = PythonSubject::new(py, name, callee, raises, watchdog, None)?.trim_with(trim);
    match run(&depth, &mut subject) {
        Ok(report) => Ok(report.to_json()),
        Err(why) if why.is_instance_of::<CallTimeout>(py) => Err(PyTimeoutError::new_err(why.value(py).to_string())),
        Err(why) => Err(why),
    }
}

/// # Errors
///
/// Naming the first that is unknown.
pub(crate) fn known(names: &[String]) -> PyResult<Checks> {
    let checks = Checks::only(names.iter().map(String::as_str));
    checks.map_err(|name| {
        PyValueError::new_err(format!(
            "unknown check {name:?}; known are {}",
            Checks::NAMES.join(", ")
        ))
    })
}

/// Runs a check; the call's own exception comes back as it is.
pub(crate) fn run(depth: &Depth, subject: &mut PythonSubject<'_>) -> PyResult<Report> {
    match depth.check().run(subject) {
        Ok(report) => subject.trouble().map_or(Ok(report), Err),
        // Raised in the middle of the call, without a word.
        Err(Error::Call(why)) if why.is_instance_of::<CallTimeout>(subject.py()) => {
            let message = format!(
                "a call had not returned when the budget of {:.1} s was long over",
                depth.time().as_secs_f64()
            );
            Err(CallTimeout::new_err(message))
        }
        Err(Error::Call(why)) => Err(why),
        // The child of a call that forked: it has no business here, and running on would do everything
        // that follows the check a second time.
        // SAFETY: ends the process at once; nothing of the parent's is flushed or unwound.
        Err(Error::ForkedChild) => unsafe { libc::_exit(0) },
        Err(why) => Err(CheckError::new_err(why.to_string())),
    }
}

/// The text of a report that is given as JSON.
#[pyfunction]
#[pyo3(signature = (json, *, color=false, width=100))]
pub(crate) fn render(json: &str, color: bool, width: usize) -> PyResult<String> {
    let report = Report::from_json(json).map_err(|why| PyValueError::new_err(why.to_string()))?;
    Ok(report.text(Style { color, width }))
}

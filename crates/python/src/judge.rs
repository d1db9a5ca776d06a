//! `check` for Python, and the conversion of reports.

use std::time::Duration;

use leaktight::{Check, Checks, Error, Report, Style};
use pyo3::create_exception;
use pyo3::exceptions::{PyRuntimeError, PyTimeoutError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

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
    pub screen: Option<u32>,
    pub confirm: Option<u32>,
    pub warm_up: u32,
    pub holders: bool,
}

/// The default time budget.
pub(crate) const TIME_BUDGET: Duration = Duration::from_secs(20);

impl Depth {
    pub(crate) fn time(&self) -> Duration {
        self.time_budget.unwrap_or(TIME_BUDGET)
    }

    fn check(&self) -> Check {
        let mut check = Check::new()
            .time_budget(self.time())
            .checks(self.checks)
            .warm_up(self.warm_up)
            .holders(self.holders);
        if let Some(period) = self.period {
            check = check.period(period);
        }
        if let Some(calls) = self.screen {
            check = check.screen(calls);
        }
        if let Some(calls) = self.confirm {
            check = check.confirm(calls);
        }
        match self.max_calls {
            Some(calls) => check.max_calls(calls),
            None => check,
        }
    }
}

/// Checks `function(*arguments)` and returns the report as JSON. `trim()` is called before memory is counted.
/// `rounds` is for [`Check::screen`], and with `inside` only what runs by [`inside`] counts. References are counted to
/// `objects` only, where these are given.
#[pyfunction]
#[pyo3(signature = (name, function, arguments, *, max_calls=None, time_budget=None, period=None, raises=None, checks=None, trim=None, rounds=None, confirm=None, inside=false, warm_up=0, objects=None, holders=false))]
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
    rounds: Option<u32>,
    confirm: Option<u32>,
    inside: bool,
    warm_up: u32,
    objects: Option<Py<PyList>>,
    holders: bool,
) -> PyResult<String> {
    let time_budget = time_budget.map(Duration::try_from_secs_f64).transpose();
    let depth = Depth {
        max_calls,
        time_budget: time_budget.map_err(|why| PyValueError::new_err(format!("time_budget: {why}")))?,
        period,
        checks: checks.map_or(Ok(Checks::ALL), |names| known(&names))?,
        screen: rounds,
        confirm,
        warm_up,
        holders,
    };
    let watchdog = match inside {
        // What runs around the calls must not be torn out of its middle.
        true => Watchdog::none(),
        false => Watchdog::start(depth.time(), None),
    };
    let callee = Callee::Function(function, arguments);
    let mut subject = PythonSubject::new(py, name, callee, raises, watchdog, None)?
        .trim_with(trim)
        .watching_itself(inside)
        .counting_only(objects);
    match run(&depth, &mut subject) {
        Ok(report) => Ok(report.to_json()),
        Err(why) if why.is_instance_of::<CallTimeout>(py) => Err(PyTimeoutError::new_err(why.value(py).to_string())),
        Err(why) => Err(why),
    }
}

/// Calls `function()` so that what it allocates counts, within a call of a check with `inside`; elsewhere it is
/// just called.
#[pyfunction]
pub(crate) fn inside(py: Python<'_>, function: Py<PyAny>) -> PyResult<Py<PyAny>> {
    leaktight::watched(|| function.call0(py))
}

/// Leaves the hooks in place between checks, passing everything through, or takes them out again.
#[pyfunction]
pub(crate) fn keep_hooks(keep: bool) -> PyResult<()> {
    // SAFETY: the GIL is held.
    let kept = unsafe { leaktight::keep_hooks(keep) };
    kept.map_err(|why| CheckError::new_err(why.to_string()))
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

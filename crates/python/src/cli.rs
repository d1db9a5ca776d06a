//! The command line.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use leaktight::{Checks, Report, Severity, Style, Verdict};
use pyo3::exceptions::{PyBaseException, PyException, PyKeyboardInterrupt, PySystemExit, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyAnyMethods, PyType};

use crate::judge::{CallTimeout, CheckError, Depth, known, run};
use crate::stdout::{self, Diverted};
use crate::subject::{Callee, PythonSubject};
use crate::watchdog::Watchdog;
use crate::{exit, info, statement};

/// Find what Python extension modules and Python code leak: memory, references, descriptors, threads and more.
#[derive(Parser)]
#[command(
    name = "leaktight",
    version,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Check(CheckArguments),
    Info(info::Arguments),
}

/// Judge one line of Python: does it leak, how much, and where?
///
/// Works like `python -m timeit`: the setup runs once, then the statement again and again, while every
/// block that it allocates is followed. No recompiling, no environment variable, no root. What setup and statement print
/// goes to standard error.
#[derive(Args)]
#[command(after_help = "\
Examples:
  leaktight check -s 'import json' 'json.loads(\"[1, 2]\")'
  leaktight check -s 'import zoo' --raises ValueError 'zoo.parse(b\"bad\")'

Exit status:
    0  clean or bounded
    1  a leak
    2  the command line, the setup or the statement is wrong: nothing was judged
    3  it could not be decided
  100  allocations cannot be seen in this process
  101  the report could not be written
  130  interrupted by Ctrl-C, as shells count it")]
struct CheckArguments {
    /// Code to run once before; may be given several times.
    #[arg(short, long, value_name = "CODE")]
    setup: Vec<String>,
    /// Make no more calls than this; without --period it says how deep to look as well [default: 128 times the period,
    /// at least 65536].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..1 << 31))]
    max_calls: Option<u32>,
    /// Start no call after so long, and judge what was seen by then.
    #[arg(long, allow_negative_numbers = true, value_name = "SECONDS", default_value = "20", value_parser = seconds)]
    time_budget: Duration,
    /// Do not call clean what leaks once in so many calls; a clean verdict takes four times as many, at least 16
    /// [default: 512, or a quarter of --max-calls if that is less].
    #[arg(long, allow_negative_numbers = true, value_name = "CALLS", value_parser = clap::value_parser!(u32).range(1..1 << 31))]
    period: Option<u32>,
    /// Every call must raise this exception; for leaks on error paths.
    #[arg(long, value_name = "EXCEPTION")]
    raises: Option<String>,
    /// Look at these only, with commas between them [default: all].
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = Checks::NAMES)]
    checks: Vec<String>,
    /// With "error", a leak whose findings are all warnings has the exit status 0. A warning is about references that
    /// only keep alive what lives for ever anyway, such as a module's types.
    #[arg(long, value_enum, default_value = "warning", value_name = "SEVERITY")]
    fail_on: FailOn,
    /// Tell of everything that the calls leave behind where it was allocated and the whole path by which it is held, from
    /// a module, a library's static data or a thread's stack to the block, even if it is no leak: a cache, a buffer that
    /// was made once. Takes longer.
    #[arg(long)]
    holders: bool,
    #[command(flatten)]
    output: Output,
    /// The line of Python to judge, such as 'parse(b"x: y")'.
    #[arg(value_name = "STATEMENT")]
    statement: String,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FailOn {
    Error,
    Warning,
}

#[derive(Args)]
pub(crate) struct Output {
    /// Print JSON instead of text; that of a report has the schema leaktight.report/1.
    #[arg(long)]
    pub json: bool,
    /// When to use colours; NO_COLOR is respected.
    #[arg(long, value_enum, default_value = "auto", value_name = "WHEN")]
    color: When,
}

#[derive(Clone, Copy, ValueEnum)]
enum When {
    Auto,
    Always,
    Never,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(number) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err("must be more than 0 seconds".to_owned()),
    }
}

/// Runs the command line and returns the exit status. `arguments` starts with the program's name.
#[pyfunction]
pub(crate) fn main(py: Python<'_>, arguments: Vec<String>) -> i32 {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(why) => {
            // Help and version are no mistakes.
            let status = if why.use_stderr() { exit::USAGE } else { exit::CLEAN };
            let _ = why.print();
            return status;
        }
    };
    match arguments.command {
        Command::Check(arguments) => check(py, &arguments),
        Command::Info(arguments) => info::info(py, &arguments),
    }
}

fn check(py: Python<'_>, arguments: &CheckArguments) -> i32 {
    match judge_statement(py, arguments) {
        Ok(report) => print(py, &report, &arguments.output, status(&report, arguments.fail_on)),
        Err(status) => status,
    }
}

fn judge_statement(py: Python<'_>, arguments: &CheckArguments) -> Result<Report, i32> {
    let _diverted = Diverted::start(py);
    let failed = |what| move |why: PyErr| explain(py, what, &why);
    let callee = statement::prepare(py, &arguments.setup.join("\n"), &arguments.statement)
        .map_err(failed("the setup or the statement"))?;
    if let Some(complaint) = statement::complaint(py, &callee).map_err(failed("the statement"))? {
        eprintln!("leaktight: {complaint}; nothing was judged");
        return Err(exit::USAGE);
    }
    let raises = arguments
        .raises
        .as_deref()
        .map(|name| exception(py, &callee, name))
        .transpose();
    let raises = raises.map_err(failed("--raises"))?;
    let depth = Depth {
        max_calls: arguments.max_calls,
        time_budget: Some(arguments.time_budget),
        period: arguments.period,
        checks: match arguments.checks.as_slice() {
            [] => Checks::ALL,
            names => known(names).map_err(failed("--checks"))?,
        },
        holders: arguments.holders,
        ..Depth::default()
    };
    let watchdog = Watchdog::start(arguments.time_budget, Some(give_up));
    let show = std::io::stderr().is_terminal().then_some(progress as fn(u32, Duration));
    let name = on_one_line(&arguments.statement);
    let subject = PythonSubject::new(py, name, callee.clone_ref(py), raises, watchdog, show);
    let mut subject = subject.map_err(failed("the preparation"))?;
    let report = run(&depth, &mut subject);
    if show.is_some() {
        clear_progress();
    }
    report.map_err(|why| {
        let status = explain(py, "the statement", &why);
        if status == exit::USAGE && arguments.raises.is_none() && why.is_instance_of::<PyException>(py) {
            hint_at_raises(py, &callee, &why);
        }
        status
    })
}

/// `try: f(); except ValueError: pass`.
fn on_one_line(statement: &str) -> String {
    let lines = statement.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.fold(String::new(), |mut text, line| {
        text.push_str(match text.as_str() {
            "" => "",
            before if before.ends_with([':', ';']) => " ",
            _ => "; ",
        });
        text.push_str(line);
        text
    })
}

/// An exception may be what the statement is about.
fn hint_at_raises(py: Python<'_>, callee: &Callee, why: &PyErr) {
    if let Some(name) = statement::exception_name(py, callee, why) {
        eprintln!("leaktight: if every call is to raise it, say so: --raises {name}");
    }
}

fn exception(py: Python<'_>, callee: &Callee, name: &str) -> PyResult<Py<PyAny>> {
    let class = statement::exception_class(py, callee, name)?;
    let is_exception = class
        .bind(py)
        .cast::<PyType>()
        .is_ok_and(|class| class.is_subclass_of::<PyBaseException>().unwrap_or(false));
    if is_exception {
        Ok(class)
    } else {
        Err(PyTypeError::new_err(format!("`{name}` is not an exception class")))
    }
}

/// Says on standard error what went wrong, below what was printed until then, and returns the exit status.
pub(crate) fn explain(py: Python<'_>, what: &str, why: &PyErr) -> i32 {
    stdout::flush(py);
    if why.is_instance_of::<PyKeyboardInterrupt>(py) {
        eprintln!("leaktight: interrupted; nothing was judged");
        return exit::INTERRUPTED;
    }
    if why.is_instance_of::<CheckError>(py) {
        eprintln!("leaktight: {}", why.value(py));
        return exit::CANNOT_SEE;
    }
    if why.is_instance_of::<CallTimeout>(py) {
        eprintln!("leaktight: {}; nothing can be said", why.value(py));
        return exit::INDETERMINATE;
    }
    if why.is_instance_of::<PySystemExit>(py) {
        eprintln!(
            "leaktight: {what} called sys.exit({}), so it cannot be judged",
            why.value(py)
        );
        return exit::USAGE;
    }
    why.print(py);
    eprintln!("leaktight: {what} failed, see above; nothing was judged");
    exit::USAGE
}

fn give_up(budget: Duration) {
    eprintln!(
        "leaktight: a call has not returned after {:.1} s of budget and cannot be interrupted, being in native code",
        budget.as_secs_f64()
    );
    std::process::exit(exit::INDETERMINATE);
}

fn status(report: &Report, fail_on: FailOn) -> i32 {
    let has_error = report
        .findings
        .iter()
        .any(|finding| finding.severity == Severity::Error);
    match report.verdict {
        Verdict::Leak if fail_on == FailOn::Error && !has_error => exit::CLEAN,
        Verdict::Clean | Verdict::Bounded => exit::CLEAN,
        Verdict::Leak => exit::LEAK,
        Verdict::Indeterminate => exit::INDETERMINATE,
    }
}

/// Prints the report; returns the exit status, which is another when it could not be printed.
fn print(py: Python<'_>, report: &Report, output: &Output, status: i32) -> i32 {
    let text = if output.json {
        report.to_json()
    } else {
        let terminal = std::io::stdout().is_terminal();
        let color = match output.color {
            When::Always => true,
            When::Never => false,
            When::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        };
        let width = match columns() {
            Some(columns) => columns,
            None if terminal => terminal_width(py),
            None => Style::default().width,
        };
        report.text(Style { color, width })
    };
    write(&text, status)
}

pub(crate) fn write(text: &str, status: i32) -> i32 {
    let mut out = std::io::stdout();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        // A closed pipe (`| head`) is no mistake of ours.
        Err(why) if why.kind() != std::io::ErrorKind::BrokenPipe => {
            eprintln!("leaktight: the report could not be written: {why}");
            exit::NOT_WRITTEN
        }
        _ => status,
    }
}

/// What the user wishes, in pipes too.
fn columns() -> Option<usize> {
    std::env::var("COLUMNS")
        .ok()?
        .parse()
        .ok()
        .filter(|columns| *columns > 0)
}

fn terminal_width(py: Python<'_>) -> usize {
    let size = py
        .import("shutil")
        .and_then(|shutil| shutil.call_method0("get_terminal_size"));
    let columns = size.and_then(|size| size.get_item(0)?.extract::<usize>());
    columns.unwrap_or(100).max(40)
}

/// After two seconds, twice a second, on one line.
fn progress(calls: u32, elapsed: Duration) {
    static LAST: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let now = elapsed.as_millis() as u64 / 500;
    if now >= 4 && LAST.swap(now, std::sync::atomic::Ordering::Relaxed) != now {
        eprint!(
            "\r\x1b[K{} calls, {:.0} s",
            leaktight::integer(calls.into()),
            elapsed.as_secs_f64()
        );
    }
}

fn clear_progress() {
    eprint!("\r\x1b[K");
}

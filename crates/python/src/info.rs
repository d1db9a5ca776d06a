//! `leaktight info`: what can be seen here.

use clap::Args;
use leaktight::{Allocator, PatchCount, Report, counted};
use pyo3::prelude::*;
use serde_json::{Value, json};

use crate::cli::{Output, explain, write};
use crate::judge::{Depth, run};
use crate::stdout::Diverted;
use crate::subject::PythonSubject;
use crate::watchdog::Watchdog;
use crate::{exit, statement};

/// Show what can be seen here: interpreter, what is patched, allocators, blind spots, result of the control.
#[derive(Args)]
#[command(after_help = "\
Example:
  leaktight info -s 'import pyarrow'

Exit status:
    0  all planted leaks were caught        100  some were missed: nothing can be judged here
    2  wrong usage, or the setup failed     101  the facts could not be written")]
pub(crate) struct Arguments {
    /// Code to run once before, such as the imports of what will be judged; may be given several times.
    #[arg(short, long, value_name = "CODE")]
    setup: Vec<String>,
    #[command(flatten)]
    output: Output,
}

pub(crate) fn info(py: Python<'_>, arguments: &Arguments) -> i32 {
    let diverted = Diverted::start(py);
    let callee = match statement::prepare(py, &arguments.setup.join("\n"), "None") {
        Ok(callee) => callee,
        Err(why) => return explain(py, "the setup", &why),
    };
    let depth = Depth {
        max_calls: Some(16),
        // What leaks in each call is what the control is about.
        period: Some(1),
        ..Depth::default()
    };
    let watchdog = Watchdog::start(depth.time(), None);
    let mut subject = match PythonSubject::new(py, "nothing".to_owned(), callee, None, watchdog, None) {
        Ok(subject) => subject,
        Err(why) => return explain(py, "the preparation", &why),
    };
    let report = match run(&depth, &mut subject) {
        Ok(report) => report,
        Err(why) => return explain(py, "the control", &why),
    };
    let status = if report.control.passed() {
        exit::CLEAN
    } else {
        exit::CANNOT_SEE
    };
    let patched = leaktight::what_is_patched(leaktight::Options {
        threads: leaktight::Threads::All,
        python: true,
        resources: true,
        files: true,
    });
    let patched = patched.unwrap_or_default();
    // What the setup has made is still alive.
    let allocators = leaktight::allocators();
    drop(subject);
    drop(diverted);
    if arguments.output.json {
        return write(&format!("{:#}", facts(&report, patched, &allocators)), status);
    }
    write(&lines(&report, patched, &allocators).join("\n"), status)
}

fn facts(report: &Report, patched: PatchCount, allocators: &[Allocator]) -> Value {
    let watchpoints = leaktight::watchpoints();
    json!({
        "leaktight": report.environment.leaktight,
        "runtime": report.environment.runtime,
        "libc": report.environment.libc,
        "platform": report.environment.platform,
        "patched_functions": patched.entries,
        "patched_objects": patched.objects,
        "patched_slots": patched.slots,
        "control": report.control,
        "allocators": allocators.iter().map(allocator_facts).collect::<Vec<_>>(),
        "watchpoints": { "by": watchpoints.clone().ok(), "why_not": watchpoints.err() },
        "blind_spots": report.blind_spots,
    })
}

/// The fields of `leaktight.Allocator`.
fn allocator_facts(allocator: &Allocator) -> Value {
    let statistics = allocator.statistics.clone().unwrap_or_default();
    json!({
        "name": allocator.name,
        "version": allocator.version,
        "object": allocator.object,
        "serves_malloc": allocator.serves_malloc,
        "used": statistics.used,
        "mapped": statistics.mapped,
        "held_free": statistics.held_free,
        "note": allocator.remark(),
    })
}

fn lines(report: &Report, patched: PatchCount, allocators: &[Allocator]) -> Vec<String> {
    let (environment, control) = (&report.environment, &report.control);
    let mut lines = vec![
        format!("leaktight    {}", environment.leaktight),
        format!("interpreter  {}", environment.runtime),
        format!("C library    {}, {}", environment.libc, environment.platform),
        format!(
            "patched      {} at their entry and {} in {}, while a check runs",
            counted(patched.entries as f64, "function"),
            counted(patched.slots as f64, "relocation slot"),
            counted(patched.objects as f64, "loaded object")
        ),
        format!(
            "control      {} of {} planted leaks caught",
            control.caught, control.planted
        ),
    ];
    let missed = control.missed.iter();
    lines.extend(missed.map(|missed| format!("             missed: {missed}")));
    lines.extend(
        allocators
            .iter()
            .map(|allocator| format!("allocator    {}", in_words(allocator))),
    );
    lines.push(match leaktight::watchpoints() {
        Ok(by) => format!("watchpoints  by {by}: leaked references are told with the line that took them"),
        Err(why) => format!("watchpoints  none, so the line that took a leaked reference is not known: {why}"),
    });
    lines.extend(report.blind_spots.iter().map(|spot| format!("not seen     {spot}")));
    lines
}

/// "glibc 2.36 in libc.so.6, serves malloc: 2.4 MiB used, 2.6 MiB mapped, 0.2 MiB held free". jemalloc's version
/// has a commit behind it: "5.3.0-0-g54eaed1d".
fn in_words(allocator: &Allocator) -> String {
    const MIB: f64 = (1 << 20) as f64;
    let version = allocator
        .version
        .as_deref()
        .and_then(|version| version.split("-g").next());
    let version = version.map_or(String::new(), |version| format!(" {version}"));
    let file = allocator.object.rsplit('/').next().unwrap_or_default();
    let serves = if allocator.serves_malloc { ", serves malloc" } else { "" };
    let statistics = allocator.statistics.clone().unwrap_or_default();
    let figures = [
        (statistics.used, "used"),
        (statistics.mapped, "mapped"),
        (statistics.held_free, "held free"),
    ];
    let figures = figures.iter().filter_map(|(bytes, what)| {
        let bytes = (*bytes)?;
        Some(format!("{} MiB {what}", leaktight::figure(bytes as f64 / MIB)))
    });
    let told: Vec<String> = figures.chain(allocator.remark()).collect();
    format!("{}{version} in {file}{serves}: {}", allocator.name, told.join(", "))
}

//! The report as text for a terminal or a log.

use std::fmt;

use crate::facts::facts;
use crate::page::{INDENT, INNER, Lead, Page};
use crate::paint::{self, ALARM, WARNING};
use crate::sentence::sentence;
use crate::words::{article, counted, integer, plural, seconds, signed};
use crate::{Control, Finding, Frame, Kept, Kind, References, Report, Severity, Verdict, path, stack, terminal};

/// Findings shown, and frames shown of each; the rest is counted.
const MOST_FINDINGS: usize = 10;
const MOST_FRAMES: usize = 12;
/// Places shown beside the first one.
const MOST_PLACES: usize = 3;
/// A shorter path from where the holder is says no more than the holder does.
const LEAST_STEPS: usize = 4;

/// A subject longer than this is cut in the middle; the JSON has it whole.
const MOST_SUBJECT_COLUMNS: usize = 400;

const COSTS_NOTHING: &str = "it costs nothing: what the references keep alive lives as long as the program anyway";

/// How a report is to look as text. The caller knows the terminal; this crate asks nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Style {
    /// Whether to write ANSI escape sequences for colour and weight.
    pub color: bool,
    /// Columns of the terminal. Lines keep to it wherever that is possible; less than 20 counts
    /// as 20.
    pub width: usize,
}

impl Default for Style {
    /// No colour, 100 columns.
    fn default() -> Style {
        Style {
            color: false,
            width: 100,
        }
    }
}

impl Report {
    /// The report for a person to read, without a final newline.
    ///
    /// Long stacks, long lists of findings and long names are shortened, each with a `…`; the
    /// JSON has everything. Apart from the colours that were asked for, the only control
    /// character is the newline between lines.
    #[must_use]
    pub fn text(&self, style: Style) -> String {
        let mut page = Page::new(style);
        headline(&mut page, self);
        for finding in self.findings.iter().take(MOST_FINDINGS) {
            page.blank();
            show_finding(&mut page, self, finding);
        }
        if let Some(more) = more(self.findings.len(), MOST_FINDINGS, "finding") {
            page.blank();
            page.paragraph(&format!("{more} (all are in the JSON)"));
        }
        for kept in self.kept.iter().take(MOST_FINDINGS) {
            page.blank();
            show_kept(&mut page, kept);
        }
        if let Some(more) = more(self.kept.len(), MOST_FINDINGS, "place") {
            page.paragraph(&format!("{more} that kept something (all are in the JSON)"));
        }
        if !self.findings.is_empty() || !self.kept.is_empty() {
            page.blank();
        }
        for blind_spot in &self.blind_spots {
            page.paragraph(&format!("not seen here: {blind_spot}"));
        }
        for remark in &self.remarks {
            page.paragraph(&format!("note: {remark}"));
        }
        page.paragraph(&footer(self));
        page.finish()
    }
}

impl fmt::Display for Report {
    /// [`Report::text`] without colour, 100 columns wide.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(Style::default()))
    }
}

/// The verdict, what was called, and why the verdict is what it is.
fn headline(page: &mut Page, report: &Report) {
    let passed = report.control.passed();
    let word = match report.verdict {
        Verdict::Clean if passed => "CLEAN",
        Verdict::Bounded if passed => "BOUNDED",
        // The next line says why; a word that is searched for in a log must not say otherwise.
        Verdict::Clean => "CLEAN?",
        Verdict::Bounded => "BOUNDED?",
        Verdict::Leak if is_harmless(report) => "LEAK (warnings only)",
        Verdict::Leak => "LEAK",
        Verdict::Indeterminate => "INDETERMINATE",
    };
    let subject = terminal::visible(&report.subject);
    let subject = terminal::shorten_middle(&subject, MOST_SUBJECT_COLUMNS);
    let style = match is_harmless(report) {
        true => WARNING,
        false => paint::verdict(report.verdict, passed),
    };
    let word = Lead::new(word, style);
    page.wrapped(0, word, &format!("  {subject}"));

    if let Some(alarm) = alarm(&report.control) {
        page.wrapped(INDENT, Lead::new(&alarm, ALARM), "");
    }
    let period = period(report).filter(|period| !report.reason.contains(period.as_str()));
    let cost = is_harmless(report).then(|| COSTS_NOTHING.to_owned());
    for line in [Some(report.reason.clone()), cost, period].into_iter().flatten() {
        if !line.trim().is_empty() {
            page.paragraph(&line);
        }
    }
}

/// Whether the verdict is a leak for the sake of warnings alone.
fn is_harmless(report: &Report) -> bool {
    let mut findings = report.findings.iter();
    report.verdict == Verdict::Leak
        && !report.findings.is_empty()
        && findings.all(|finding| finding.severity == Severity::Warning)
}

/// What to say, and say loudly, of an instrument that was not shown to work.
fn alarm(control: &Control) -> Option<String> {
    if control.passed() {
        return None;
    }
    if control.planted == 0 {
        return Some("the instrument was not checked, so nothing here may be called clean".into());
    }
    let uncaught = u64::from(control.planted.saturating_sub(control.caught));
    let missed = uncaught.max(control.missed.len() as u64);
    let were = if missed == 1 { "was" } else { "were" };
    let names = match control.missed.as_slice() {
        [] => String::new(),
        names => format!(" ({})", names.join(", ")),
    };
    Some(format!(
        "the instrument check failed: {missed} of {} {} {were} missed{names}, so nothing here may \
         be called clean",
        control.planted,
        plural(control.planted.into(), "planted leak"),
    ))
}

fn period(report: &Report) -> Option<String> {
    if report.period == 0 || !report.control.passed() {
        return None;
    }
    let leak = match report.verdict {
        Verdict::Leak => "other leak",
        // The reason says how far the calls came.
        Verdict::Indeterminate => return None,
        Verdict::Clean | Verdict::Bounded => "leak",
    };
    let (period, calls) = (integer(report.period), plural(report.period, "call"));
    Some(format!("no {leak} with a period up to {period} {calls}"))
}

fn show_finding(page: &mut Page, report: &Report, finding: &Finding) {
    let facts = facts(finding);
    match finding.severity {
        Severity::Error => page.wrapped(INDENT, Lead::NONE, &facts),
        Severity::Warning => {
            let warning = Lead::new("warning:", WARNING);
            page.wrapped(INDENT, warning, &format!(" {facts}"));
        }
    }

    // Most messages only put the facts above into a sentence; then they are not said twice.
    let message = finding.message.as_str();
    if !message.trim().is_empty() && !report.reason.contains(message) && message != sentence(finding) {
        page.wrapped(INNER, Lead::NONE, message);
    } else if let Some(example) = example(finding).filter(|_| !report.reason.contains(message)) {
        page.wrapped(INNER, Lead::NONE, &example);
    }
    if let Some(references) = &finding.references {
        page.wrapped(INNER, Lead::NONE, &counts(references));
    } else if finding.stack.is_empty() {
        page.wrapped(INNER, Lead::NONE, "where it happens is not known");
    }
    for line in [made(finding), taken(finding)].into_iter().flatten() {
        page.wrapped(INNER, Lead::NONE, &line);
    }
    show_stack(page, &finding.stack);
    for also in finding.also.iter().take(MOST_PLACES) {
        page.wrapped(INNER, Lead::NONE, if finding.one_of { "or here:" } else { "and here:" });
        show_stack(page, also);
    }
    if let Some(more) = more(finding.also.len(), MOST_PLACES, "place") {
        page.wrapped(INNER, Lead::NONE, &more);
    }
    for (number, keeper) in finding.kept_by.iter().take(MOST_PLACES).enumerate() {
        page.wrapped(
            INNER,
            Lead::NONE,
            if number == 0 { kept_by(finding) } else { "or here:" },
        );
        show_stack(page, keeper);
    }
    if let Some(balanced) = balanced(finding) {
        page.wrapped(INNER, Lead::NONE, &balanced);
    }
    if let Some(holder) = &finding.holder {
        page.wrapped(INNER, Lead::NONE, &format!("held by {holder}"));
    }
    let says_root = |holder: &String| finding.path.first().is_some_and(|root| holder.contains(&root.name));
    let least = match finding.holder.as_ref().is_some_and(says_root) {
        true => LEAST_STEPS,
        false => 1,
    };
    if let Some(path) = path::in_words(&finding.path, least) {
        page.wrapped(INNER, Lead::NONE, &format!("held by: {path}"));
    }
}

/// What is kept for good.
fn show_kept(page: &mut Page, kept: &Kept) {
    let what = match &kept.type_name {
        Some(name) => format!(" of `{name}`"),
        None => String::new(),
    };
    let allocator = match kept.allocator.as_str() {
        "" => String::new(),
        allocator => format!(" from {allocator}"),
    };
    let (blocks, bytes) = (counted(kept.blocks as f64, "block"), counted(kept.bytes as f64, "byte"));
    page.wrapped(INDENT, Lead::NONE, &format!("kept: {blocks}{what}, {bytes}{allocator}"));
    show_stack(page, &kept.stack);
    let held = match path::in_words(&kept.path, 1) {
        Some(path) => format!("held by: {path}"),
        None => "what holds it was not found".to_owned(),
    };
    page.wrapped(INNER, Lead::NONE, &held);
}

fn show_stack(page: &mut Page, stack: &[Frame]) {
    let shown = stack.len().min(MOST_FRAMES);
    page.stack(&stack[..shown]);
    if let Some(more) = more(stack.len(), MOST_FRAMES, "frame") {
        page.wrapped(INNER, Lead::NONE, &more);
    }
    if let Some(module) = stack::without_debug_information(&stack[..shown]) {
        let hint = format!("no debug information in {module}: rebuild with -g to see functions and lines");
        page.wrapped(INNER, Lead::NONE, &hint);
    }
}

/// What was left behind, which the facts do not say. (Of references they do.)
fn example(finding: &Finding) -> Option<String> {
    if matches!(finding.kind, Kind::Reference | Kind::OverRelease) {
        return None;
    }
    match finding.examples.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        [first, ..] => Some(format!("such as {first}")),
    }
}

/// What the stack of an object is: the place where it was made, as far as that is sure.
fn made(finding: &Finding) -> Option<String> {
    if finding.kind != Kind::Memory || finding.stack.is_empty() {
        return None;
    }
    let what = match &finding.type_name {
        Some(_) if !finding.earlier_owner => return Some("made here:".to_owned()),
        Some(name) => format!("memory of {} `{name}`", article(name)),
        None if finding.earlier_owner => "this memory".to_owned(),
        None => return None,
    };
    Some(format!(
        "perhaps made here; {what} may come from a free list, and this is then where an earlier owner of it was made:"
    ))
}

/// What the stack of references is, or why there is none.
fn taken(finding: &Finding) -> Option<String> {
    let (what, who) = match finding.kind {
        Kind::Reference => ("taken and never given back", "took it"),
        Kind::OverRelease => ("given back without having been taken", "gave it back"),
        _ => return None,
    };
    if finding.stack.is_empty() {
        let why = finding.stack_note.as_ref()?;
        return Some(format!("which function {who} is not known, because {why}"));
    }
    Some(match finding.one_of {
        false => format!("{what} here:"),
        true => format!("{what} in one of these places, the likeliest first:"),
    })
}

/// What the stack of a reference is that keeps objects.
fn kept_by(finding: &Finding) -> &'static str {
    match (finding.buffer_export, finding.kept_by.len()) {
        (true, 1) => "kept by a buffer that is exported and never released here:",
        (true, _) => {
            "kept by a buffer that is exported and never released in one of these places, the likeliest first:"
        }
        (false, 1) => "kept by a reference that is taken and never given back here:",
        (false, _) => {
            "kept by a reference that is taken and never given back in one of these places, the likeliest first:"
        }
    }
}

/// How many places are innocent.
fn balanced(finding: &Finding) -> Option<String> {
    let places = finding.references.as_ref()?.balanced.filter(|places| *places > 0)?;
    Some(format!(
        "taken and given back: {} other {}",
        integer(places),
        plural(places, "place")
    ))
}

/// How a reference count rose or fell, and where the references could be.
fn counts(references: &References) -> String {
    let References {
        calls,
        before,
        after,
        visible,
        words,
        balanced: _,
    } = references;
    format!(
        "{} → {} references over {} {}, {} of them visible to the garbage collector; words in memory that could hold \
         one: {}{}",
        signed(*before),
        signed(*after),
        integer(*calls),
        plural(*calls, "call"),
        signed(*visible),
        if *words < 0 { "" } else { "+" },
        signed(*words),
    )
}

/// `… and 3 more frames`, of a list that is longer than what is shown.
fn more(length: usize, shown: usize, noun: &str) -> Option<String> {
    let hidden = length.checked_sub(shown).filter(|&hidden| hidden > 0)? as u64;
    Some(format!("… and {} more {}", integer(hidden), plural(hidden, noun)))
}

/// `CPython 3.11.7, glibc 2.36; control: 5 of 5 planted leaks caught; 96 calls, 21,377 objects, 0.03 s`.
fn footer(report: &Report) -> String {
    let environment = &report.environment;
    let environment = join(&[&environment.runtime, &environment.libc], ", ");
    let (planted, caught) = (report.control.planted, report.control.caught);
    let control = match planted {
        0 => "control: not run".to_owned(),
        _ => {
            let leaks = plural(planted.into(), "planted leak");
            format!("control: {caught} of {planted} {leaks} caught")
        }
    };
    let calls = format!("{} {}", integer(report.calls), plural(report.calls, "call"));
    let objects = match report.objects {
        0 => String::new(),
        objects => format!("{} {}", integer(objects), plural(objects, "object")),
    };
    let effort = join(&[&calls, &objects, &seconds(report.seconds).unwrap_or_default()], ", ");
    join(&[&environment, &control, &effort], "; ")
}

/// Joins what is not empty.
fn join(parts: &[&str], separator: &str) -> String {
    let parts: Vec<&str> = parts.iter().copied().filter(|part| !part.is_empty()).collect();
    parts.join(separator)
}

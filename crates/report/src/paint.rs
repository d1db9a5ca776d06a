//! Colours: which part of the text has which, and that there are none unless asked for.

use anstyle::{AnsiColor, Style};

use crate::Verdict;

pub(crate) const FUNCTION: Style = Style::new().bold();
pub(crate) const LOCATION: Style = Style::new().dimmed();
pub(crate) const WARNING: Style = AnsiColor::Yellow.on_default().bold();
pub(crate) const ALARM: Style = AnsiColor::Red.on_default().bold();
pub(crate) const PLAIN: Style = Style::new();

/// The colour of a verdict; green only where the instrument was shown to work.
pub(crate) fn verdict(verdict: Verdict, control_passed: bool) -> Style {
    match verdict {
        Verdict::Leak => ALARM,
        Verdict::Clean if control_passed => AnsiColor::Green.on_default().bold(),
        Verdict::Bounded if control_passed => AnsiColor::Cyan.on_default().bold(),
        Verdict::Clean | Verdict::Bounded | Verdict::Indeterminate => WARNING,
    }
}

/// Applies styles, or does not.
#[derive(Clone, Copy)]
pub(crate) struct Paint {
    pub(crate) color: bool,
}

impl Paint {
    pub(crate) fn apply(self, style: Style, text: &str) -> String {
        if self.color && !text.is_empty() {
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
        }
    }
}

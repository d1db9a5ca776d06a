//! The sheet that the text is written on: width, indents, colour.

use crate::paint::{PLAIN, Paint};
use crate::{Frame, Style, stack, terminal};

/// Narrower than this nothing can be laid out, and no terminal is.
const LEAST_COLUMNS: usize = 20;

/// Wider than this nobody reads. It also keeps the sums of columns far from overflow.
const MOST_COLUMNS: usize = 10_000;

/// Spaces before a paragraph, before what belongs to it, and before its second line.
pub(crate) const INDENT: usize = 2;
pub(crate) const INNER: usize = 4;
const HANGING: usize = 6;

/// The lines written so far. Whatever comes in is made harmless here, before it is measured.
pub(crate) struct Page {
    width: usize,
    paint: Paint,
    lines: Vec<String>,
}

/// The start of a paragraph that has its own style.
#[derive(Clone, Copy)]
pub(crate) struct Lead<'a> {
    text: &'a str,
    style: anstyle::Style,
}

impl<'a> Lead<'a> {
    pub(crate) const NONE: Lead<'static> = Lead::new("", PLAIN);

    pub(crate) const fn new(text: &'a str, style: anstyle::Style) -> Lead<'a> {
        Lead { text, style }
    }
}

impl Page {
    pub(crate) fn new(style: Style) -> Page {
        Page {
            width: style.width.clamp(LEAST_COLUMNS, MOST_COLUMNS),
            paint: Paint { color: style.color },
            lines: Vec::new(),
        }
    }

    pub(crate) fn blank(&mut self) {
        self.lines.push(String::new());
    }

    pub(crate) fn paragraph(&mut self, text: &str) {
        self.wrapped(INDENT, Lead::NONE, text);
    }

    /// A paragraph that starts with a styled lead and goes on with plain text, wrapped as one.
    pub(crate) fn wrapped(&mut self, indent: usize, lead: Lead<'_>, text: &str) {
        let text = terminal::visible(&format!("{}{text}", lead.text));
        let lead_text = terminal::visible(lead.text);
        let mut lead_left = lead_text.as_str();
        let hanging = if indent == 0 { HANGING } else { indent + 2 };
        for line in terminal::wrap(&text, self.width, indent, hanging) {
            let content = line.trim_start_matches(' ');
            let (before, _) = line.split_at(line.len() - content.len());
            let covered = common_start(content, lead_left);
            let (styled, plain) = content.split_at(covered);
            lead_left = lead_left[covered..].trim_start_matches(' ');
            self.lines
                .push(format!("{before}{}{plain}", self.paint.apply(lead.style, styled)));
        }
    }

    pub(crate) fn stack(&mut self, frames: &[Frame]) {
        for line in stack::lines(frames, self.width - INNER, self.paint) {
            self.lines.push(format!("{}{line}", " ".repeat(INNER)));
        }
    }

    /// The lines, without a final newline.
    pub(crate) fn finish(self) -> String {
        self.lines.join("\n")
    }
}

/// Bytes that both texts start with.
fn common_start(a: &str, b: &str) -> usize {
    a.char_indices()
        .zip(b.chars())
        .find(|((_, a), b)| a != b)
        .map_or(a.len().min(b.len()), |((at, _), _)| at)
}

//! A call stack as aligned lines: function, place, source line.

use crate::Frame;
use crate::paint::{FUNCTION, LOCATION, PLAIN, Paint};
use crate::terminal::{columns, shorten_end, shorten_middle, shorten_start, visible};

/// Columns between two cells.
const GAP: usize = 2;

/// A source line that gets less room than this, and needs more, is left out.
const LEAST_SOURCE_COLUMNS: usize = 20;

/// The lines of a stack, none wider than `room` columns as long as `room` is at least 5.
pub(crate) fn lines(frames: &[Frame], room: usize, paint: Paint) -> Vec<String> {
    let rows: Vec<Row> = frames.iter().map(Row::of).collect();
    let widths = Widths::fit(&rows, room);
    rows.iter().map(|row| row.line(widths, room, paint)).collect()
}

/// The first module of which frames are known by their offset only.
pub(crate) fn without_debug_information(frames: &[Frame]) -> Option<String> {
    let offset = |frame: &&Frame| !frame.python && frame.function.is_none() && frame.offset.is_some();
    let module = frames.iter().find(offset)?.module.as_deref()?;
    Some(visible(file_name(module)))
}

struct Row {
    function: String,
    location: String,
    source: String,
}

impl Row {
    fn of(frame: &Frame) -> Row {
        let inlined = if frame.inlined { " (inlined)" } else { "" };
        let function = match &frame.function {
            Some(function) => function.clone(),
            None => address(frame),
        };
        let source = frame.source.as_deref().unwrap_or_default().trim();
        Row {
            function: visible(&format!("{function}{inlined}")),
            location: visible(&location(frame)),
            source: visible(source),
        }
    }

    /// Whether nothing follows the function, so that it need not keep to its column.
    fn is_function_only(&self) -> bool {
        self.location.is_empty() && self.source.is_empty()
    }

    fn line(&self, widths: Widths, room: usize, paint: Paint) -> String {
        if self.is_function_only() {
            return paint.apply(FUNCTION, &shorten_middle(&self.function, room));
        }
        let cells = [
            (
                shorten_middle(&self.function, widths.function),
                widths.function,
                FUNCTION,
            ),
            (
                shorten_start(&self.location, widths.location),
                widths.location,
                LOCATION,
            ),
            (shorten_end(&self.source, widths.source), widths.source, PLAIN),
        ];
        let mut line = String::new();
        let mut padding = 0;
        for (cell, width, style) in cells {
            if width > 0 && !cell.is_empty() {
                line.push_str(&" ".repeat(padding));
                line.push_str(&paint.apply(style, &cell));
                padding = 0;
            }
            if width > 0 {
                padding += width - columns(&cell).min(width) + GAP;
            }
        }
        line
    }
}

/// `zoo.so+0x1234`, for a frame without a symbol.
fn address(frame: &Frame) -> String {
    let module = frame.module.as_deref().map(file_name);
    match (module, frame.offset) {
        (Some(module), Some(offset)) => format!("{module}+{offset:#x}"),
        (Some(module), None) => module.to_owned(),
        (None, Some(offset)) => format!("{offset:#x}"),
        (None, None) => "<unknown>".to_owned(),
    }
}

/// `zoo.c:42`; where no source file is known, the module. Empty when it would only repeat the
/// address in the function cell.
fn location(frame: &Frame) -> String {
    let place = match (&frame.file, &frame.module) {
        (Some(file), _) => file.clone(),
        (None, Some(module)) if frame.function.is_some() => match frame.offset {
            Some(offset) => format!("{module}+{offset:#x}"),
            None => module.clone(),
        },
        (None, _) => String::new(),
    };
    match frame.line {
        Some(line) if !place.is_empty() => format!("{place}:{line}"),
        Some(line) => format!("line {line}"),
        None => place,
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

/// Columns of each cell of a stack; 0 leaves the cell out.
#[derive(Clone, Copy)]
struct Widths {
    function: usize,
    location: usize,
    source: usize,
}

impl Widths {
    /// Gives each cell what it needs, as long as there is room. Otherwise the source line gives
    /// way first, then whichever of function and place takes more than half.
    fn fit(rows: &[Row], room: usize) -> Widths {
        let widest = |cell: fn(&Row) -> &str| {
            let rows = rows.iter().filter(|row| !row.is_function_only());
            rows.map(|row| columns(cell(row))).max().unwrap_or(0)
        };
        let function = widest(|row| &row.function);
        let location = widest(|row| &row.location);
        let source = widest(|row| &row.source);

        if source > 0 {
            // So much a long C++ name or a deep path may claim before the source line suffers.
            let share = room * 3 / 8;
            let (fair_function, fair_location) = (function.min(share), location.min(share));
            let left = room.saturating_sub(fair_function + fair_location + 2 * GAP);
            if left >= source.min(LEAST_SOURCE_COLUMNS) {
                let spare = left.saturating_sub(source);
                let full_function = function.min(fair_function + spare);
                let spare = spare - (full_function - fair_function);
                return Widths {
                    function: full_function,
                    location: location.min(fair_location + spare),
                    source: source.min(left),
                };
            }
        }
        if location == 0 {
            return Widths {
                function: function.min(room),
                location,
                source: 0,
            };
        }
        let both = room.saturating_sub(GAP);
        let function = function.min((both / 2).max(both.saturating_sub(location)));
        Widths {
            function,
            location: location.min(both - function),
            source: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN_TEXT: Paint = Paint { color: false };

    fn frame(function: &str, file: &str, line: u32, source: &str) -> Frame {
        Frame {
            function: Some(function.into()),
            file: Some(file.into()),
            line: Some(line),
            source: Some(source.into()),
            ..Frame::default()
        }
    }

    #[test]
    fn narrower_terminals_lose_the_source_line_first() {
        let stack = [
            frame("copy_field", "tests/zoo/c/zoo.c", 42, "char *copy = strdup(field);"),
            frame("parse_header", "tests/zoo/c/zoo.c", 61, ""),
        ];
        assert_eq!(
            lines(&stack, 80, PLAIN_TEXT),
            [
                "copy_field    tests/zoo/c/zoo.c:42  char *copy = strdup(field);",
                "parse_header  tests/zoo/c/zoo.c:61",
            ]
        );
        assert_eq!(
            lines(&stack, 60, PLAIN_TEXT),
            [
                "copy_field    tests/zoo/c/zoo.c:42  char *copy = strdup(fie…",
                "parse_header  tests/zoo/c/zoo.c:61",
            ]
        );
        assert_eq!(
            lines(&stack, 36, PLAIN_TEXT),
            [
                "copy_field    tests/zoo/c/zoo.c:42",
                "parse_header  tests/zoo/c/zoo.c:61"
            ]
        );
        assert_eq!(
            lines(&stack, 26, PLAIN_TEXT),
            ["copy_field    …/c/zoo.c:42", "parse_header  …/c/zoo.c:61"]
        );
    }

    #[test]
    fn frames_without_a_symbol_show_where_they_are_in_the_module() {
        let known = Frame {
            module: Some("/usr/lib/libz.so.1".into()),
            ..Frame::default()
        };
        let stack = [
            Frame {
                offset: Some(0x1234),
                ..known.clone()
            },
            Frame {
                module: Some("zoo.so".into()),
                offset: Some(0x10),
                ..Frame::default()
            },
            Frame {
                function: Some("inflate".into()),
                offset: Some(0x99),
                ..known.clone()
            },
            Frame {
                function: Some("deflate".into()),
                inlined: true,
                ..known
            },
            Frame {
                offset: Some(0xffff),
                ..Frame::default()
            },
            Frame::default(),
        ];
        assert_eq!(
            lines(&stack, 80, PLAIN_TEXT),
            [
                "libz.so.1+0x1234",
                "zoo.so+0x10",
                "inflate            /usr/lib/libz.so.1+0x99",
                "deflate (inlined)  /usr/lib/libz.so.1",
                "0xffff",
                "<unknown>",
            ]
        );
    }
}

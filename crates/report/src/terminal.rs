//! Strings for a terminal: made harmless, measured in columns, shortened, wrapped.

use textwrap::{Options, WordSeparator, WordSplitter, WrapAlgorithm};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

const ELLIPSIS: &str = "…";
const NO_BREAK: &str = "\u{a0}";

/// The text on one line, with every character that would act on the terminal instead of being
/// shown written as an escape such as `\u{1b}` or `\n`.
///
/// These are the control characters (C0, DEL, C1), the line and paragraph separators, and the
/// marks that reorder text (Unicode Standard Annex 9, "Explicit Directional"), with which a name
/// can pose as another.
pub(crate) fn visible(text: &str) -> String {
    let acts = |c: char| {
        c.is_control()
            || matches!(
                c,
                '\u{61c}'
                    | '\u{200e}'
                    | '\u{200f}'
                    | '\u{2028}'..='\u{202e}'
                    | '\u{2066}'..='\u{2069}'
            )
    };
    text.chars().fold(String::with_capacity(text.len()), |mut shown, c| {
        if acts(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
        shown
    })
}

/// Columns that the text takes on a terminal: 2 for most East Asian characters and emoji.
pub(crate) fn columns(text: &str) -> usize {
    text.width()
}

/// Cuts the end off: for source lines.
pub(crate) fn shorten_end(text: &str, columns: usize) -> String {
    shorten(text, columns, |text, room| format!("{}{ELLIPSIS}", head(text, room)))
}

/// Cuts the middle out: for function names, which are told apart by both ends.
pub(crate) fn shorten_middle(text: &str, columns: usize) -> String {
    shorten(text, columns, |text, room| {
        let before = room.div_ceil(2);
        format!("{}{ELLIPSIS}{}", head(text, before), tail(text, room - before))
    })
}

/// Cuts the start off: for paths, at a separator if that leaves at least half of the room used.
pub(crate) fn shorten_start(text: &str, columns: usize) -> String {
    shorten(text, columns, |text, room| {
        let end = tail(text, room);
        let whole_names = end.find(['/', '\\']).map_or("", |separator| &end[separator..]);
        let end = if whole_names.width() * 2 >= room {
            whole_names
        } else {
            end
        };
        format!("{ELLIPSIS}{end}")
    })
}

/// Breaks a paragraph at spaces, and inside a word only when the word alone is too long. A figure stays on one line
/// with the word that it counts. Lines after the first start with `hanging` spaces.
pub(crate) fn wrap(text: &str, width: usize, indent: usize, hanging: usize) -> Vec<String> {
    let (indent, hanging) = (" ".repeat(indent), " ".repeat(hanging));
    let options = Options::new(width)
        .initial_indent(&indent)
        .subsequent_indent(&hanging)
        .word_separator(WordSeparator::AsciiSpace)
        .word_splitter(WordSplitter::NoHyphenation)
        .wrap_algorithm(WrapAlgorithm::FirstFit);
    textwrap::wrap(&glue_figures(text), options)
        .iter()
        .map(|line| line.replace(NO_BREAK, " ").trim_end().to_owned())
        .collect()
}

/// Puts a space that does not break between a figure and what follows it.
fn glue_figures(text: &str) -> String {
    let is_figure = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_digit()) && word.chars().all(|c| c.is_ascii_digit() || ",.".contains(c))
    };
    let mut glued = String::with_capacity(text.len());
    for word in text.split_inclusive(' ') {
        match word
            .strip_suffix(' ')
            .filter(|word| is_figure(word) && !word.ends_with([',', '.']))
        {
            Some(figure) => glued.extend([figure, NO_BREAK]),
            None => glued.push_str(word),
        }
    }
    glued
}

/// Leaves a text alone that fits, and otherwise cuts it with as much room as will do.
///
/// One try is nearly always enough. A sequence of characters can be wider than their sum (an emoji
/// with a variation selector), and then there is a next one.
fn shorten(text: &str, columns: usize, cut: impl Fn(&str, usize) -> String) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    (0..columns)
        .rev()
        .map(|room| cut(text, room))
        .find(|shortened| shortened.width() <= columns)
        .unwrap_or_else(|| ELLIPSIS.to_owned())
}

/// The longest start of the text that fits.
fn head(text: &str, room: usize) -> &str {
    let mut taken = 0;
    let end = text.char_indices().find(|&(_, c)| {
        taken += c.width().unwrap_or(0);
        taken > room
    });
    end.map_or(text, |(end, _)| &text[..end])
}

/// The longest end of the text that fits.
fn tail(text: &str, room: usize) -> &str {
    let mut taken = 0;
    let start = text.char_indices().rev().find(|&(_, c)| {
        taken += c.width().unwrap_or(0);
        taken > room
    });
    start.map_or(text, |(start, c)| &text[start + c.len_utf8()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_acts_on_the_terminal_is_left() {
        assert_eq!(visible("a\x1b[2Jb\r\n\t\u{9b}0m"), r"a\u{1b}[2Jb\r\n\t\u{9b}0m");
        assert_eq!(visible("safe\u{202e}gnirts"), r"safe\u{202e}gnirts");
        assert_eq!(visible("größe \\x00 日本"), "größe \\x00 日本");
    }

    #[test]
    fn shortened_text_fits_and_keeps_what_tells_it_apart() {
        assert_eq!(shorten_end("char *copy = strdup(field);", 12), "char *copy …");
        assert_eq!(shorten_middle("std::vector<int>::push_back", 15), "std::ve…sh_back");
        assert_eq!(shorten_start("src/deep/down/zoo.c:42", 16), "…/down/zoo.c:42");
        assert_eq!(shorten_start("averyveryverylongname.c:42", 10), "…name.c:42");
        assert_eq!(shorten_start("short.c:1", 10), "short.c:1");
    }

    #[test]
    fn wide_characters_count_twice() {
        assert_eq!(columns("日本語"), 6);
        assert_eq!(shorten_end("日本語", 5), "日本…");
        assert_eq!(shorten_middle("日本語日本語", 6), "日…語");
        assert_eq!(shorten_start("日本語", 0), "…");
    }

    #[test]
    fn paragraphs_hang() {
        assert_eq!(
            wrap("note: one two three", 12, 2, 4),
            ["  note: one", "    two", "    three"]
        );
        assert_eq!(wrap("abcdefghijkl", 8, 2, 4), ["  abcd", "    efgh", "    ijkl"]);
        assert_eq!(wrap("", 8, 2, 4), [""]);
        // A figure takes its unit along; what only ends in digits does not.
        assert_eq!(wrap("it took 0.03 s", 14, 2, 4), ["  it took", "    0.03 s"]);
        assert_eq!(wrap("see line2, 1, s", 14, 2, 4), ["  see line2,", "    1, s"]);
    }
}

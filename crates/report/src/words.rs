//! Numbers and nouns as a person reads them aloud.

/// Figures are averages over many calls; what is this close to an integer is that integer.
const NEARLY: f64 = 1e-9;

/// From here on a `f64` no longer tells neighbouring integers apart (2^53 is 9.0e15), and so many
/// digits no longer help a reader.
const TOO_LARGE_FOR_DIGITS: f64 = 1e15;

/// `12345` as `12,345`.
#[must_use]
pub fn integer(n: u64) -> String {
    group(&n.to_string())
}

/// A figure: exactly when it is an integer, otherwise with one decimal (`1,234.6`). What is not finite is `?`.
#[must_use]
pub fn figure(x: f64) -> String {
    if !x.is_finite() {
        return "?".into();
    }
    if x.abs() >= TOO_LARGE_FOR_DIGITS {
        return format!("{x:.1e}");
    }
    if is_integer(x) {
        return group(&format!("{:.0}", x.round() + 0.0));
    }
    match trim_zeros(&format!("{x:.1}")) {
        "0" if x > 0.0 => "under 0.1".into(),
        "-0" | "0" => "0".into(),
        text => group(text),
    }
}

/// `1 block`, `2 blocks`, `3.5 blocks`.
#[must_use]
pub fn counted(x: f64, noun: &str) -> String {
    format!("{} {}", figure(x), plural(if is_one(x) { 1 } else { 2 }, noun))
}

/// The noun alone: `block` for one, `blocks` for any other count. All our nouns take an s, or es after one.
#[must_use]
pub fn plural(n: u64, noun: &str) -> String {
    match noun {
        _ if n == 1 => noun.into(),
        noun if noun.ends_with('s') => format!("{noun}es"),
        noun => format!("{noun}s"),
    }
}

/// What an object of a type is: `` `dict` object``.
pub(crate) fn noun(type_name: &str) -> String {
    in_words(type_name).map_or(format!("`{type_name}` object"), str::to_owned)
}

/// Some of them: ``1 `dict` ``, ``2 `dict` objects``.
pub(crate) fn objects(count: f64, type_name: &str) -> String {
    match in_words(type_name) {
        None if is_one(count) => format!("1 `{type_name}`"),
        _ => counted(count, &noun(type_name)),
    }
}

/// What to call a type whose name says nothing to whoever uses it: ctypes makes one for each library, and for each kind
/// of callback (`CDLL.__init__` and `CFUNCTYPE` in Lib/ctypes/__init__.py).
pub(crate) fn in_words(type_name: &str) -> Option<&'static str> {
    let of_ctypes = type_name.strip_prefix("ctypes.")?;
    [".<locals>._FuncPtr", ".<locals>.CFunctionType"]
        .iter()
        .any(|end| of_ctypes.ends_with(end))
        .then_some("ctypes function")
}

/// `12345` as `12,345`, `-12345` as `-12,345`.
pub(crate) fn signed(n: i64) -> String {
    group(&n.to_string())
}

/// Whether a figure reads as `1`, which decides on singular and plural.
pub(crate) fn is_one(x: f64) -> bool {
    figure(x) == "1"
}

/// Whether a figure reads as `0`.
pub(crate) fn is_zero(x: f64) -> bool {
    figure(x) == "0"
}

/// `1st`, `22nd`, `13th`, `1,000th`.
pub(crate) fn ordinal(n: u64) -> String {
    let ending = match (n % 10, n % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{}{ending}", integer(n))
}

/// `a` or `an`, by the first letter of the word that follows.
pub(crate) fn article(word: &str) -> &'static str {
    match word.chars().next() {
        Some('a' | 'e' | 'i' | 'o' | 'u' | 'A' | 'E' | 'I' | 'O' | 'U') => "an",
        _ => "a",
    }
}

/// A wall time: `0.03 s`, `0.3 s`, `12.3 s`, `1,235 s`. `None` for what is no time.
pub(crate) fn seconds(x: f64) -> Option<String> {
    const SHORTEST_SECONDS: f64 = 0.01;
    /// From here on one decimal is enough.
    const SHORT_SECONDS: f64 = 0.1;
    const LONG_SECONDS: f64 = 100.0;

    if !x.is_finite() || x < 0.0 {
        return None;
    }
    Some(match x {
        _ if x < SHORTEST_SECONDS => format!("under {SHORTEST_SECONDS} s"),
        _ if x < SHORT_SECONDS => format!("{} s", trim_zeros(&format!("{x:.2}"))),
        _ if x < LONG_SECONDS => format!("{} s", figure(x)),
        _ => format!("{} s", figure(x.round())),
    })
}

fn is_integer(x: f64) -> bool {
    x.is_finite() && (x - x.round()).abs() <= NEARLY * x.abs().max(1.0)
}

fn trim_zeros(decimal: &str) -> &str {
    if decimal.contains('.') {
        decimal.trim_end_matches('0').trim_end_matches('.')
    } else {
        decimal
    }
}

/// Puts a comma between each three digits before the point.
fn group(number: &str) -> String {
    let (whole, rest) = number.split_at(number.find('.').unwrap_or(number.len()));
    let (sign, digits) = whole.split_at(usize::from(whole.starts_with('-')));
    let mut grouped = String::from(sign);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_exact_and_grouped() {
        let cases = [
            (0.0, "0"),
            (-0.0, "0"),
            (1.0, "1"),
            (999.0, "999"),
            (1_000.0, "1,000"),
            (1_048_576.0, "1,048,576"),
            (-2_000.0, "-2,000"),
            (0.1 * 3.0 * 10.0, "3"),
        ];
        for (x, text) in cases {
            assert_eq!(figure(x), text);
        }
        assert_eq!(integer(u64::MAX), "18,446,744,073,709,551,615");
    }

    #[test]
    fn fractions_have_one_decimal() {
        let cases = [
            (23.2, "23.2"),
            (1.0 / 3.0, "0.3"),
            (1.0 / 300.0, "under 0.1"),
            (0.05, "0.1"),
            (-1.0 / 300.0, "0"),
            (1_234.567_8, "1,234.6"),
            (1.999_9, "2"),
            (0.999_9, "1"),
            (-0.5, "-0.5"),
        ];
        for (x, text) in cases {
            assert_eq!(figure(x), text);
        }
    }

    #[test]
    fn figures_that_are_none_do_not_look_like_one() {
        assert_eq!(figure(f64::NAN), "?");
        assert_eq!(figure(f64::INFINITY), "?");
        assert_eq!(figure(f64::MAX), "1.8e308");
        assert_eq!(figure(f64::MIN_POSITIVE), "0");
    }

    #[test]
    fn plurals() {
        assert_eq!(counted(1.0, "block"), "1 block");
        assert_eq!(counted(2.0, "block"), "2 blocks");
        assert_eq!(counted(0.0, "block"), "0 blocks");
        assert_eq!(counted(0.35, "block"), "0.3 blocks");
        assert_eq!(counted(0.999_9, "block"), "1 block");
    }

    #[test]
    fn objects_by_their_type() {
        assert_eq!(objects(1.0, "dict"), "1 `dict`");
        assert_eq!(objects(2.0, "dict"), "2 `dict` objects");
        let function = "ctypes.CDLL.__init__.<locals>._FuncPtr";
        assert_eq!(objects(1.0, function), "1 ctypes function");
        assert_eq!(objects(2.5, function), "2.5 ctypes functions");
        assert_eq!(noun("ctypes.CFUNCTYPE.<locals>.CFunctionType"), "ctypes function");
        for other in ["ctypes.c_long", "my.f.<locals>._FuncPtr", "ctypes._FuncPtr"] {
            assert_eq!(noun(other), format!("`{other}` object"));
        }
    }

    #[test]
    fn ordinals() {
        let cases = [
            (1, "1st"),
            (2, "2nd"),
            (3, "3rd"),
            (10, "10th"),
            (11, "11th"),
            (12, "12th"),
            (13, "13th"),
            (21, "21st"),
            (112, "112th"),
            (300, "300th"),
            (1_022, "1,022nd"),
        ];
        for (n, text) in cases {
            assert_eq!(ordinal(n), text);
        }
    }

    #[test]
    fn wall_times() {
        let cases = [
            (0.0, Some("under 0.01 s")),
            (0.03, Some("0.03 s")),
            (0.031_4, Some("0.03 s")),
            (0.261, Some("0.3 s")),
            (0.099_9, Some("0.1 s")),
            (2.0, Some("2 s")),
            (12.34, Some("12.3 s")),
            (1_234.5, Some("1,235 s")),
            (-1.0, None),
            (f64::NAN, None),
        ];
        for (x, text) in cases {
            assert_eq!(seconds(x).as_deref(), text);
        }
    }
}

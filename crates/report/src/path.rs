//! The way from a root to a block, on one line.

use crate::Step;

/// Longer ways are cut in the middle.
const MOST_STEPS: usize = 6;

/// The steps with arrows between them; `None` if there are fewer than `least`.
pub(crate) fn in_words(path: &[Step], least: usize) -> Option<String> {
    if path.is_empty() || path.len() < least {
        return None;
    }
    let words: Vec<String> = path.iter().map(step).collect();
    if words.len() <= MOST_STEPS {
        return Some(words.join(" → "));
    }
    // What a person knows is at the beginning, what was looked for at the end.
    let (first, last) = (MOST_STEPS / 2, MOST_STEPS - 1 - MOST_STEPS / 2);
    let hidden = words.len() - first - last;
    let (head, tail) = (&words[..first], &words[words.len() - last..]);
    Some(format!(
        "{} → … {hidden} more … → {}",
        head.join(" → "),
        tail.join(" → ")
    ))
}

fn step(step: &Step) -> String {
    match (step.name.as_str(), step.what.as_str()) {
        (name, "") => name.to_owned(),
        ("", what) => what.to_owned(),
        (name, what) => format!("{name} ({what})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(len: usize) -> Vec<Step> {
        let step = |at: usize| Step {
            name: format!("s{at}"),
            what: if at == 1 { "a list".to_owned() } else { String::new() },
        };
        (0..len).map(step).collect()
    }

    #[test]
    fn a_path_is_one_line_and_a_long_one_is_cut_in_the_middle() {
        assert_eq!(in_words(&path(0), 0), None);
        assert_eq!(in_words(&path(3), 4), None);
        assert_eq!(in_words(&path(3), 3).unwrap(), "s0 → s1 (a list) → s2");
        assert_eq!(in_words(&path(6), 1).unwrap(), "s0 → s1 (a list) → s2 → s3 → s4 → s5");
        assert_eq!(
            in_words(&path(9), 1).unwrap(),
            "s0 → s1 (a list) → s2 → … 4 more … → s7 → s8"
        );
    }
}

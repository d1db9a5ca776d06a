//! Whether memory becomes resident at a steady pace though nobody allocates it: pages of a mapping that was
//! there before are touched, by a private allocator or by hand.

/// Resident bytes at some calls, of mappings that hold no block of the live set.
#[derive(Clone, Debug)]
pub(crate) struct Resident {
    /// The call after which counting began.
    since: u32,
    samples: Vec<(u32, u64)>,
}

/// Steady growth is called a leak from so many calls on.
const CONFIRM: u32 = 4096;
/// Less than this over the compared calls is no growth: the kernel's own counts are that coarse.
const LEAST_BYTES: u64 = 512 << 10;

/// What the samples of the compared calls show.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Growth {
    /// It has stopped, or there was none.
    None,
    /// It may go on, or was not compared long enough.
    Unclear,
    /// Each third of the compared calls took about as much: so many bytes per call.
    Steady(f64),
}

impl Resident {
    pub(crate) fn new(since: u32) -> Resident {
        Resident {
            since,
            samples: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, call: u32, bytes: u64) {
        self.samples.push((call, bytes));
    }

    /// Compares the last three quarters of `calls` calls. When there can be no further call, those that were made
    /// must do.
    pub(crate) fn growth(&self, calls: u32, exhausted: bool) -> Growth {
        let from = calls / 4;
        if from < self.since {
            return Growth::Unclear;
        }
        let at = |call: u32| {
            let known = self.samples.iter().filter(|(of, _)| (from..=call).contains(of));
            known.max_by_key(|(of, _)| *of).copied()
        };
        let first = self.samples.iter().find(|(of, _)| *of >= from).copied();
        let step = (calls - from) / 3;
        let points = [first, at(from + step), at(from + 2 * step), at(calls)];
        let [Some(a), Some(b), Some(c), Some(d)] = points else {
            return Growth::Unclear;
        };
        let rise = d.1.saturating_sub(a.1);
        if rise < LEAST_BYTES || d.1.saturating_sub(c.1) < rise / 6 {
            return Growth::None;
        }
        let rate = |from: (u32, u64), to: (u32, u64)| {
            (to.1 as f64 - from.1 as f64) / f64::from(to.0.saturating_sub(from.0).max(1))
        };
        let mean = rate(a, d);
        let even = [rate(a, b), rate(b, c), rate(c, d)]
            .iter()
            .all(|part| (0.7..1.4).contains(&(part / mean)));
        match even && (exhausted || calls >= CONFIRM) {
            true => Growth::Steady(mean),
            false => Growth::Unclear,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn growth(bytes: impl Fn(u32) -> u64, calls: u32) -> Growth {
        let mut resident = Resident::new(64);
        (64..=calls)
            .step_by(32)
            .for_each(|call| resident.add(call, bytes(call)));
        resident.growth(calls, false)
    }

    #[test]
    fn a_page_at_each_call_is_steady_growth() {
        assert_eq!(growth(|call| u64::from(call) * 4096, 4096), Growth::Steady(4096.0));
        assert_eq!(growth(|call| u64::from(call) * 4096, 2048), Growth::Unclear);
        assert_eq!(growth(|call| u64::from(call) * 4096, 128), Growth::Unclear);
    }

    #[test]
    fn arenas_that_fill_up_and_single_steps_are_not() {
        assert_eq!(growth(|_| 1 << 30, 4096), Growth::None);
        assert_eq!(growth(|call| u64::from(call.min(1500)) * 4096, 4096), Growth::None);
        assert_eq!(growth(|call| u64::from(call > 2000) << 24, 4096), Growth::None);
        assert_eq!(
            growth(|call| f64::from(call).ln() as u64 * (8 << 20), 4096),
            Growth::None
        );
        assert_eq!(
            growth(|call| u64::from(call / 1024) << 20, 16_384),
            Growth::Steady(1024.0)
        );
    }
}

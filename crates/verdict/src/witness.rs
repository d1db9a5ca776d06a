//! Whether what somebody else counts grows at a steady pace, less what the live set explains: the kernel's figures, and
//! those of allocators.

/// What one witness has said of some calls: bytes that nothing explains.
#[derive(Clone, Debug)]
pub(crate) struct Witness {
    /// The call after which counting began.
    since: u32,
    /// Less than this over the compared calls is no growth: the figures are that coarse.
    least: u64,
    /// What was seen before, in bytes per call, if anything; until there are samples.
    suspicion: f64,
    samples: Vec<(u32, u64)>,
}

/// Steady growth is called a leak from so many calls on.
const CONFIRM: u32 = 4096;

/// What the samples of the compared calls show.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Growth {
    /// It has stopped, or there was none.
    None,
    /// It may go on, or was not compared long enough: so many bytes per call as far as seen.
    Unclear(f64),
    /// Each third of the compared calls took about as much: so many bytes per call.
    Steady(f64),
}

impl Witness {
    pub(crate) fn new(since: u32, least: u64, suspicion: f64) -> Witness {
        Witness {
            since,
            least,
            suspicion,
            samples: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, call: u32, bytes: u64) {
        self.samples.push((call, bytes));
    }

    /// Compares the last three quarters of `calls` calls, or what there is of them.
    pub(crate) fn growth(&self, calls: u32) -> Growth {
        let from = (calls / 4).max(self.since);
        let at = |call: u32| {
            let known = self.samples.iter().filter(|(of, _)| (from..=call).contains(of));
            known.max_by_key(|(of, _)| *of).copied()
        };
        let first = self.samples.iter().find(|(of, _)| *of >= from).copied();
        let step = (calls - from.min(calls)) / 3;
        let points = [first, at(from + step), at(from + 2 * step), at(calls)];
        let [Some(a), Some(b), Some(c), Some(d)] = points else {
            return match self.suspicion > 0.0 {
                true => Growth::Unclear(self.suspicion),
                false => Growth::None,
            };
        };
        let rise = d.1.saturating_sub(a.1);
        if rise < self.least || d.1.saturating_sub(c.1) < rise / 6 {
            return Growth::None;
        }
        let rate = |from: (u32, u64), to: (u32, u64)| {
            (to.1 as f64 - from.1 as f64) / f64::from(to.0.saturating_sub(from.0).max(1))
        };
        let mean = rate(a, d);
        let parts = [rate(a, b), rate(b, c), rate(c, d)];
        let even = parts.iter().all(|part| (0.7..1.4).contains(&(part / mean)));
        let known_long = self.since <= calls / 4 && calls >= CONFIRM;
        if even && known_long {
            Growth::Steady(mean)
        } else if parts.iter().all(|part| *part > 0.0) {
            // Three steps, however uneven, may be followed by a fourth.
            Growth::Unclear(mean)
        } else {
            Growth::None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn growth(bytes: impl Fn(u32) -> u64, calls: u32) -> Growth {
        let mut witness = Witness::new(64, 512 << 10, 0.0);
        (64..=calls).step_by(32).for_each(|call| witness.add(call, bytes(call)));
        witness.growth(calls)
    }

    #[test]
    fn a_page_at_each_call_is_steady_growth() {
        assert_eq!(growth(|call| u64::from(call) * 4096, 4096), Growth::Steady(4096.0));
        assert_eq!(growth(|call| u64::from(call) * 4096, 2048), Growth::Unclear(4096.0));
        assert_eq!(growth(|call| u64::from(call) * 4096, 128), Growth::None, "too little");
    }

    #[test]
    fn a_suspicion_stands_until_there_are_figures() {
        let mut witness = Witness::new(2048, 512 << 10, 300.0);
        assert_eq!(witness.growth(2048), Growth::Unclear(300.0));
        (2048..=4096).step_by(128).for_each(|call| witness.add(call, 1 << 20));
        assert_eq!(witness.growth(4096), Growth::None);
    }

    #[test]
    fn steps_in_each_third_may_go_on_and_two_are_over() {
        let steps =
            |of: &'static [u32]| move |call: u32| of.iter().filter(|at| call >= **at).count() as u64 * (4 << 20);
        assert!(matches!(
            growth(steps(&[1500, 1600, 2500, 3800]), 4096),
            Growth::Unclear(_)
        ));
        assert_eq!(growth(steps(&[1500, 3800]), 4096), Growth::None);
    }

    /// 4,096 calls, of which the last three quarters are compared, and each third of those took so much.
    fn thirds(parts: [i64; 3]) -> Growth {
        after(4096, 64, parts)
    }

    fn after(calls: u32, since: u32, parts: [i64; 3]) -> Growth {
        let mut witness = Witness::new(since, 3000, 0.0);
        let mut bytes = 1_000_000;
        let from = since.max(calls / 4);
        let step = (calls - from) / 3;
        witness.add(500, 0);
        witness.add(from, bytes as u64);
        for (part, call) in parts.into_iter().zip([from + step, from + 2 * step, calls]) {
            witness.add(call - 100, 0);
            bytes += part;
            witness.add(call, bytes as u64);
        }
        witness.growth(calls)
    }

    #[test]
    fn less_than_the_figures_can_tell_is_no_growth() {
        assert_eq!(thirds([1000, 1000, 1000]), Growth::Steady(3000.0 / 3072.0));
        assert_eq!(thirds([1000, 1000, 999]), Growth::None);
    }

    #[test]
    fn growth_is_over_where_the_last_third_took_less_than_a_sixth() {
        assert_eq!(thirds([2500, 2500, 1000]), Growth::Unclear(6000.0 / 3072.0));
        assert_eq!(thirds([2501, 2500, 999]), Growth::None);
    }

    #[test]
    fn thirds_are_even_from_0_7_up_to_1_4_of_their_mean() {
        assert_eq!(thirds([700, 1000, 1300]), Growth::Steady(3000.0 / 3072.0));
        assert_eq!(thirds([699, 1000, 1301]), Growth::Unclear(3000.0 / 3072.0));
        assert_eq!(thirds([1399, 801, 800]), Growth::Steady(3000.0 / 3072.0));
        assert_eq!(thirds([1400, 800, 800]), Growth::Unclear(3000.0 / 3072.0));
        assert_eq!(thirds([1500, 1, 1499]), Growth::Unclear(3000.0 / 3072.0));
        assert_eq!(thirds([1500, 0, 1500]), Growth::None);
        assert_eq!(thirds([3000, -1000, 1000]), Growth::None);
    }

    #[test]
    fn growth_is_steady_once_it_was_counted_for_three_quarters_of_4096_calls() {
        assert_eq!(after(4095, 1023, [1000; 3]), Growth::Unclear(3000.0 / 3072.0));
        assert_eq!(after(4096, 1025, [1000; 3]), Growth::Unclear(3000.0 / 3071.0));
        assert_eq!(after(4096, 1024, [1000; 3]), Growth::Steady(3000.0 / 3072.0));
    }

    #[test]
    fn nothing_is_suspected_where_nothing_was_seen() {
        assert_eq!(Witness::new(2048, 3000, 0.0).growth(2048), Growth::None);
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

//! How rare a leak the counts that were noted could have shown.

use leaktight_report::integer;

use super::References;

impl References {
    /// The longest period, up to this one, of a leak that would have shown.
    pub(crate) fn period(&self, period: u32) -> u32 {
        match self.is_narrow || self.objects == 0 {
            true => period,
            false => shows(&self.calls_of(self.best_triple())).min(period),
        }
    }

    /// Whether counts halfway are needed for those after `calls` calls to show leaks up to this period: counts of two
    /// moments do not tell what moves with the calls, nor do three of which two are close to each other.
    pub(crate) fn wants_middle(&mut self, calls: u32, period: u32) -> bool {
        if self.is_narrow || !self.is_on() {
            return false;
        }
        let known: Vec<u32> = self.samples.iter().map(|(at, _)| *at).collect();
        let shown = |middle: u32| known.first().map_or(0, |first| shows(&[*first, middle, calls]));
        let best = known.iter().map(|at| shown(*at)).max().unwrap_or(0);
        best < period && shown(calls / 2) > best
    }

    /// Notes what was asked for and could not be seen with so few calls: leaks up to a period.
    pub(crate) fn tell_how_rare(&mut self, period: u32) {
        let rarest = self.period(period);
        if rarest < period {
            let spot = match rarest {
                0 => "leaked references to objects that live on anyway (the calls were too few)".to_owned(),
                1 => "references that leak less often than in every call (the calls were too few)".to_owned(),
                _ => format!(
                    "references that leak less often than once in {} calls (the calls were too few)",
                    integer(u64::from(rarest))
                ),
            };
            self.too_rare = Some(spot);
        }
    }

    /// Of the first counts, the last and some between them those that show most.
    pub(super) fn best_triple(&self) -> [usize; 3] {
        let last = self.samples.len().saturating_sub(1);
        let triples = (1..last).flat_map(|at| [[0, at, last], [last.saturating_sub(2), at, last]]);
        let fit = triples.filter(|[first, at, _]| first < at);
        fit.max_by_key(|triple| shows(&self.calls_of(*triple)))
            .unwrap_or([0, 0, last])
    }

    pub(super) fn calls_of(&self, samples: impl IntoIterator<Item = usize>) -> Vec<u32> {
        samples.into_iter().map(|at| self.samples[at].0).collect()
    }
}

/// Counts after these numbers of calls show what leaks a reference once in up to so many calls (`is_suspicious` in `leaktight_verdict::references`).
pub(super) fn shows(calls: &[u32]) -> u32 {
    const LONG: u32 = 256;
    const BY_CHANCE: u32 = 4;
    let [first, second, third] = *calls else { return 0 };
    let (before, after) = (second - first, third - second);
    let needed = match before.min(after) >= LONG {
        // One before, and as many after as fit one: in longer intervals more are expected of two.
        true if after <= 2 * before => 1,
        true => 2,
        false => BY_CHANCE,
    };
    after.min(before / needed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use leaktight_verdict::references::is_suspicious;

    proptest::proptest! {
        #[test]
        fn what_leaks_so_often_is_suspicious(calls: [u16; 3], start in 0u32..1000) {
            let mut at = start;
            let calls = calls.map(|more| { at += u32::from(more); at });
            for rate in 1..=shows(&calls).min(600) {
                let series: Vec<(u32, i64)> = calls.iter().map(|calls| (*calls, i64::from(calls / rate))).collect();
                proptest::prop_assert!(is_suspicious(&series), "{series:?}, one in {rate}");
            }
        }
    }
}

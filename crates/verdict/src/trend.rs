//! Whether the total rises from octave to octave.

/// A number of blocks and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Number of blocks.
    pub blocks: u64,
    /// Sum of their sizes in bytes.
    pub bytes: u64,
}

/// The lowest and highest total bytes of each octave of calls `[2^j, 2^(j+1))`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trend {
    octaves: Vec<Option<(u64, u64)>>,
}

impl Trend {
    pub(crate) fn add(&mut self, call: u32, bytes: u64) {
        let octave = call.max(1).ilog2() as usize;
        if self.octaves.len() <= octave {
            self.octaves.resize(octave + 1, None);
        }
        let range = self.octaves[octave].get_or_insert((bytes, bytes));
        *range = (range.0.min(bytes), range.1.max(bytes));
    }

    /// Whether the low-water mark of the last full octave before `calls` lies above everything two
    /// octaves earlier. Growth by doubling does that each time; noise without a trend hardly ever
    /// (with 16 checkpoints an octave, less than once in 10^8).
    pub(crate) fn rises(&self, calls: u32) -> bool {
        self.rise(last_octave(calls)).is_some()
    }

    /// Whether it also rose from the octave before to the last one, and from that to what is known of the
    /// next; a single step is over by then.
    pub(crate) fn still_rises(&self, calls: u32) -> bool {
        let last = last_octave(calls);
        let low = |octave| self.range(octave).map(|(low, _)| low);
        let rose = |from, to| low(to).zip(low(from)).is_some_and(|(now, before)| now > before);
        self.rises(calls) && rose(last - 1, last) && (low(last + 1).is_none() || rose(last, last + 1))
    }

    /// Whether the rise has gone on over five octaves and keeps pace with their length: it at least
    /// doubles within two octaves (a steady leak's quadruples).
    pub(crate) fn keeps_rising(&self, calls: u32) -> bool {
        let last = last_octave(calls);
        let rises = [last, last - 1, last - 2].map(|octave| self.rise(octave));
        matches!(rises, [Some(now), Some(_), Some(before)] if now >= 2 * before)
    }

    /// So much has come in the last full octave and the one before it.
    pub(crate) fn last_rise(&self, calls: u32) -> u64 {
        self.rise(last_octave(calls)).unwrap_or(0)
    }

    fn rise(&self, octave: i64) -> Option<u64> {
        let ((low, _), (earlier_low, earlier_high)) = (self.range(octave)?, self.range(octave - 2)?);
        (low > earlier_high && low >= earlier_low + least_rise(1 << octave)).then(|| low - earlier_low)
    }

    fn range(&self, octave: i64) -> Option<(u64, u64)> {
        self.octaves.get(usize::try_from(octave).ok()?).copied().flatten()
    }
}

/// So many bytes more over so many calls are a rise. Below a quarter of a byte per call it is a counter that got one
/// more digit, or a cache of which the last entries are filled.
pub(crate) fn least_rise(calls: u32) -> u64 {
    u64::from(calls) / 4
}

/// The last octave that `calls` calls have filled.
fn last_octave(calls: u32) -> i64 {
    i64::from((calls.max(1) + 1).ilog2()) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trend(bytes: impl Fn(u32) -> u64) -> Trend {
        let mut trend = Trend::default();
        (1..=16_384u32)
            .filter(|call| call % 32 == 0)
            .for_each(|call| trend.add(call, bytes(call)));
        trend
    }

    #[test]
    fn growth_of_every_shape_rises_and_noise_does_not() {
        for (name, series) in [
            ("linear", (|call| u64::from(call) * 16) as fn(u32) -> u64),
            ("doubling", |call| u64::from(call.next_power_of_two()) * 8),
            ("by four", |call| 1 << (2 * (u64::from(call).ilog2() / 2))),
            ("one byte", u64::from),
            ("by half", |call| 1.5f64.powf((f64::from(call)).log(1.5).ceil()) as u64),
        ] {
            assert!(trend(series).rises(16_384), "{name}");
            assert!(trend(series).keeps_rising(16_384), "{name}");
        }
        for (name, series) in [
            ("flat", (|_| 4096) as fn(u32) -> u64),
            ("sawtooth", |call| u64::from(call % 200) * 16),
            ("noise", |call| u64::from(call.wrapping_mul(2_654_435_761) >> 20)),
            ("full cache", |call| u64::from(call.min(1500)) * 16),
            ("digits of a counter", |call| 512 * u64::from(call.ilog10())),
        ] {
            assert!(!trend(series).rises(16_384), "{name}");
        }
        let step = trend(|call| if call < 3000 { 0 } else { 65_536 });
        assert!(!step.rises(16_384) && !step.still_rises(16_384), "one step");
        // A namespace that is rebuilt larger a few times, and for the last time at call 4,000.
        let namespace = trend(|call| match call {
            0..512 => 1 << 10,
            512..1024 => 2 << 10,
            1024..4000 => 5 << 10,
            _ => 600 << 10,
        });
        assert!(!namespace.keeps_rising(16_384), "a last step");
        assert!(
            namespace.rises(12_000) && !namespace.still_rises(12_000),
            "a last step, seen early"
        );
        assert!(
            !trend(|call| (f64::from(call).ln() * 4096.0) as u64).keeps_rising(16_384),
            "logarithmic"
        );
    }

    /// The lowest and the highest total of each octave, from the first call on.
    fn octaves(ranges: &[(u64, u64)]) -> Trend {
        let mut trend = Trend::default();
        for (octave, (low, high)) in ranges.iter().enumerate() {
            let last = (2 << octave) - 1;
            trend.add(1 << octave, *high);
            trend.add(last, *low);
        }
        trend
    }

    #[test]
    fn an_octave_counts_once_its_last_call_is_made() {
        let filled = |calls| last_octave(calls);
        assert_eq!((filled(1), filled(2), filled(3)), (0, 0, 1));
        assert_eq!((filled(6), filled(7), filled(8)), (1, 2, 2));
        assert_eq!((filled(65_534), filled(65_535)), (14, 15));
    }

    #[test]
    fn a_rise_lies_above_all_of_two_octaves_before_by_a_quarter_byte_per_call() {
        // In [64, 128) and [256, 512): a quarter of 256.
        let rises = |early: (u64, u64), late: (u64, u64)| {
            let mut ranges = [(1000, 1000); 9];
            (ranges[6], ranges[8]) = (early, late);
            octaves(&ranges).rises(511)
        };
        assert!(rises((500, 500), (564, 600)));
        assert!(!rises((500, 500), (563, 600)), "less");
        assert!(rises((500, 563), (564, 564)));
        assert!(!rises((500, 564), (564, 600)), "not above its highest");
        assert!(!rises((500, 900), (600, 1000)), "a sawtooth");
        assert!(!octaves(&[(0, 0), (100, 100)]).rises(3), "nothing two octaves before");
    }

    #[test]
    fn a_rise_goes_on_where_each_octave_rises_and_doubles_within_two() {
        let trend = |totals: [u64; 5]| {
            let mut ranges = vec![(0, 0); 5];
            ranges.extend(totals.map(|total| (total, total)));
            octaves(&ranges)
        };
        // Octaves 5 to 9: rises of 1,000 and 2,000 over two octaves.
        assert!(trend([11_000, 11_500, 12_000, 13_000, 14_000]).keeps_rising(1023));
        assert!(
            !trend([11_000, 11_500, 12_000, 13_000, 13_999]).keeps_rising(1023),
            "less than twice"
        );
        assert!(
            !trend([11_000, 11_500, 12_000, 11_500, 14_000]).keeps_rising(1023),
            "a pause between"
        );
        assert!(
            !trend([11_000, 11_500, 11_000, 13_000, 14_000]).keeps_rising(1023),
            "a late beginning"
        );
        let still = |totals, calls| trend(totals).still_rises(calls);
        assert!(still([0, 0, 0, 500, 501], 1023));
        assert!(!still([0, 0, 0, 500, 500], 1023), "as much as in the octave before");
        assert!(!still([0, 500, 450, 450, 501], 1023), "not by enough");
        // What is known of the octave that is not full: it may not fall back.
        assert!(still([0, 0, 500, 1000, 1001], 600));
        assert!(!still([0, 0, 500, 1000, 1000], 600));
    }
}

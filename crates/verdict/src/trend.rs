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

    fn rise(&self, octave: i64) -> Option<u64> {
        let ((low, _), (earlier_low, earlier_high)) = (self.range(octave)?, self.range(octave - 2)?);
        // Below a quarter of a byte per call it is a counter that got one more digit.
        let least = (1u64 << octave) / 4;
        (low > earlier_high && low >= earlier_low + least).then(|| low - earlier_low)
    }

    fn range(&self, octave: i64) -> Option<(u64, u64)> {
        self.octaves.get(usize::try_from(octave).ok()?).copied().flatten()
    }
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
}

//! Figures of repeated measurements: spreads over rounds, percentiles of latencies, conversions.

use std::{fmt, time::Duration};

use hdrhistogram::Histogram;

/// Longest latency that is told apart, in nanoseconds: ten minutes.
const LATENCY_NS_MAX: u64 = 600_000_000_000;

/// Median of several rounds with the lowest and the highest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Middle value; the mean of the middle two for an even number of rounds.
    pub median: f64,
    /// Lowest value.
    pub min: f64,
    /// Highest value.
    pub max: f64,
}

impl Spread {
    /// The spread of `values`; all zero if there are none. Values that are not finite are left out.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (values.first(), values.last()) else {
            return Spread { median: 0.0, min: 0.0, max: 0.0 };
        };
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Spread { median, min, max }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}-{})", short(self.median), short(self.min), short(self.max))
    }
}

/// Latencies in nanoseconds, to three digits.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Latencies(Histogram::new_with_max(LATENCY_NS_MAX, 3).expect("the bounds are constants"))
    }
}

impl Latencies {
    /// Counts one latency; longer than ten minutes counts as ten minutes.
    pub fn record(&mut self, latency: Duration) {
        self.record_ns(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Counts one latency in nanoseconds.
    pub fn record_ns(&mut self, latency: u64) {
        self.0.saturating_record(latency);
    }

    /// Adds all that `other` counted.
    pub fn add(&mut self, other: &Latencies) {
        self.0 += &other.0;
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that a share of `quantile` (0 to 1) does not exceed, in microseconds.
    pub fn us(&self, quantile: f64) -> f64 {
        as_f64(self.0.value_at_quantile(quantile)) / 1e3
    }
}

/// Converts a count, for ratios and rates.
#[expect(clippy::cast_precision_loss, reason = "figures are read to a few digits")]
pub const fn as_f64(count: u64) -> f64 {
    count as f64
}

/// Converts a length or count.
pub const fn as_u64(count: usize) -> u64 {
    count as u64
}

/// Converts a non-negative figure to a whole number, cutting the fraction.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates, which is what is meant"
)]
pub const fn as_count(figure: f64) -> u64 {
    figure as u64
}

/// `count` per second.
pub fn per_second(count: u64, elapsed: Duration) -> f64 {
    ratio(as_f64(count), elapsed.as_secs_f64())
}

/// `value / floor`, or 0 where there is no floor.
pub fn ratio(value: f64, floor: f64) -> f64 {
    if floor > 0.0 { value / floor } else { 0.0 }
}

/// Bytes as MiB.
pub fn mib(bytes: u64) -> f64 {
    as_f64(bytes) / 1_048_576.0
}

/// Three or so digits of a figure, for tables.
pub fn short(figure: f64) -> String {
    match figure.abs() {
        f if f >= 10_000_000.0 => format!("{:.1} M", figure / 1e6),
        f if f >= 1_000_000.0 => format!("{:.2} M", figure / 1e6),
        f if f >= 100_000.0 => format!("{:.0} k", figure / 1e3),
        f if f >= 10_000.0 => format!("{:.1} k", figure / 1e3),
        f if f >= 100.0 => format!("{figure:.0}"),
        f if f >= 10.0 => format!("{figure:.1}"),
        0.0 => "0".to_owned(),
        _ => format!("{figure:.2}"),
    }
}

/// A time given in microseconds, with the unit that suits it.
pub fn short_time(us: f64) -> String {
    match us {
        us if us >= 1e6 => format!("{} s", short(us / 1e6)),
        us if us >= 1e3 => format!("{} ms", short(us / 1e3)),
        us => format!("{} us", short(us)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_of_even_and_odd_rounds_has_the_middle() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of([4.0, 1.0]), Spread { median: 2.5, min: 1.0, max: 4.0 });
        assert_eq!(Spread::of([f64::NAN]), Spread { median: 0.0, min: 0.0, max: 0.0 });
    }

    #[test]
    fn latencies_keep_their_percentiles_when_added() {
        let (mut low, mut high) = (Latencies::default(), Latencies::default());
        for us in 1..=100 {
            low.record(Duration::from_micros(us));
            high.record(Duration::from_micros(us + 1000));
        }
        low.add(&high);
        assert_eq!(low.count(), 200);
        assert!((low.us(0.5) - 100.0).abs() < 1.0, "{}", low.us(0.5));
        assert!((low.us(1.0) - 1100.0).abs() < 2.0, "{}", low.us(1.0));
    }
}

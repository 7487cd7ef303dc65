//! From samples to a table: medians, ratios to the first row, Markdown that also reads well in a
//! terminal. Pure.

/// One run of one contender.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    /// Wall time of the load.
    pub(super) seconds: f64,
    /// User and system time of the client.
    pub(super) cpu_seconds: f64,
    /// Largest resident set of the client in bytes; None where it says nothing (the floor holds its server too).
    pub(super) max_rss: Option<u64>,
}

/// One contender over all rounds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    name: String,
    /// Median, bytes per second.
    pub(super) throughput: f64,
    slowest: f64,
    fastest: f64,
    /// Median, CPU seconds per 10^9 bytes.
    cpu_per_gigabyte: f64,
    /// The largest of all rounds.
    max_rss: Option<u64>,
}

/// Bytes of a gigabyte.
const GIGABYTE: f64 = 1e9;
/// Bytes of a mebibyte, in which memory is given.
const MEBIBYTE: u64 = 1 << 20;

impl Row {
    /// Sums up `samples`, each a load of `bytes`.
    pub(super) fn new(name: String, bytes: u64, samples: &[Sample]) -> Self {
        let bytes = bytes as f64;
        let throughputs = sorted(samples.iter().map(|sample| bytes / sample.seconds));
        let cpu = sorted(samples.iter().map(|sample| sample.cpu_seconds / (bytes / GIGABYTE)));
        Self {
            name,
            throughput: median(&throughputs),
            slowest: throughputs.first().copied().unwrap_or(f64::NAN),
            fastest: throughputs.last().copied().unwrap_or(f64::NAN),
            cpu_per_gigabyte: median(&cpu),
            max_rss: samples.iter().filter_map(|sample| sample.max_rss).max(),
        }
    }

    /// The contender.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// The table; ratios are to the first row.
pub(super) fn markdown(rows: &[Row]) -> String {
    let line = |row: &Row, floor: &Row| {
        let rss = row.max_rss.map_or("-".to_owned(), |bytes| bytes.div_ceil(MEBIBYTE).to_string());
        format!(
            "| {} | {:.2} ({:.2}-{:.2}) | {:.2} | {:.2} | {:.2} | {rss} |\n",
            row.name,
            row.throughput / GIGABYTE,
            row.slowest / GIGABYTE,
            row.fastest / GIGABYTE,
            row.throughput / floor.throughput,
            row.cpu_per_gigabyte,
            row.cpu_per_gigabyte / floor.cpu_per_gigabyte,
        )
    };
    let lines = rows.first().into_iter().flat_map(|floor| rows.iter().map(move |row| line(row, floor)));
    let head = "| contender | GB/s | of the floor | CPU s/GB | of the floor | max RSS, MiB |\n|---|---|---|---|---|---|\n";
    std::iter::once(head.to_owned()).chain(lines).collect()
}

/// In ascending order.
pub(super) fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// Of sorted values; the mean of the middle two when their number is even, NaN when there are none.
pub(super) fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match (sorted.get(middle.wrapping_sub(1)), sorted.get(middle)) {
        (Some(low), Some(high)) if sorted.len().is_multiple_of(2) => f64::midpoint(*low, *high),
        (_, Some(value)) => *value,
        _ => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::{Row, Sample, markdown, median};

    #[test]
    fn the_median_stands_an_outlier() {
        assert_eq!(median(&[1.0, 2.0, 90.0]), 2.0);
        assert_eq!(median(&[1.0, 2.0, 4.0, 90.0]), 3.0);
        assert_eq!(median(&[5.0]), 5.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn ratios_are_to_the_first_row() {
        let sample = |seconds, cpu_seconds, max_rss| Sample { seconds, cpu_seconds, max_rss };
        let floor = Row::new("floor".to_owned(), 4_000_000_000, &[sample(2.0, 4.0, None)]);
        let agent =
            [sample(4.0, 6.0, Some(50 << 20)), sample(2.5, 5.0, Some(60 << 20)), sample(2.0, 4.8, None)];
        let agent = Row::new("agent".to_owned(), 4_000_000_000, &agent);
        assert_eq!(
            markdown(&[floor, agent]).lines().skip(2).collect::<Vec<_>>(),
            [
                "| floor | 2.00 (2.00-2.00) | 1.00 | 1.00 | 1.00 | - |",
                "| agent | 1.60 (1.00-2.00) | 0.80 | 1.25 | 1.25 | 60 |"
            ]
        );
    }
}

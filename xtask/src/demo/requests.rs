//! Sums up the test server's request log: how many requests a load took, what they carried, and at
//! which rate. The log has one JSON object a line, written when the reply has ended. Pure.

use anyhow::{Context, Result};
use serde::Deserialize;

use super::megabytes;

/// What of a log line matters here.
#[derive(Debug, Deserialize)]
struct Request {
    /// `get`, `list`, `head`, ...
    operation: String,
    /// Body bytes sent.
    sent: u64,
    /// When it arrived, nanoseconds of the server's own clock.
    start_ns: u64,
    /// When its reply ended.
    end_ns: u64,
}

/// Nanoseconds of a second.
const SECOND: f64 = 1e9;

/// One sentence about the whole log; `stored` is the size of all objects.
pub(super) fn summary(log: &str, stored: u64) -> Result<String> {
    let requests: Vec<Request> = log
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .context("the test server's request log is not what this command reads")?;
    let gets: Vec<&Request> = requests.iter().filter(|request| request.operation == "get").collect();
    let sent: u64 = gets.iter().map(|get| get.sent).sum();
    let first = gets.iter().map(|get| get.start_ns).min().context("no object was asked for")?;
    let last = gets.iter().map(|get| get.end_ns).max().unwrap_or(first);
    let seconds = last.saturating_sub(first) as f64 / SECOND;
    Ok(format!(
        "the server answered {} requests, {} of them GETs: {:.1} MB sent for {:.1} MB stored, in {seconds:.2} s, {:.1} MB/s",
        requests.len(),
        gets.len(),
        megabytes(sent),
        megabytes(stored),
        megabytes(sent) / seconds,
    ))
}

#[cfg(test)]
mod tests {
    use super::summary;

    #[test]
    fn only_gets_count_as_data() {
        let line = |operation: &str, sent: u64, start: u64, end: u64| {
            format!(r#"{{"operation":"{operation}","sent":{sent},"start_ns":{start},"end_ns":{end},"id":1}}"#)
        };
        let log = [
            line("list", 700, 0, 1_000_000),
            line("get", 40_000_000, 2_000_000_000, 3_000_000_000),
            line("get", 60_000_000, 2_500_000_000, 4_000_000_000),
        ];
        assert_eq!(
            summary(&log.join("\n"), 100_000_000).unwrap(),
            "the server answered 3 requests, 2 of them GETs: 100.0 MB sent for 100.0 MB stored, in 2.00 s, 50.0 MB/s"
        );
        assert!(summary("", 1).is_err());
        assert!(summary("GET /x", 1).is_err());
    }
}

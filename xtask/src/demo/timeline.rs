//! Turns the log of a run into a short time line: what the agent did, when the first reader of each file
//! was held and let go, when each file and the whole model was complete, when the program spoke, and
//! everything that went wrong. Pure.

use jiff::Timestamp;

use super::run::Run;
use crate::agent_log::ALL_COMPLETE;

/// Events that get a line. The agent logs only the first hold of each file at this level.
const TOLD: [&str; 8] = [
    "objects listed",
    "gate chosen",
    "files visible",
    "command started",
    "reader held",
    "reader released",
    "file complete",
    ALL_COMPLETE,
];

/// The time line, one line an entry, in order of time.
pub(super) fn lines(run: &Run) -> Vec<String> {
    let mut entries = vec![(run.started, "agent started".to_owned())];
    let told = run.events.iter().filter(|event| event.is_bad() || TOLD.contains(&event.message.as_str()));
    entries.extend(told.map(|event| (event.timestamp, event.to_string())));
    entries.extend(run.words.iter().map(|(at, line)| (*at, line.clone())));
    // Stable: what was logged first stays first when the clock did not advance.
    entries.sort_by_key(|(at, _)| *at);
    entries.iter().map(|(at, text)| format!("{:>7.3} s  {text}", seconds(run.started, *at))).collect()
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::{Run, lines};
    use crate::agent_log::Event;

    #[test]
    fn a_run_becomes_a_short_ordered_list() {
        let event = |millis: u32, level: &str, message: &str| {
            Event::parse(&format!(
                r#"{{"timestamp":"2025-01-02T03:04:05.{millis:03}Z","level":"{level}","message":"{message}","path":"/a/b","target":"t"}}"#
            ))
            .unwrap()
        };
        let run = Run {
            started: "2025-01-02T03:04:05Z".parse().unwrap(),
            events: vec![
                event(10, "INFO", "objects listed"),
                event(20, "INFO", "reader held"),
                event(40, "INFO", "something else"),
                event(45, "WARN", "something bad"),
                event(50, "INFO", "reader released"),
                event(70, "INFO", "all files complete"),
            ],
            words: vec![("2025-01-02T03:04:05.065Z".parse().unwrap(), "Paris".to_owned())],
        };
        assert_eq!(
            lines(&run),
            [
                "  0.000 s  agent started",
                "  0.010 s  objects listed  path=b",
                "  0.020 s  reader held  path=b",
                "  0.045 s  something bad  path=b",
                "  0.050 s  reader released  path=b",
                "  0.065 s  Paris",
                "  0.070 s  all files complete  path=b",
            ]
        );
    }
}

//! Turns the log of a run into a short time line: what the agent did, when the first reader was held
//! and let go, when each file and the whole model was complete, and when the program spoke. Hundreds
//! of short holds in between become one line. Pure.

use jiff::Timestamp;

use super::run::Run;
use crate::agent_log::{ALL_COMPLETE, Event, FILE_COMPLETE, HELD, LISTED, RELEASED, VISIBLE};

/// Events that each get a line; of holds only the first does.
const TOLD: [&str; 4] = [LISTED, VISIBLE, FILE_COMPLETE, ALL_COMPLETE];

/// The time line, one line an entry, in order of time.
pub(super) fn lines(run: &Run) -> Vec<String> {
    let mut entries = vec![(run.started, "agent started".to_owned())];
    for message in [HELD, RELEASED] {
        let first = run.events.iter().find(|event| event.message() == message);
        entries.extend(first.map(|event| (event.timestamp, format!("first {}", told(event)))));
    }
    entries.extend(
        run.events
            .iter()
            .filter(|event| TOLD.contains(&event.message()))
            .map(|event| (event.timestamp, told(event))),
    );
    entries.extend(run.words.iter().map(|(at, line)| (*at, line.clone())));
    // Stable: what was logged first stays first when the clock did not advance.
    entries.sort_by_key(|(at, _)| *at);
    let mut lines: Vec<String> =
        entries.iter().map(|(at, text)| format!("{:>7.3} s  {text}", seconds(run.started, *at))).collect();
    lines.push(holds(&run.events));
    lines
}

fn told(event: &Event) -> String {
    let details = event.details().map(|(name, value)| format!("  {name}={value}"));
    std::iter::once(event.message().to_owned()).chain(details).collect()
}

fn holds(events: &[Event]) -> String {
    let count = |message| events.iter().filter(|event| event.message() == message).count();
    format!("readers were held {} times and released {} times in all", count(HELD), count(RELEASED))
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
        let event = |millis: u32, message: &str| {
            Event::parse(&format!(
                r#"{{"timestamp":"2025-01-02T03:04:05.{millis:03}Z","fields":{{"message":"{message}","n":{millis}}}}}"#
            ))
            .unwrap()
        };
        let run = Run {
            started: "2025-01-02T03:04:05Z".parse().unwrap(),
            events: vec![
                event(10, "objects listed"),
                event(20, "reader held"),
                event(30, "reader held"),
                event(40, "something else"),
                event(50, "reader released"),
                event(60, "reader released"),
                event(70, "all files complete"),
            ],
            words: vec![("2025-01-02T03:04:05.065Z".parse().unwrap(), "Paris".to_owned())],
        };
        assert_eq!(
            lines(&run),
            [
                "  0.000 s  agent started",
                "  0.010 s  objects listed  n=10",
                "  0.020 s  first reader held  n=20",
                "  0.050 s  first reader released  n=50",
                "  0.065 s  Paris",
                "  0.070 s  all files complete  n=70",
                "readers were held 2 times and released 2 times in all",
            ]
        );
    }
}

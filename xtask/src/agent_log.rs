//! Reads the agent's JSON log (`--log-format json`), one event a line as tracing-subscriber writes it:
//! `{"timestamp": "...", "level": "INFO", "fields": {"message": "...", ...}, ...}`. Lines that are no
//! such event belong to the program the agent runs, and are left to the caller.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};

/// The list of objects has arrived.
pub(crate) const LISTED: &str = "objects listed";
/// Every file is there under its name, gated.
pub(crate) const VISIBLE: &str = "files visible";
/// A reader asked for bytes that are not there yet.
pub(crate) const HELD: &str = "reader held";
/// Its bytes are there, or cannot be had.
pub(crate) const RELEASED: &str = "reader released";
/// One file is complete and verified.
pub(crate) const FILE_COMPLETE: &str = "file complete";
/// All are; the gate is gone.
pub(crate) const ALL_COMPLETE: &str = "all files complete";

/// One event.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Event {
    /// When it was logged.
    pub(crate) timestamp: Timestamp,
    /// `message` and the event's own fields.
    fields: Map<String, Value>,
}

impl Event {
    /// None when the line is no event.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok()
    }

    /// What happened.
    pub(crate) fn message(&self) -> &str {
        self.fields.get("message").and_then(Value::as_str).unwrap_or_default()
    }

    /// Everything but the message, as name and printable value.
    pub(crate) fn details(&self) -> impl Iterator<Item = (&str, String)> {
        self.fields.iter().filter(|(name, _)| *name != "message").map(|(name, value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            (name.as_str(), text)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Event;

    #[test]
    fn an_event_is_told_from_other_lines() {
        let event = Event::parse(
            r#"{"timestamp":"2025-01-02T03:04:05.678901Z","level":"INFO","fields":{"message":"file complete","file":"a b.gguf","bytes":12},"target":"ossc_agent::agent"}"#,
        )
        .unwrap();
        assert_eq!(event.message(), "file complete");
        assert_eq!(event.timestamp.as_microsecond(), 1_735_787_045_678_901);
        let details: Vec<_> = event.details().collect();
        assert_eq!(details, [("bytes", "12".to_owned()), ("file", "a b.gguf".to_owned())]);
        assert!(Event::parse("llama.cpp: loading").is_none());
        assert!(Event::parse("{\"text\": 1}").is_none());
    }
}

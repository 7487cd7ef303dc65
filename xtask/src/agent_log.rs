//! Reads the agent's JSON log (`--log-format json`), one event a line as tracing-subscriber writes it:
//! `{"timestamp": "...", "level": "INFO", "message": "...", "target": "...", ...}`, the event's own fields
//! beside these. Lines that are no such event belong to the program the agent runs, and are left to the caller.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

/// Every object of the model is complete and verified; the gate is gone.
pub(crate) const ALL_COMPLETE: &str = "all files complete";

/// How many bytes came from where; the last word on a load with peers.
pub(crate) const WHERE_FROM: &str = "where the bytes came from";

/// One event.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Event {
    /// When it was logged.
    pub(crate) timestamp: Timestamp,
    /// `INFO`, `WARN` and so on.
    level: String,
    /// What happened.
    pub(crate) message: String,
    /// Module that logged it.
    #[serde(rename = "target")]
    _target: String,
    /// The event's own fields, by name.
    #[serde(flatten)]
    fields: BTreeMap<String, Value>,
}

impl Event {
    /// None when the line is no event.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok()
    }

    /// Its fields that are whole numbers.
    pub(crate) fn counts(&self) -> Vec<(String, u64)> {
        let number = |(name, value): (&String, &Value)| Some((name.clone(), value.as_u64()?));
        self.fields.iter().filter_map(number).filter(|(name, _)| !name.starts_with("log.")).collect()
    }

    /// Whether it tells of trouble.
    pub(crate) fn is_bad(&self) -> bool {
        matches!(self.level.as_str(), "WARN" | "ERROR")
    }
}

/// The message and the event's own fields. Of a path only the last part is shown: all are below the
/// directory of one run.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        // `log.` marks where a line of the eBPF programs was written.
        for (name, value) in self.fields.iter().filter(|(name, _)| !name.starts_with("log.")) {
            match value.as_str() {
                Some(path) if path.starts_with('/') => {
                    write!(f, "  {name}={}", path.rsplit('/').next().unwrap_or(path))
                }
                Some(text) => write!(f, "  {name}={text}"),
                None => write!(f, "  {name}={value}"),
            }?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Event;

    #[test]
    fn an_event_is_told_from_other_lines() {
        let event = Event::parse(
            r#"{"timestamp":"2025-01-02T03:04:05.678901Z","level":"INFO","message":"file complete","file":"a b.gguf","bytes":12,"log.line":3,"target":"ossc_agent::agent"}"#,
        )
        .unwrap();
        assert_eq!(event.message, "file complete");
        assert!(!event.is_bad());
        assert_eq!(event.timestamp.as_microsecond(), 1_735_787_045_678_901);
        assert_eq!(event.to_string(), "file complete  bytes=12  file=a b.gguf");
        assert!(Event::parse("llama.cpp: loading").is_none());
        assert!(Event::parse("{\"text\": 1}").is_none());
    }
}

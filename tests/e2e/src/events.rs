//! The agent's log as it is written: collected line by line, waited for with a deadline.
//!
//! Driven by `agent`. A thread reads the pipe to its end, so that the agent never blocks on it; waiting tests are
//! woken by each line. A line that is no JSON (a panic, output of a COMMAND) is kept as text and never lost.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::Value;

/// One line of the log.
#[derive(Debug, Clone)]
pub struct Event {
    line: String,
    json: Option<Value>,
}

impl Event {
    fn parse(line: String) -> Self {
        let json = serde_json::from_str(&line).ok().filter(Value::is_object);
        Self { line, json }
    }

    /// A field of the event.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Value> {
        let json = self.json.as_ref()?;
        json.get(name).or_else(|| json.get("fields")?.get(name))
    }

    /// What happened; empty for a line that is no event.
    #[must_use]
    pub fn message(&self) -> &str {
        self.field("message").and_then(Value::as_str).unwrap_or_default()
    }

    /// The line as it was written.
    #[must_use]
    pub fn line(&self) -> &str {
        &self.line
    }
}

#[derive(Debug, Default)]
struct State {
    events: Vec<Event>,
    ended: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    grown: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All lines so far.
#[derive(Debug, Clone, Default)]
pub struct Events {
    shared: Arc<Shared>,
}

impl Events {
    /// Starts collecting. The thread ends with the pipe.
    pub fn collect(pipe: impl Read + Send + 'static) -> Self {
        let events = Self::default();
        let shared = Arc::clone(&events.shared);
        std::thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            // A pipe that fails has ended as well: there is no more to come.
            while pipe.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                let event = Event::parse(String::from_utf8_lossy(&line).trim_end().to_owned());
                shared.lock().events.push(event);
                shared.grown.notify_all();
                line.clear();
            }
            shared.lock().ended = true;
            shared.grown.notify_all();
        });
        events
    }

    /// Waits for the first event that `wanted` accepts, from the start of the log on; an error with the whole log
    /// when it ends, or `limit` passes, without one.
    pub fn wait_for(
        &self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Event) -> bool,
    ) -> anyhow::Result<Event> {
        let deadline = Instant::now() + limit;
        let mut state = self.shared.lock();
        let mut seen = 0;
        loop {
            if let Some(found) = state.events.iter().skip(seen).find(|event| wanted(event)) {
                return Ok(found.clone());
            }
            seen = state.events.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                let why = if state.ended { "the log ended" } else { "time is up" };
                let log = text(&state.events);
                bail!("no \"{what}\" in the agent's log: {why}. The log:\n{log}");
            }
            state = self.shared.grown.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the pipe has ended, and gives all events; what there is when `limit` passes.
    pub fn all(&self, limit: Duration) -> Vec<Event> {
        let state = self.shared.lock();
        let (state, _) = self
            .shared
            .grown
            .wait_timeout_while(state, limit, |state| !state.ended)
            .unwrap_or_else(PoisonError::into_inner);
        state.events.clone()
    }

    /// The events so far.
    #[must_use]
    pub fn so_far(&self) -> Vec<Event> {
        self.shared.lock().events.clone()
    }
}

/// The lines as they were written.
#[must_use]
pub fn text(events: &[Event]) -> String {
    events.iter().map(Event::line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Longer than any scheduling delay; only a failing test waits for it.
    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn events_are_found_as_they_come() {
        let (out, mut into) = std::io::pipe().unwrap();
        let events = Events::collect(out);
        writeln!(into, r#"{{"level":"INFO","message":"files visible","files":3}}"#).unwrap();
        let event = events.wait_for("", LIMIT, |event| event.message() == "files visible").unwrap();
        assert_eq!(event.field("files"), Some(&Value::from(3)));
        writeln!(into, r#"{{"fields":{{"message":"nested"}}}}"#).unwrap();
        events.wait_for("", LIMIT, |event| event.message() == "nested").unwrap();
        write!(into, "no event").unwrap();
        drop(into);
        let error = events.wait_for("complete", LIMIT, |event| event.message() == "complete").unwrap_err();
        assert!(error.to_string().contains("no event"), "{error}");
        assert_eq!(events.all(LIMIT).len(), 3);
    }
}

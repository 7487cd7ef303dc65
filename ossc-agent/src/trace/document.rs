//! What every format of a trace offers: a beginning, the lines as they come, an end. The loop in `run` drives
//! one of them; the formats know nothing of probes, threads of ours or where their bytes go.

use std::collections::HashMap;
use std::io::{self, Write};

use super::coalesce::Line;
use super::files::Traced;
use super::summary::Summary;
use super::threads::{Thread, Threads};
use super::{Format, html, json, perfetto, text, top};
use crate::base::{AccessKind, FileId};

/// What lines refer to.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) files: Vec<Traced>,
    /// Short names of the files, in the same order.
    pub(super) names: Vec<String>,
    pub(super) threads: Threads,
    /// When the trace began, as RFC 3339 says it, and by `CLOCK_MONOTONIC`.
    pub(super) started: String,
    pub(super) start_ns: u64,
}

/// One format.
pub(super) trait Document {
    /// Called once, before any line.
    fn begin(&mut self, scene: &Scene, out: &mut dyn Write) -> io::Result<()>;
    /// Called for each thread before its first line.
    fn thread(&mut self, thread: &Thread, out: &mut dyn Write) -> io::Result<()>;
    /// Called for each line, in the order of their first accesses.
    fn line(&mut self, scene: &Scene, line: &Line, out: &mut dyn Write) -> io::Result<()>;
    /// How things stand so far, for a document that is redrawn: called every now and then if `is_live`.
    fn stand(&mut self, _scene: &Scene, _summary: &Summary, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
    /// Whether it wants to know how things stand.
    fn is_live(&self) -> bool {
        false
    }
    /// Called once, after all lines.
    fn end(&mut self, scene: &Scene, summary: &Summary, out: &mut dyn Write) -> io::Result<()>;
}

/// The document of a format.
pub(super) fn of(format: Format, live: bool) -> Box<dyn Document> {
    match format {
        Format::Text if live => Box::new(top::Top::default()),
        Format::Text => Box::new(text::Text),
        Format::Json => Box::new(json::Json),
        Format::Perfetto => Box::new(perfetto::Perfetto::default()),
        Format::Html => Box::new(html::Html::new()),
    }
}

impl Scene {
    pub(super) fn new(files: Vec<Traced>, started: String, start_ns: u64) -> Self {
        Self { names: short_names(&files), files, threads: Threads::new(), started, start_ns }
    }

    /// The short name of a file.
    pub(super) fn name(&self, file: FileId) -> &str {
        self.names.get(file.index()).map_or("?", String::as_str)
    }
}

/// The word for a kind of access that every format uses.
pub(super) fn word(kind: AccessKind) -> &'static str {
    match kind {
        AccessKind::Open => "open",
        AccessKind::Map => "map",
        AccessKind::Remap => "remap",
        AccessKind::Unmap => "unmap",
        AccessKind::Read => "read",
        AccessKind::Fault => "fault",
    }
}

/// The last part of each path; the whole path where two files share that part.
fn short_names(files: &[Traced]) -> Vec<String> {
    let short = |file: &Traced| {
        file.path
            .file_name()
            .map_or_else(|| file.path.display().to_string(), |name| name.to_string_lossy().into())
    };
    let mut uses = HashMap::<String, usize>::new();
    files.iter().for_each(|file| *uses.entry(short(file)).or_default() += 1);
    let name = |file: &Traced| match short(file) {
        name if uses.get(&name) == Some(&1) => name,
        _ => file.path.display().to_string(),
    };
    files.iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_where_that_is_enough() {
        let files = ["/m/a/x.gguf", "/m/b/x.gguf", "/m/b/y"];
        let files = files.map(|path| Traced { path: path.into(), size: 1 });
        assert_eq!(short_names(&files), ["/m/a/x.gguf", "/m/b/x.gguf", "y"]);
    }
}

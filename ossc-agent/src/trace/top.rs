//! The trace as a table that is redrawn on a terminal while it runs: a line for each of the files touched last. At the
//! end it stays, and the summary follows. `cli` sees to it that there is a terminal; elsewhere there are lines.

use std::cmp::Reverse;
use std::io::{self, Write};

use super::coalesce::Line;
use super::document::{Document, Scene};
use super::summary::{FileSummary, Summary};
use super::text::{order, seconds, share, write_summary};
use super::threads::Thread;
use crate::base::Bytes;

/// Files shown: with the two lines above, what the smallest common terminal has room for.
const FILES_MAX: usize = 20;
/// Everything from here on is cleared.
const CLEAR: &str = "\x1b[J";
/// A line that is too long ends at the edge, so that a file has one line (DECAWM, xterm's control sequences).
const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";

/// The table.
#[derive(Debug, Default)]
pub(super) struct Top {
    /// Lines that were drawn last.
    lines: usize,
}

impl Top {
    fn draw(&mut self, scene: &Scene, summary: &Summary, out: &mut dyn Write) -> io::Result<()> {
        if self.lines > 0 {
            write!(out, "\x1b[{}A\r{CLEAR}", self.lines)?;
        }
        let table = table(scene, summary);
        self.lines = table.lines().count();
        write!(out, "{NO_WRAP}{table}{WRAP}")
    }
}

impl Document for Top {
    fn begin(&mut self, _scene: &Scene, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    fn thread(&mut self, _thread: &Thread, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    fn line(&mut self, _scene: &Scene, _line: &Line, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    fn is_live(&self) -> bool {
        true
    }

    fn stand(&mut self, scene: &Scene, summary: &Summary, out: &mut dyn Write) -> io::Result<()> {
        self.draw(scene, summary, out)
    }

    fn end(&mut self, scene: &Scene, summary: &Summary, out: &mut dyn Write) -> io::Result<()> {
        self.draw(scene, summary, out)?;
        write_summary(scene, summary, out)
    }
}

fn table(scene: &Scene, summary: &Summary) -> String {
    let mut files: Vec<(&String, &FileSummary)> = scene.names.iter().zip(&summary.files).collect();
    files.retain(|(_, file)| file.first_ns.is_some());
    let touched = files.len();
    files.sort_by_key(|(_, file)| Reverse(file.last_ns));
    files.truncate(FILES_MAX);
    let mut text = format!(
        "{} s  {touched} of {} files, {} accesses, {} lost\n\
         {:<32} {:>10} {:>8} {:>9} {:>9} {:>4} {:>10} {:>11}  ORDER\n",
        seconds(summary.duration_ns),
        summary.files.len(),
        summary.accesses,
        summary.dropped,
        "FILE",
        "SIZE",
        "TOUCHED",
        "READS",
        "FAULTS",
        "THR",
        "HELD, s",
        "LAST, s",
    );
    for (name, file) in files {
        let last = seconds(file.last_ns.unwrap_or(0));
        text += &format!(
            "{:<32} {:>10} {:>8} {:>9} {:>9} {:>4} {:>10} {last:>11}  {}\n",
            end_of(name),
            Bytes(file.size).to_string(),
            share(file.touched, file.size),
            file.reads,
            file.faults,
            file.threads,
            if file.stalls > 0 { seconds(file.stalled_ns) } else { "-".to_owned() },
            order(file),
        );
    }
    text
}

/// The end of a name that has no room: shards differ there.
fn end_of(name: &str) -> String {
    let length = name.chars().count();
    name.chars().skip(length.saturating_sub(32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Access, AccessKind, ByteRange, FileId};
    use crate::trace::files::Traced;
    use crate::trace::recorder::Recorder;

    #[test]
    fn it_is_drawn_over_itself_with_the_last_touched_first() {
        let files: Vec<_> =
            (0..30).map(|n| Traced { path: format!("/m/shard-{n:02}").into(), size: 1000 }).collect();
        let mut recorder = Recorder::new(&files, |pid, tid| Thread {
            pid,
            tid,
            process: String::new(),
            name: String::new(),
        });
        recorder.begin(0);
        let scene = Scene::new(files, "now".into(), 0);
        let (mut top, mut out) = (Top::default(), Vec::new());
        for n in 0..25_u32 {
            let (range, kind) = (ByteRange::new(0, 500), AccessKind::Read);
            recorder.record(Access { file: FileId(n), range, kind, pid: 1, tid: 1, at_ns: n.into() });
        }
        top.stand(&scene, &recorder.summary(), &mut out).unwrap();
        let first = String::from_utf8(std::mem::take(&mut out)).unwrap();
        assert!(!first.contains("\x1b[J") && first.contains("25 of 30 files"), "{first}");
        let lines: Vec<_> = first.lines().collect();
        assert_eq!(lines.len(), 2 + FILES_MAX + 1, "with what ends the last one");
        assert!(lines[2].starts_with("shard-24") && lines[2].contains("50.0 %"), "{first}");
        top.stand(&scene, &recorder.summary(), &mut out).unwrap();
        assert!(out.starts_with(b"\x1b[22A\r\x1b[J"));
    }
}

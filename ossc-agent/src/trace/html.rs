//! The trace as one page: a picture of offset against time for each file, with all it needs inside, so that it can
//! be sent and opened anywhere. The page (`html/page.html`) draws; here it is given its data, as JSON.
//!
//! The page is written at the end, from a [`Picture`] that stays small however long the trace was.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Value, json};

use super::coalesce::Line;
use super::document::{Document, Scene};
use super::picture::{Mark, Picture};
use super::summary::Summary;
use super::text::order;
use super::threads::Thread;
use crate::base::{AccessKind, coloured};

const PAGE: &str = include_str!("html/page.html");
/// Where the data goes in the page.
const DATA: &str = "\"DATA\"";
/// Kinds by the number that marks have; what is only mapped comes before what is touched.
const KINDS: [AccessKind; 6] = [
    AccessKind::Open,
    AccessKind::Unmap,
    AccessKind::Remap,
    AccessKind::Map,
    AccessKind::Read,
    AccessKind::Fault,
];

const NS_PER_US: u64 = 1000;
const NS_PER_MS: u64 = 1_000_000;

/// One page.
#[derive(Debug)]
pub(super) struct Html {
    picture: Picture,
}

/// A file as the page shows it.
#[derive(Serialize)]
struct File<'a> {
    name: &'a str,
    path: String,
    size: u64,
    touched: u64,
    reads: u64,
    faults: u64,
    opens: u64,
    maps: u64,
    threads: usize,
    order: String,
    /// For each mark: microseconds since the mark before began, microseconds it took, start, length, number of the
    /// thread, number of the kind, accesses, whether it is a sweep. Flat, for it is most of the page.
    marks: Vec<u64>,
}

impl Html {
    pub(super) fn new() -> Self {
        Self { picture: Picture::new(Vec::new()) }
    }
}

impl Document for Html {
    fn begin(&mut self, scene: &Scene, _out: &mut dyn Write) -> io::Result<()> {
        self.picture = Picture::new(scene.files.iter().map(|file| file.size).collect());
        Ok(())
    }

    fn thread(&mut self, _thread: &Thread, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    fn line(&mut self, _scene: &Scene, line: &Line, _out: &mut dyn Write) -> io::Result<()> {
        self.picture.add(line);
        Ok(())
    }

    fn end(&mut self, scene: &Scene, summary: &Summary, out: &mut dyn Write) -> io::Result<()> {
        // A name that closes the script element would end the data; JSON may write this character otherwise.
        let data = data(&mut self.picture, scene, summary).to_string().replace('<', "\\u003c");
        let page = coloured(PAGE);
        let (before, after) = page.split_once(DATA).unwrap_or((&page, ""));
        [before, &data, after].iter().try_for_each(|part| out.write_all(part.as_bytes()))
    }
}

fn data(picture: &mut Picture, scene: &Scene, summary: &Summary) -> Value {
    let places: BTreeMap<u32, u64> = scene.threads.keys().copied().zip(0..).collect();
    let mut notes: Vec<_> =
        summary.blind_spots.iter().map(|spot| format!("This machine does not show {spot}.")).collect();
    if summary.dropped > 0 {
        notes.push(format!("{} records were lost.", summary.dropped));
    }
    if picture.bin_ns() > 0 {
        let ms = (picture.bin_ns() / NS_PER_MS).max(1);
        notes.push(format!("Accesses near each other within {ms} ms are drawn together."));
    }
    let mut marks: Vec<Vec<u64>> = vec![Vec::new(); scene.files.len()];
    let mut before = vec![0; scene.files.len()];
    for mark in picture.marks() {
        let place = mark.line.file.index();
        if let (Some(marks), Some(before)) = (marks.get_mut(place), before.get_mut(place)) {
            marks.extend(numbers(mark, before, places.get(&mark.line.tid).copied().unwrap_or(0)));
        }
    }
    let files = scene.files.iter().zip(&scene.names).zip(&summary.files).zip(marks);
    let files: Vec<_> = files
        .map(|(((file, name), counts), marks)| File {
            name,
            path: file.path.display().to_string(),
            size: file.size,
            touched: counts.touched,
            reads: counts.reads,
            faults: counts.faults,
            opens: counts.opens,
            maps: counts.maps,
            threads: counts.threads,
            order: order(counts),
            marks,
        })
        .collect();
    let threads: Vec<_> = scene
        .threads
        .values()
        .map(|thread| json!([thread.pid, thread.tid, thread.process, thread.name]))
        .collect();
    json!({
        "started": scene.started,
        "duration_us": summary.duration_ns / NS_PER_US,
        "accesses": summary.accesses,
        "processes": summary.processes,
        "notes": notes,
        "kinds": KINDS.map(super::document::word),
        "threads": threads,
        "files": files,
    })
}

fn numbers(mark: &Mark, before_us: &mut u64, thread: u64) -> [u64; 8] {
    let Mark { line, is_sweep } = mark;
    let first_us = line.first_ns / NS_PER_US;
    let since = first_us.saturating_sub(std::mem::replace(before_us, first_us));
    let took = (line.last_ns / NS_PER_US).saturating_sub(first_us);
    let kind = KINDS.iter().zip(0..).find(|(kind, _)| **kind == line.kind).map_or(0, |(_, number)| number);
    let (start, length) = (line.range.start(), line.range.len());
    [since, took, start, length, thread, kind, line.count, u64::from(*is_sweep)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Access, ByteRange, FileId};
    use crate::trace::files::Traced;
    use crate::trace::recorder::Recorder;

    fn nobody(pid: u32, tid: u32) -> Thread {
        Thread { pid, tid, process: "llama-server".into(), name: "worker".into() }
    }

    /// The page of a trace of these files.
    fn page(files: Vec<Traced>, accesses: impl Iterator<Item = Access>) -> String {
        let mut recorder = Recorder::new(&files, nobody);
        recorder.begin(0);
        let mut scene = Scene::new(files, "2026-01-01T00:00:00Z".into(), 0);
        let (mut document, mut out) = (Html::new(), Vec::new());
        document.begin(&scene, &mut out).unwrap();
        let mut write = |batch: crate::trace::recorder::Batch| {
            scene.threads.extend(batch.threads.into_iter().map(|thread| (thread.tid, thread)));
            batch.lines.iter().for_each(|line| document.line(&scene, line, &mut Vec::new()).unwrap());
        };
        let mut duration_ns = 0;
        for access in accesses {
            duration_ns = access.at_ns;
            recorder.record(access);
            write(recorder.take(access.at_ns));
        }
        write(recorder.finish());
        let summary = Summary { duration_ns, ..recorder.summary() };
        document.end(&scene, &summary, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn data_of(page: &str) -> Value {
        let (_, rest) = page.split_once("<script type=\"application/json\" id=\"data\">").unwrap();
        serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
    }

    #[test]
    fn the_page_holds_the_marks_and_no_name_can_end_its_data() {
        let name = "/m/</script><script>alert(1)";
        let access = |start, at_ns| Access {
            file: FileId(0),
            range: ByteRange::new(start, start + 10),
            kind: AccessKind::Read,
            pid: 7,
            tid: 8,
            at_ns,
        };
        let files = vec![Traced { path: name.into(), size: 1000 }];
        let data = data_of(&page(files, [access(0, 1000), access(10, 3000), access(500, 9000)].into_iter()));
        assert_eq!(data["files"][0]["path"], name);
        let expected = [1, 2, 0, 20, 0, 4, 2, 1, 8, 0, 500, 10, 0, 4, 1, 1];
        assert_eq!(data["files"][0]["marks"], json!(expected));
        assert_eq!(data["threads"], json!([[7, 8, "llama-server", "worker"]]));
    }

    #[test]
    fn the_page_of_a_huge_model_is_small() {
        const PIECE: u64 = 4 << 20;
        let size = 44_u64 << 30;
        let names = (1..=15).map(|n| format!("/m/model-{n:05}-of-00015.gguf"));
        let files: Vec<_> = names.map(|name| Traced { path: name.into(), size }).collect();
        let per_file = size / PIECE;
        let page = page(
            files,
            (0..15 * per_file).map(|n| Access {
                file: FileId(u32::try_from(n / per_file).unwrap()),
                range: ByteRange::new(n % per_file * PIECE, (n % per_file + 1) * PIECE),
                kind: AccessKind::Read,
                pid: 7,
                tid: u32::try_from(n % 16).unwrap(),
                at_ns: n * 4_000_000,
            }),
        );
        assert!(page.len() < 2 << 20 && page.contains("--s7: #"), "{} bytes", page.len());
        let marks = data_of(&page)["files"][14]["marks"].as_array().unwrap().len() / 8;
        assert!(marks > 100, "{marks}");
    }
}

//! The trace from start to end: probes first, then the command, then a loop that writes what has been seen
//! until a signal, the command's end or the end of the duration. The probes end before the last line is
//! written, so nothing that was seen is missing.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, sleep};

use super::document::{self, Document, Scene};
use super::files::{self, Traced};
use super::recorder::{Batch, Recorder};
use super::summary::Summary;
use super::{Config, Error, Outcome, text, threads};
use crate::bpf::{self, Gates, Probes, Seen};
use crate::sys::process::monotonic_ns;
use crate::sys::signals::Signals;
use crate::sys::{self, command::Command};

/// Between two looks at what has been seen: lines feel live at this pace.
const TICK: Duration = Duration::from_millis(100);

/// Between two drawings of the table: what people can follow.
const REDRAW: Duration = Duration::from_millis(500);

/// Traces until the end in the sense of the config. `stdout` gets the document, or the summary when the document
/// goes to a file; `stderr` gets the summary when the document on `stdout` is not for people.
///
/// # Errors
/// The trace cannot begin, or its document cannot be written. A command that was started is then left alone.
pub fn run(config: &Config, stdout: &mut dyn Write, stderr: &mut dyn Write) -> Result<Outcome, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(sys::Error::when("start the event loop"))?;
    runtime.block_on(trace(config, stdout, stderr))
}

async fn trace<'a>(
    config: &Config,
    stdout: &'a mut dyn Write,
    stderr: &'a mut dyn Write,
) -> Result<Outcome, Error> {
    let files = files::collect(&config.paths)?;
    let mut file = match &config.output {
        Some(path) => Some(BufWriter::new(
            File::create(path).map_err(|source| Error::Output { path: path.clone(), source })?,
        )),
        None => None,
    };
    let mut signals = Signals::take().map_err(sys::Error::when("receive signals"))?;
    let recorder = Arc::new(Mutex::new(Recorder::new(&files, threads::look_up)));
    let probes = start_probes(config, &files, &recorder)?;
    // Attaching the programs took the kernel some hundred milliseconds that belong to nobody's trace.
    let (start_ns, started) = (monotonic_ns(), jiff::Timestamp::now().to_string());
    lock(&recorder).begin(start_ns);
    let blind_spots = blind_spots(&probes);
    let mut writer = Writer {
        document: document::of(config.format, config.top),
        scene: Scene::new(files, started, start_ns),
        out: match &mut file {
            Some(file) => file,
            None => &mut *stdout,
        },
    };
    let failed = |source| {
        let path = config.output.clone().unwrap_or_else(|| "-".into());
        Error::Output { path, source }
    };
    writer.begin().map_err(failed)?;
    let mut command = Command::start(&config.command, &[], |pid| {
        if let Err(error) = probes.add_pid(pid) {
            tracing::warn!(pid, error = &error as &dyn std::error::Error, "command not traced");
        }
    })
    .map_err(|source| {
        let program = config.command.first().map(|word| word.to_string_lossy().into_owned());
        Error::Command { program: program.unwrap_or_default(), source }
    })?;
    let stand = || Summary {
        duration_ns: monotonic_ns().saturating_sub(start_ns),
        dropped: probes.dropped(),
        ..lock(&recorder).summary()
    };
    let watched = watch(config, &mut signals, command.as_mut(), (&recorder, &stand), &mut writer).await;
    let duration_ns = monotonic_ns().saturating_sub(start_ns);
    let dropped = probes.dropped();
    // The recorder has seen everything when this returns.
    drop(probes);
    let watched = watched.and_then(|stop| {
        writer.write(&lock(&recorder).finish())?;
        Ok(stop)
    });
    let summary = Summary { duration_ns, dropped, blind_spots, ..lock(&recorder).summary() };
    let stop = watched.and_then(|stop| writer.end(&summary).map(|()| stop));
    let scene = writer.scene;
    let stop = match stop {
        // Whoever read the document has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Stop::Asked,
        other => other.map_err(failed)?,
    };
    let elsewhere = match (&config.output, config.format) {
        (Some(_), _) => Some(stdout),
        (None, super::Format::Text) => None,
        (None, _) => Some(stderr),
    };
    if let Some(out) = elsewhere
        && let Err(error) = text::write_summary(&scene, &summary, out).and_then(|()| out.flush())
    {
        tracing::debug!(%error, "nobody takes the summary");
    }
    match (stop, command) {
        (Stop::CommandExited(status), _) => Ok(Outcome::CommandExited(status)),
        // Not traced any more, but still ours: it gets the signals, and its status is ours.
        (Stop::Asked, Some(mut command)) => {
            Ok(Outcome::CommandExited(accompany(&mut signals, &mut command).await))
        }
        (Stop::Asked, None) => Ok(Outcome::Ended),
    }
}

/// Why the loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    Asked,
    CommandExited(u8),
}

/// Writes what is seen until the end.
async fn watch(
    config: &Config,
    signals: &mut Signals,
    mut command: Option<&mut Command>,
    (recorder, stand): (&Mutex<Recorder>, &dyn Fn() -> Summary),
    writer: &mut Writer<'_>,
) -> io::Result<Stop> {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut redraw = interval(REDRAW);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let over = async {
        match config.duration {
            Some(duration) => sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(over);
    loop {
        tokio::select! {
            biased;
            caught = signals.next() => match &command {
                Some(command) => command.forward(caught.0),
                None if caught.ends_agent() => return Ok(Stop::Asked),
                None => {}
            },
            status = ended(command.as_deref_mut()) => return Ok(Stop::CommandExited(status)),
            () = &mut over => return Ok(Stop::Asked),
            _ = tick.tick() => {
                let batch = lock(recorder).take(monotonic_ns());
                writer.write(&batch)?;
            }
            _ = redraw.tick(), if writer.document.is_live() => {
                writer.document.stand(&writer.scene, &stand(), writer.out)?;
                writer.out.flush()?;
            }
        }
    }
}

/// The command's end, or never if there is none.
async fn ended(command: Option<&mut Command>) -> u8 {
    match command {
        Some(command) => command.ended().await,
        None => std::future::pending().await,
    }
}

/// Waits for the command's end and passes signals on to it.
async fn accompany(signals: &mut Signals, command: &mut Command) -> u8 {
    loop {
        tokio::select! {
            biased;
            caught = signals.next() => command.forward(caught.0),
            status = command.ended() => return status,
        }
    }
}

fn start_probes(config: &Config, files: &[Traced], recorder: &Arc<Mutex<Recorder>>) -> Result<Probes, Error> {
    let everybody = config.pids.is_empty() && config.cgroups.is_empty() && config.command.is_empty();
    let targets = if everybody {
        bpf::Targets::Everybody
    } else {
        bpf::Targets::Chosen { pids: config.pids.clone(), cgroups: config.cgroups.clone() }
    };
    let recorder = Arc::clone(recorder);
    let sink = move |seen| match seen {
        Seen::Access(access) => lock(&recorder).record(access),
        Seen::Stall(stall) => lock(&recorder).stalled(&stall),
    };
    let handles = files.iter().map(Traced::handle).collect::<Result<Vec<_>, _>>()?;
    let (reads, faults) = (config.reads, config.faults);
    let stalls = Gates::find().hold_any(&handles);
    let probes = Probes::start(&bpf::Config { targets, reads, faults, mappings: true, stalls }, sink)?;
    if probes.summary().attached.is_empty() {
        let why = probes.summary().missing.first().map(|missing| missing.why.clone());
        return Err(Error::Blind { why: why.unwrap_or_default() });
    }
    for (place, handle) in handles.iter().enumerate() {
        probes.watch(handle, Traced::id(place))?;
    }
    probes.find_mappings();
    Ok(probes)
}

/// A sentence for each thing this machine does not show.
fn blind_spots(probes: &Probes) -> Vec<String> {
    let missing = &probes.summary().missing;
    missing
        .iter()
        .map(|missing| format!("{} ({}: {})", missing.consequence, missing.what, missing.why))
        .collect()
}

/// The document with the scene it needs and where it goes.
struct Writer<'a> {
    document: Box<dyn Document>,
    scene: Scene,
    out: &'a mut dyn Write,
}

impl Writer<'_> {
    fn begin(&mut self) -> io::Result<()> {
        self.document.begin(&self.scene, self.out)?;
        self.out.flush()
    }

    fn write(&mut self, batch: &Batch) -> io::Result<()> {
        for thread in &batch.threads {
            self.scene.threads.insert(thread.tid, thread.clone());
            self.document.thread(thread, self.out)?;
        }
        for line in &batch.lines {
            self.document.line(&self.scene, line, self.out)?;
        }
        self.out.flush()
    }

    fn end(&mut self, summary: &Summary) -> io::Result<()> {
        self.document.end(&self.scene, summary, self.out)?;
        self.out.flush()
    }
}

/// A panic while the lock was held leaves counts that are at worst short of an access.
fn lock(recorder: &Mutex<Recorder>) -> MutexGuard<'_, Recorder> {
    recorder.lock().unwrap_or_else(PoisonError::into_inner)
}

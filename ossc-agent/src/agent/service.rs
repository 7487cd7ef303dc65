//! The agent as a service of a service manager: what it is told of the progress, and the copies of what holds readers
//! that it keeps for a time when agent and keeper are dead. Driven by `load` and `guard`; how it is said is in
//! `systemd`.
//!
//! Names of what is kept: `ossc-group-DEV-INO` with the numbers of the model directory, `ossc-record`, and
//! `ossc-file-DEV-INO` for each incomplete file, and `ossc-stop-N-of-COUNT` for what keeps the stop gate's programs at
//! work. Group, record and programs are what keeps readers held; a file that is missing,
//! because the manager keeps only so many, is opened again.

use std::fs;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::pin::pin;
use std::time::{Duration, Instant};

use crate::base::Bytes;
use crate::keeper::Passed;
use crate::status::Progress;
use crate::store::{File, Inode, Store};
use crate::sys::process;
use crate::systemd;

const GROUP: &str = "ossc-group";
const RECORD: &str = "ossc-record";
const FILE: &str = "ossc-file";
const STOP: &str = "ossc-stop";

/// Between two status lines for the manager.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// A sign of life comes so many times in the time after which the manager takes silence for death.
const SIGNS: u32 = 3;
/// While the agent starts, the manager is asked so often for so much more time: a listing of a large model, and the
/// retries of one, may take minutes.
const EXTEND_EVERY: Duration = Duration::from_secs(10);
const EXTENSION: Duration = Duration::from_secs(60);
/// A stop takes the drain time and what the disk needs for the ready files.
const STOP_WITHIN: Duration = Duration::from_secs(60);

/// Descriptors that the manager gave to this process.
#[derive(Debug)]
pub struct Given(io::Result<Option<(String, Passed)>>);

impl Given {
    /// Takes them. To be called before anything else opens descriptors.
    #[must_use]
    pub fn take() -> Self {
        Self(take())
    }

    /// Those that are about this model directory. Others stay open for as long as this process lives, and with the
    /// manager: readers stay held, which is the safe side.
    pub(super) fn of(self, model_dir: &Path) -> Option<Passed> {
        match self.0 {
            Ok(None) => None,
            Ok(Some((name, passed))) if group_name(model_dir).is_ok_and(|ours| ours == name) => {
                tracing::info!(files = passed.files.len(), "the service manager kept what holds readers");
                Some(passed)
            }
            Ok(Some((name, passed))) => {
                tracing::error!(
                    name,
                    "the service manager kept readers of another model directory, who stay held: start an agent for \
                     that directory in this unit once more, or stop the unit"
                );
                std::mem::forget(passed);
                None
            }
            Err(error) => {
                tracing::error!(%error, "what the service manager kept cannot be used");
                None
            }
        }
    }
}

fn take() -> io::Result<Option<(String, Passed)>> {
    let (numbers, names): (Vec<_>, Vec<_>) = systemd::given()?.into_iter().unzip();
    let (mut group, mut record, mut files, mut stops) = (None, None, Vec::new(), Vec::new());
    for (fd, name) in process::take_given(&numbers)?.into_iter().zip(names) {
        match name.as_str() {
            RECORD => record = Some(fd),
            name if name.starts_with(GROUP) => group = Some((name.to_owned(), fd)),
            name if name.starts_with(FILE) => files.push(fd),
            name if name.starts_with(STOP) => stops.push((name.to_owned(), fd)),
            // A socket of a unit beside this one: not ours.
            _ => {}
        }
    }
    let (Some((name, group)), Some(record)) = (group, record) else { return Ok(None) };
    let stops = in_order(stops);
    Ok(Some((name, Passed { group, record, stops, files }.out_of_the_way()?)))
}

/// All of what keeps the programs at work, or nothing: a part of it is worth nothing.
fn in_order(stops: Vec<(String, OwnedFd)>) -> Vec<OwnedFd> {
    let found = stops.len();
    let place = |(name, _): &(String, OwnedFd)| (0..found).find(|at| *name == stop_name(*at, found));
    let mut places: Vec<_> = stops.into_iter().filter_map(|stop| Some((place(&stop)?, stop.1))).collect();
    places.sort_by_key(|(place, _)| *place);
    if places.len() < found {
        tracing::error!("the service manager kept only a part of the stop gate; are its copies limited?");
        places.clear();
    }
    places.into_iter().map(|(_, fd)| fd).collect()
}

/// What the manager has copies of.
#[derive(Debug)]
pub(super) struct Kept {
    /// What it knows the group by; none where it cannot be told.
    name: Option<String>,
    /// Group and record, while it has them, and to give them to it again.
    is_kept: bool,
    descriptors: Option<(OwnedFd, OwnedFd)>,
    /// How many descriptors of the stop gate's programs.
    stops: usize,
}

/// Has the manager keep what holds readers: before any file is marked.
pub(super) fn keep(
    model_dir: &Path,
    (group, record): (BorrowedFd<'_>, BorrowedFd<'_>),
    stops: &[BorrowedFd<'_>],
    store: &Store,
) -> Kept {
    let own = || io::Result::Ok((group.try_clone_to_owned()?, record.try_clone_to_owned()?));
    let (name, descriptors) = match group_name(model_dir).and_then(|name| Ok((name, own()?))) {
        Ok((name, descriptors)) => (Some(name), Some(descriptors)),
        Err(error) => {
            tracing::warn!(%error, "the service manager has no copy of what holds readers");
            (None, None)
        }
    };
    let mut kept = Kept { name, is_kept: false, descriptors, stops: 0 };
    kept.keep_group();
    if kept.is_kept {
        // Before the files, of which one that is missing is opened again.
        for (place, fd) in stops.iter().enumerate() {
            systemd::keep(&stop_name(place, stops.len()), *fd);
        }
        kept.stops = stops.len();
    }
    store.files().iter().filter(|file| !file.is_complete()).for_each(|file| kept.hold(file));
    kept
}

impl Kept {
    fn keep_group(&mut self) {
        if let (Some(name), Some((group, record)), false) = (&self.name, &self.descriptors, self.is_kept) {
            systemd::keep(name, group.as_fd());
            systemd::keep(RECORD, record.as_fd());
            self.is_kept = true;
        }
    }

    /// A file is not complete, or about to be emptied.
    pub(super) fn hold(&mut self, file: &File) {
        self.keep_group();
        if self.is_kept {
            systemd::keep(&file_name(file.inode()), file.fd());
        }
    }

    /// A file is complete.
    pub(super) fn release(&self, inode: Inode) {
        systemd::forget(&file_name(inode));
    }

    /// Nobody can be stopped any more.
    pub(super) fn release_stops(&mut self) {
        let stops = std::mem::take(&mut self.stops);
        (0..stops).for_each(|place| systemd::forget(&stop_name(place, stops)));
    }

    /// Nobody can be held any more.
    pub(super) fn release_group(&mut self) {
        if let Some(name) = self.name.as_ref().filter(|_| std::mem::take(&mut self.is_kept)) {
            systemd::forget(name);
            systemd::forget(RECORD);
        }
    }
}

fn group_name(model_dir: &Path) -> io::Result<String> {
    let about = fs::metadata(model_dir)?;
    Ok(format!("{GROUP}-{}-{}", about.dev(), about.ino()))
}

fn stop_name(place: usize, of: usize) -> String {
    format!("{STOP}-{place}-of-{of}")
}

fn file_name(inode: Inode) -> String {
    format!("{FILE}-{}-{}", inode.dev, inode.ino)
}

/// Waits for a start, and asks for time meanwhile.
pub(super) async fn while_starting<T>(start: impl Future<Output = T>) -> T {
    let mut start = pin!(start);
    let mut extend = tokio::time::interval(EXTEND_EVERY);
    loop {
        tokio::select! {
            biased;
            done = &mut start => return done,
            _ = extend.tick() => systemd::extend(EXTENSION),
        }
    }
}

/// What the manager hears regularly.
#[derive(Debug)]
pub(super) struct Service {
    /// Between two signs of life, if any are wanted.
    sign_every: Option<Duration>,
    last_sign: Instant,
    last_status: Instant,
    status: String,
}

impl Service {
    /// The files are visible, and their readers are held.
    pub(super) fn ready(progress: &Progress) -> Self {
        let status = describe(progress);
        systemd::ready(&status);
        let (now, sign_every) = (Instant::now(), systemd::watchdog().map(|silence| silence / SIGNS));
        Self { sign_every, last_sign: now, last_status: now, status }
    }

    /// Says what is due. The loop calls it several times a second; that it does is the sign of life.
    pub(super) fn tick(&mut self, progress: &Progress) {
        let now = Instant::now();
        if self.sign_every.is_some_and(|every| now.duration_since(self.last_sign) >= every) {
            self.last_sign = now;
            systemd::alive();
        }
        if now.duration_since(self.last_status) >= STATUS_EVERY {
            self.last_status = now;
            let status = describe(progress);
            if status != self.status {
                systemd::status(&status);
                self.status = status;
            }
        }
    }

    /// The agent is about to end.
    pub(super) fn stopping() {
        systemd::stopping(STOP_WITHIN);
    }
}

fn describe(progress: &Progress) -> String {
    let Progress { ready, total, files_complete, files_evicted, files, held, .. } = *progress;
    if files_complete + files_evicted == files {
        let evicted = if files_evicted > 0 { format!(", {files_evicted} evicted") } else { String::new() };
        return format!("complete: {files} files, {}{evicted}", Bytes(total));
    }
    let percent = ready.saturating_mul(100).checked_div(total).unwrap_or(100);
    let (ready, total) = (Bytes(ready), Bytes(total));
    format!(
        "loading: {ready} of {total} ({percent} %), {files_complete} of {files} files, {held} readers waiting"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_for_people() {
        let progress = Progress {
            ready: 512 << 20,
            total: 2 << 30,
            files_complete: 1,
            files: 3,
            held: 4,
            ..Progress::default()
        };
        let text = "loading: 512.0 MiB of 2.0 GiB (25 %), 1 of 3 files, 4 readers waiting";
        assert_eq!(describe(&progress), text);
        let done = Progress { ready: 2 << 30, files_complete: 3, held: 0, ..progress };
        assert_eq!(describe(&done), "complete: 3 files, 2.0 GiB");
        let evicted = Progress { files_complete: 2, files_evicted: 1, ..done };
        assert_eq!(describe(&evicted), "complete: 3 files, 2.0 GiB, 1 evicted");
        let empty = Progress { total: 0, ready: 0, ..progress };
        assert!(describe(&empty).contains("(100 %)"));
    }
}

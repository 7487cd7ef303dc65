//! The files that an agent appends lines to, log and audit log, through rotations: reopened on SIGHUP from the moment
//! the agent starts, which without that would end by it. Driven by `agent::run`. A COMMAND gets the signal besides,
//! from the loop of `load`.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::Error;
use crate::config::Config;
use crate::oss;
use crate::sys::{self, log_file::LogFile};

/// How long the end of a run waits for the last lines of the audit log to be written, and for the last spans to be sent.
pub(super) const LAST_LINES: Duration = Duration::from_secs(2);

/// The files of a run.
pub(super) struct Rotation {
    files: Vec<Arc<LogFile>>,
    audit: Option<oss::Audit>,
}

impl Rotation {
    /// Opens the audit log, if there is to be one.
    pub(super) fn begin(config: &Config, log: Option<Arc<LogFile>>) -> Result<Self, Error> {
        let mut files: Vec<_> = log.into_iter().collect();
        let mut audit = None;
        if let Some(path) = &config.audit_path {
            let open = LogFile::open(path);
            let file = Arc::new(open.map_err(|source| Error::Audit { path: path.clone(), source })?);
            files.push(Arc::clone(&file));
            let started =
                oss::Audit::start(file).map_err(sys::Error::when("start the audit log's thread"))?;
            audit = Some(started);
        }
        Ok(Self { files, audit })
    }

    /// Where requests leave their lines.
    pub(super) fn audit(&self) -> Option<oss::Audit> {
        self.audit.clone()
    }

    /// Reopens the files at each SIGHUP from now on, off the loop's thread. To be called in the runtime.
    pub(super) fn reopen_on_hangup(&self) -> Result<(), Error> {
        let mut hangups = signal(SignalKind::hangup()).map_err(sys::Error::when("receive SIGHUP"))?;
        let files = self.files.clone();
        tokio::spawn(async move {
            while hangups.recv().await.is_some() {
                let files = files.clone();
                if let Err(error) = tokio::task::spawn_blocking(move || reopen(&files)).await {
                    tracing::error!(%error, "reopening the log files ended early");
                }
            }
        });
        Ok(())
    }

    /// Waits for the last lines, for a short time.
    pub(super) fn end(&self) {
        if let Some(audit) = &self.audit {
            audit.finish(LAST_LINES);
        }
    }
}

fn reopen(files: &[Arc<LogFile>]) {
    for file in files {
        let path = file.path().display();
        match file.reopen() {
            Ok(()) => tracing::info!(%path, "log file reopened"),
            Err(error) => {
                tracing::error!(%path, %error, "log file not reopened; its lines go on to the old one")
            }
        }
    }
}

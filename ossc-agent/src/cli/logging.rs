//! Sets up tracing from the checked settings: human lines or JSON, to standard error or appended to
//! `logPath`. Called once, before anything logs.

use std::io::{self, IsTerminal, stderr};
use std::path::Path;
use std::sync::Arc;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::agent::Error;
use crate::config::{Log, LogFormat, LogLevel};
use crate::sys::log_file::LogFile;

/// Installs the process-wide subscriber. Returns the file that it writes to, if it is one, to be reopened after a
/// rotation.
pub(super) fn start(log: &Log) -> Result<Option<Arc<LogFile>>, Error> {
    let file = opened(log, LogFile::open)?;
    start_with(log, file.clone());
    Ok(file)
}

/// The same for the keeper, whom nobody tells of a rotation.
pub(super) fn start_watching(log: &Log) -> Result<(), Error> {
    start_with(log, opened(log, LogFile::watched)?);
    Ok(())
}

fn opened(log: &Log, open: impl Fn(&Path) -> io::Result<LogFile>) -> Result<Option<Arc<LogFile>>, Error> {
    let Some(path) = &log.path else { return Ok(None) };
    let file = open(path).map_err(|source| Error::Log { path: path.clone(), source })?;
    Ok(Some(Arc::new(file)))
}

fn start_with(log: &Log, file: Option<Arc<LogFile>>) {
    let level = match log.level {
        LogLevel::Trace => LevelFilter::TRACE,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    let colour = file.is_none() && stderr().is_terminal();
    let writer = match file {
        None => BoxMakeWriter::new(crate::status::Terminal::writer),
        Some(file) => BoxMakeWriter::new(file),
    };
    let builder = tracing_subscriber::fmt().with_max_level(level).with_writer(writer).with_ansi(colour);
    match log.format {
        LogFormat::Human => builder.with_target(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

//! Sets up tracing from the checked settings: human lines or JSON, to standard error or appended to
//! `logPath`. Called once, before anything logs.

use std::fs::OpenOptions;
use std::io::{IsTerminal, stderr};
use std::sync::Mutex;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::agent::Error;
use crate::config::{Log, LogFormat, LogLevel};

/// Installs the process-wide subscriber.
pub(super) fn start(log: &Log) -> Result<(), Error> {
    let level = match log.level {
        LogLevel::Trace => LevelFilter::TRACE,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    let writer = match &log.path {
        None => BoxMakeWriter::new(crate::status::Terminal::writer),
        Some(path) => {
            let file = OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .map_err(|source| Error::Log { path: path.clone(), source })?;
            BoxMakeWriter::new(Mutex::new(file))
        }
    };
    let colour = log.path.is_none() && stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_max_level(level).with_writer(writer).with_ansi(colour);
    match log.format {
        LogFormat::Human => builder.with_target(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

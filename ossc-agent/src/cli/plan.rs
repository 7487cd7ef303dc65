//! `ossc-agent plan`: shows, gives away, takes in and forgets learned orders. Works on the state directory alone,
//! beside a running agent or without one. The answer goes to standard output, what went wrong to standard error.

mod select;
mod show;

use std::fs::File;
use std::io::{self, Read, Write, stdin, stdout};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use self::select::select;
use super::exit::Exit;
use crate::config::{self, Environment, Flags};
use crate::order::{self, BadOrders, Orders, Shelf};

/// Longest text taken in, in bytes; a shelf reads no longer one back.
const MAX_IMPORT: u64 = 64 << 20;
/// Stands for standard input or output.
const STANDARD: &str = "-";

/// Arguments of `ossc-agent plan`.
#[derive(Debug, Args)]
pub(super) struct Plan {
    #[command(subcommand)]
    task: Task,

    /// Where the orders are kept [env: OSSC_STATE_DIR] [default: /var/lib/ossc]
    #[arg(long, value_name = "DIR", global = true)]
    state_dir: Option<PathBuf>,

    /// JSON configuration that may name the state directory
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// List the models and commands an order is known of; of one MODEL also the order the next load would take
    Show {
        /// Id, its beginning, or oss://BUCKET/PREFIX/
        model: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write what was learned of a model, for `import` on another node
    Export {
        /// Id, its beginning, or oss://BUCKET/PREFIX/
        model: String,
        /// Where to; - is standard output
        #[arg(default_value = STANDARD)]
        file: PathBuf,
    },
    /// Take in what `export` wrote; it replaces what is known of the same commands of the same model
    Import {
        /// Where from; - is standard input
        file: PathBuf,
    },
    /// Forget what was learned of a model
    Forget {
        /// Id, its beginning, or oss://BUCKET/PREFIX/
        #[arg(required_unless_present = "all")]
        model: Option<String>,
        /// Only of this command, as `show` names it
        #[arg(long, value_name = "NAME", requires = "model")]
        command: Option<String>,
        /// Of all models
        #[arg(long, conflicts_with = "model")]
        all: bool,
    },
}

/// Why a task could not be done.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Shelf(#[from] order::Error),
    #[error("no order is known of '{0}'; `ossc-agent plan show` lists what there is")]
    Unknown(String),
    #[error("'{0}' is the beginning of several ids or the place of several models; give one id whole")]
    Ambiguous(String),
    #[error("cannot {what} {}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot take in {}", path.display())]
    Import { path: PathBuf, source: BadOrders },
}

impl Plan {
    /// Does the task.
    pub(super) fn run(self) -> Exit {
        match self.perform(&Environment::of_process()) {
            Ok(()) => Exit::SUCCESS,
            Err(error) => {
                eprintln!("ossc-agent: {}", crate::base::chain(&error));
                match error {
                    Error::Config(_) | Error::Unknown(_) | Error::Ambiguous(_) => Exit::USAGE,
                    Error::Shelf(_) | Error::Io { .. } | Error::Import { .. } => Exit::INTERNAL,
                }
            }
        }
    }

    fn perform(self, env: &Environment) -> Result<(), Error> {
        let flags = Flags { state_dir: self.state_dir, config: self.config, ..Flags::default() };
        let shelf = Shelf::new(&config::state_dir(&flags, env)?);
        match self.task {
            Task::Show { model, json } => {
                let text = show::text(&shelf, model.as_deref(), json)?;
                write(Path::new(STANDARD), text.as_bytes())
            }
            Task::Export { model, file } => {
                let id = select(&shelf, &model)?;
                let orders = shelf.load(&id)?.ok_or(Error::Unknown(model))?;
                write(&file, &orders.encode())
            }
            Task::Import { file } => {
                let text = read(&file)?;
                let given = Orders::parse(&text).map_err(|source| Error::Import { path: file, source })?;
                // One that cannot be used is no loss.
                let mut orders = shelf.load(&given.id()).ok().flatten().unwrap_or_else(|| given.clone());
                orders.adopt(given);
                Ok(shelf.save(&orders)?)
            }
            Task::Forget { model: Some(model), command, .. } => forget(&shelf, model, command),
            Task::Forget { model: None, .. } => {
                Ok(shelf.list()?.iter().try_for_each(|id| shelf.remove(id))?)
            }
        }
    }
}

fn forget(shelf: &Shelf, model: String, command: Option<String>) -> Result<(), Error> {
    let id = select(shelf, &model)?;
    let Some(command) = command else { return Ok(shelf.remove(&id)?) };
    let mut orders = shelf.load(&id)?.ok_or(Error::Unknown(model))?;
    if orders.commands.remove(&command).is_none() {
        return Err(Error::Unknown(command));
    }
    if orders.commands.is_empty() { Ok(shelf.remove(&id)?) } else { Ok(shelf.save(&orders)?) }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let attempt = || {
        let source: Box<dyn Read> =
            if path == Path::new(STANDARD) { Box::new(stdin()) } else { Box::new(File::open(path)?) };
        let mut text = Vec::new();
        source.take(MAX_IMPORT).read_to_end(&mut text)?;
        Ok(text)
    };
    attempt().map_err(|source| Error::Io { what: "read", path: path.to_owned(), source })
}

fn write(path: &Path, text: &[u8]) -> Result<(), Error> {
    let attempt = || {
        if path != Path::new(STANDARD) {
            return std::fs::write(path, text);
        }
        match stdout().write_all(text).and_then(|()| stdout().flush()) {
            // `plan show | head`: the reader has what it wanted.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    };
    attempt().map_err(|source| Error::Io { what: "write", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;

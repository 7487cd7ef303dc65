//! `ossc-agent status`, `cancel`, `prefetch` and `evict`: ask the running agent of a model directory and steer it. Answers go to
//! standard output, what went wrong to standard error.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::exit::{self, Exit};
use crate::base::{Bytes, chain};
use crate::config::{self, Environment, Flags};
use crate::status::snapshot::{Snapshot, State};
use crate::status::{self, Client};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// To the first line and column, and away with what is below (ECMA-48 CUP and ED).
const REDRAW: &str = "\x1b[H\x1b[J";
/// As with the first, with all that is on the screen away (ED 2).
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Which agent is meant.
#[derive(Debug, Args)]
struct Which {
    /// Directory of the model [env: MODEL_DIR]
    #[arg(long, value_name = "DIR")]
    model_dir: Option<PathBuf>,

    /// JSON configuration [default: /etc/oss-connector/config.json if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Arguments of `ossc-agent status`.
#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    which: Which,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Show it anew every second, until the agent ends
    #[arg(long)]
    watch: bool,

    /// List every file, complete ones too
    #[arg(long)]
    all: bool,

    /// Say by the exit status whether the load is so far, for probes: 0 if it is, else 9
    #[arg(long, value_name = "HOW_FAR", conflicts_with_all = ["json", "watch", "all"])]
    ready: Option<Ready>,

    /// With --ready: wait until it is, and for an agent that has yet to start
    #[arg(long, requires = "ready")]
    wait: bool,
}

/// How far a load is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Ready {
    /// The files can be opened: readers are held where bytes are missing
    Visible,
    /// Every file is complete, or was and is evicted since
    Complete,
}

/// Arguments of `ossc-agent cancel`.
#[derive(Debug, Args)]
pub(super) struct Cancel {
    #[command(flatten)]
    which: Which,
}

/// Arguments of `ossc-agent prefetch`.
#[derive(Debug, Args)]
pub(super) struct Prefetch {
    #[command(flatten)]
    files: Files,
}

/// Arguments of `ossc-agent evict`.
#[derive(Debug, Args)]
pub(super) struct Evict {
    #[command(flatten)]
    files: Files,
}

/// Some files of a model.
#[derive(Debug, Args)]
struct Files {
    #[command(flatten)]
    which: Which,

    /// File or directory of the model: its path, or its name below the model directory
    #[arg(value_name = "PATH")]
    path: PathBuf,
}

impl Which {
    fn model_dir(self) -> Result<PathBuf, Exit> {
        let flags = Flags { model_dir: self.model_dir, config: self.config, ..Flags::default() };
        config::model_dir(&flags, &Environment::of_process())
            .map_err(|error| say(&chain(&error), Exit::USAGE))
    }
}

impl Status {
    /// Does it.
    pub(super) fn run(self) -> Exit {
        let Self { which, json, watch, all, ready, wait } = self;
        with_client(which, async |_, client| {
            if let Some(ready) = ready {
                return until(client, ready, wait).await;
            }
            let (mut was_there, mut has_broken_off) = (false, false);
            let is_screen = watch && !json && io::stdout().is_terminal();
            let mut begin = if is_screen { CLEAR } else { "" };
            loop {
                let text = if json {
                    client.json().await.map(|text| format!("{}\n", String::from_utf8_lossy(&text)))
                } else {
                    client.status().await.map(|snapshot| status::text(&snapshot, all))
                };
                let text = match text {
                    // Its socket goes with it only where it ends in order.
                    Err(status::Error::Nobody { .. }) if was_there || has_broken_off => {
                        return Ok(say("the agent has ended", Exit::SUCCESS));
                    }
                    // It ended before it had answered; the next look tells how.
                    Err(status::Error::Broken { .. }) if was_there => {
                        was_there = false;
                        has_broken_off = true;
                        tokio::time::sleep(LOOK_EVERY).await;
                        continue;
                    }
                    text => text?,
                };
                was_there = true;
                let shown = io::stdout().write_all(format!("{begin}{text}").as_bytes());
                if let Err(error) = shown.and_then(|()| io::stdout().flush()) {
                    return Ok(if error.kind() == io::ErrorKind::BrokenPipe {
                        Exit::SUCCESS
                    } else {
                        unprintable(&error)
                    });
                }
                if !watch {
                    return Ok(Exit::SUCCESS);
                }
                begin = if is_screen { REDRAW } else { "" };
                tokio::time::sleep(LOOK_EVERY).await;
            }
        })
    }
}

/// Looks whether a load is so far, once or until it is.
async fn until(client: &Client, ready: Ready, wait: bool) -> Result<Exit, status::Error> {
    use status::Error::{Broken, Dead, Nobody};
    loop {
        let why = match client.status().await {
            Ok(snapshot) if snapshot.gate_broken => "the gate is broken: start the agent again".to_owned(),
            Ok(Snapshot { state: State::Complete, .. }) => return Ok(Exit::SUCCESS),
            Ok(_) if ready == Ready::Visible => return Ok(Exit::SUCCESS),
            Ok(Snapshot { bytes, .. }) => {
                format!("not complete: {} of {} are ready", Bytes(bytes.ready), Bytes(bytes.total))
            }
            Err(Nobody { .. } | Dead { .. } | Broken { .. }) if wait => String::new(),
            Err(error) => return Err(error),
        };
        if !wait {
            return Ok(say(&why, Exit::NOT_YET));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

impl Cancel {
    /// Does it.
    pub(super) fn run(self) -> Exit {
        with_client(self.which, async |_, client| client.cancel().await.map(|()| Exit::SUCCESS))
    }
}

impl Prefetch {
    /// Does it.
    pub(super) fn run(self) -> Exit {
        self.files.tell(async |client, name| {
            let done = client.prefetch(name).await?;
            Ok(format!("{} files come next, {} of them are missing\n", done.files, Bytes(done.missing_bytes)))
        })
    }
}

impl Evict {
    /// Does it.
    pub(super) fn run(self) -> Exit {
        self.files.tell(async |client, name| {
            let done = client.evict(name).await?;
            Ok(format!("{} files were evicted, {} are free\n", done.files, Bytes(done.freed_bytes)))
        })
    }
}

impl Files {
    /// Asks the agent about these files, and prints what there is to say.
    fn tell(self, ask: impl AsyncFnOnce(&Client, &str) -> Result<String, status::Error>) -> Exit {
        let path = self.path;
        with_client(self.which, async |model_dir, client| {
            let Some(name) = below(model_dir, &path) else {
                let text = format!("{} is not in {}", path.display(), model_dir.display());
                return Ok(say(&text, Exit::USAGE));
            };
            let text = ask(client, &name).await?;
            Ok(match io::stdout().write_all(text.as_bytes()) {
                Ok(()) => Exit::SUCCESS,
                Err(error) => unprintable(&error),
            })
        })
    }
}

/// A path as a name below the model directory: one that is there, seen from here, or else such a name already.
fn below(model_dir: &Path, path: &Path) -> Option<String> {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = match (real(path).strip_prefix(real(model_dir)), path.is_absolute()) {
        (Ok(inside), _) => inside.to_owned(),
        (Err(_), true) => return None,
        (Err(_), false) => path.to_owned(),
    };
    let climbs = name.components().any(|part| part == Component::ParentDir);
    if climbs { None } else { name.into_os_string().into_string().ok() }
}

fn with_client(which: Which, ask: impl AsyncFnOnce(&Path, &Client) -> Result<Exit, status::Error>) -> Exit {
    let model_dir = match which.model_dir() {
        Ok(model_dir) => model_dir,
        Err(exit) => return exit,
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return say(&error.to_string(), Exit::INTERNAL),
    };
    let client = Client::new(&model_dir);
    match runtime.block_on(ask(&model_dir, &client)) {
        Ok(exit) => exit,
        Err(error) => exit::of_status(&error),
    }
}

fn say(text: &str, exit: Exit) -> Exit {
    eprintln!("ossc-agent: {text}");
    exit
}

fn unprintable(error: &io::Error) -> Exit {
    say(&format!("cannot print the answer: {error}"), Exit::INTERNAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_becomes_a_name_below_the_model() {
        let name = |path: &str| below(Path::new("/no/model"), Path::new(path));
        assert_eq!(name("/no/model/a/b"), Some("a/b".to_owned()));
        assert_eq!(name("a/b"), Some("a/b".to_owned()));
        assert_eq!(name("/no/model"), Some(String::new()));
        for other in ["/no/other/a", "../a", "/no/model/../a"] {
            assert_eq!(name(other), None, "{other}");
        }
    }
}

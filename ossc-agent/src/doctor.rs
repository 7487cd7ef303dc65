//! `ossc-agent doctor`: looks at everything a load depends on before there is one, and says of each thing
//! whether it is well, what was seen, and what to do. `cli` calls [`examine`] with what the load would be
//! started with and prints the [`Report`].
//!
//! It changes nothing: scratch files have no names, probes are detached again, of the model a few megabytes
//! are read and thrown away. A check that needs what an earlier one did not find is left out, not guessed.

mod kernel;
mod memory;
mod origin;
mod peers;
mod report;
mod route;
mod storage;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use self::report::{Check, Report, Verdict};
use crate::base::{Object, chain};
use crate::config::Config;
use crate::oss;

/// What to leave out or stretch.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long bytes are fetched by each source to measure it; zero leaves it out.
    pub throughput: Duration,
}

/// Examines this machine, the model directory and the way to OSS for the load that `config` describes. A
/// configuration that is refused is the first finding, and what does not depend on it is still looked at.
pub async fn examine(config: Result<&Config, &dyn std::error::Error>, options: Options) -> Report {
    let mut report = Report::default();
    let config = match config {
        Ok(config) => Some(config),
        Err(error) => {
            report.add(
                "configuration",
                vec![Check::fail(
                    "settings",
                    chain(error),
                    "correct this; what depends on it was not examined",
                )],
            );
            None
        }
    };
    let model_dir = config.map(|config| existing(&config.store.model_dir));
    report.add("kernel", kernel::checks(model_dir.as_deref()));
    let (objects, network) = match config {
        Some(config) => reach(config, options).await,
        None => (None, Vec::new()),
    };
    if let (Some(config), Some(dir)) = (config, model_dir.as_deref()) {
        report.add("storage", storage::checks(&config.store.model_dir, dir, objects.as_deref()));
    }
    report.add("memory", memory::checks(objects.as_deref()));
    report.add("network", network);
    if let Some(peers) = config.and_then(|config| config.peers.as_ref()) {
        report.add("peers", peers::checks(peers).await);
    }
    report
}

/// The way to OSS, and what is listed there.
async fn reach(config: &Config, options: Options) -> (Option<Vec<Object>>, Vec<Check>) {
    match oss::Client::new(config.oss.clone()) {
        Ok(client) => origin::checks(config, &client, options.throughput).await,
        Err(error) => {
            let advice = "correct the setting named here";
            (None, vec![Check::fail("endpoint", chain(&error), advice)])
        }
    }
}

/// The directory itself, or the nearest one above that exists: where it will be made.
fn existing(dir: &Path) -> PathBuf {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_to_be_made_is_judged_by_the_one_above() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(existing(dir.path()), dir.path());
        assert_eq!(existing(&dir.path().join("a/b")), dir.path());
    }
}

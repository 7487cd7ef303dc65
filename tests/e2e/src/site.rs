//! A node to test on: a model directory on some file system, a state directory, and a bucket to load from.
//!
//! Driven by the tests, most of which begin with one. It only holds the places and their connection; agents and
//! readers are started from it, and must be dropped before it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use oss_server::{ACCESS_KEY_ID, ACCESS_KEY_SECRET, Config};

use crate::agent::Start;
use crate::content::Target;
use crate::origin::{ModelFile, Origin};
use crate::scratch::{FileSystem, Scratch};

/// 1.5 GiB, of which only what is written takes space: room for the models of the tests and some copies.
const FILE_SYSTEM_BYTES: u64 = 3 << 29;

/// Places and bucket of one test.
#[derive(Debug)]
pub struct Site {
    disk: Scratch,
    state: Scratch,
    origin: Origin,
}

impl Site {
    /// A site whose model directory is on a fresh file system, with a server of this configuration.
    pub fn new(file_system: FileSystem, config: Config, files: Vec<ModelFile>) -> anyhow::Result<Self> {
        Self::on(Scratch::mounted(file_system, FILE_SYSTEM_BYTES)?, config, files)
    }

    /// A site on a given disk.
    pub fn on(disk: Scratch, config: Config, files: Vec<ModelFile>) -> anyhow::Result<Self> {
        let origin = Origin::start(config, files)?;
        let site = Self { disk, state: Scratch::directory()?, origin };
        for directory in [site.model_dir(), site.copies()] {
            std::fs::create_dir(&directory).with_context(|| format!("make {}", directory.display()))?;
        }
        Ok(site)
    }

    /// Where its model directory is.
    #[must_use]
    pub fn disk(&self) -> &Scratch {
        &self.disk
    }

    /// The same without its disk: the model directory is wherever `MODEL_DIR` says.
    pub fn without_disk(self) -> anyhow::Result<Self> {
        Ok(Self { disk: Scratch::directory()?, ..self })
    }

    /// The bucket.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Where the model appears.
    #[must_use]
    pub fn model_dir(&self) -> PathBuf {
        self.disk.path().join("model")
    }

    /// For copies on the same file system.
    #[must_use]
    pub fn copies(&self) -> PathBuf {
        self.disk.path().join("copies")
    }

    /// The agent's state directory.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        self.state.path()
    }

    /// The files that the model becomes.
    #[must_use]
    pub fn targets(&self) -> Vec<Target> {
        self.origin.targets(&self.model_dir())
    }

    /// An agent that loads this model to this place; everything by its environment, so that a test can overrule any
    /// of it by a flag or another value.
    #[must_use]
    pub fn start(&self) -> Start {
        let server = self.origin.server();
        Start::new(self.state_dir())
            .variable("OSS_ENDPOINT", server.endpoint())
            .variable("OSS_REGION", "cn-hangzhou")
            .variable("OSS_ACCESS_KEY_ID", ACCESS_KEY_ID)
            .variable("OSS_ACCESS_KEY_SECRET", ACCESS_KEY_SECRET)
            .variable("OSS_PATH", self.origin.path())
            .variable("MODEL_DIR", self.model_dir())
    }

    /// Compares every byte of every file of the model.
    pub fn check_files(&self) -> anyhow::Result<()> {
        for (file, target) in self.origin.files().iter().zip(self.targets()) {
            target.check_whole(file.size)?;
        }
        Ok(())
    }

    /// Waits until the server sent a share of the model, in percent.
    pub fn wait_percent(&self, percent: u64, limit: Duration) -> anyhow::Result<()> {
        self.origin.wait_sent(self.origin.size() / 100 * percent, limit)
    }
}

//! A bucket with a model in it: the test server, and what each of its objects must become on disk.
//!
//! Driven by the tests. Objects are computed content unless they are given as files. What the server saw is asked
//! for here in the words of a load: bytes of objects sent, ranges of each object, listings.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use oss_server::{Config, Entry, Object, Operation, Server, synthetic};

use crate::content::{Content, Target};

/// Directory of the model in the bucket.
pub const PREFIX: &str = "models/test/";

/// A test server and the model it serves.
#[derive(Debug)]
pub struct Origin {
    server: Server,
    bucket: String,
    files: Vec<ModelFile>,
}

/// One object of the model.
#[derive(Debug, Clone)]
pub struct ModelFile {
    /// Its key without [`PREFIX`]: its path below the model directory.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// What they are.
    pub content: Content,
}

impl ModelFile {
    /// Computed content.
    #[must_use]
    pub fn synthetic(name: &str, size: u64) -> Self {
        let content = Content::Synthetic(synthetic::seed_of(name));
        Self { name: name.to_owned(), size, content }
    }

    /// The content of a file.
    pub fn like(name: &str, reference: PathBuf) -> anyhow::Result<Self> {
        let size = std::fs::metadata(&reference).context("the reference file")?.len();
        Ok(Self { name: name.to_owned(), size, content: Content::Like(reference) })
    }

    /// Its key in the bucket.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{PREFIX}{}", self.name)
    }

    /// The file it becomes.
    #[must_use]
    pub fn target(&self, model_dir: &Path) -> Target {
        Target::new(model_dir.join(&self.name), self.content.clone())
    }

    fn object(&self) -> anyhow::Result<Object> {
        match &self.content {
            Content::Synthetic(seed) => Ok(Object::synthetic(*seed, self.size)),
            Content::Like(reference) => Object::file(reference),
        }
    }
}

/// `count` files of computed content, named the way checkpoints are split.
#[must_use]
pub fn shards(count: usize, size: u64) -> Vec<ModelFile> {
    (1..=count)
        .map(|shard| ModelFile::synthetic(&format!("model-{shard:05}-of-{count:05}.bin"), size))
        .collect()
}

impl Origin {
    /// Starts a server with these files under [`PREFIX`].
    pub fn start(config: Config, files: Vec<ModelFile>) -> anyhow::Result<Self> {
        let bucket = config.bucket.clone();
        let server = Server::start(config).context("start the OSS test server")?;
        for file in &files {
            server.put(&file.key(), file.object()?);
        }
        Ok(Self { server, bucket, files })
    }

    /// The server itself, for its faults and keys.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Where the model is, as OSS_PATH says it.
    #[must_use]
    pub fn path(&self) -> String {
        format!("oss://{}/{PREFIX}", self.bucket)
    }

    /// The objects.
    #[must_use]
    pub fn files(&self) -> &[ModelFile] {
        &self.files
    }

    /// Bytes of the whole model.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// The files that the model becomes.
    #[must_use]
    pub fn targets(&self, model_dir: &Path) -> Vec<Target> {
        self.files.iter().map(|file| file.target(model_dir)).collect()
    }

    /// Bytes of objects sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.server.log().bytes_sent(is_get)
    }

    /// Waits until `bytes` of objects were sent; an error when they are not by `limit`.
    pub fn wait_sent(&self, bytes: u64, limit: Duration) -> anyhow::Result<()> {
        let sent =
            |entries: &[Entry]| entries.iter().filter(|entry| is_get(entry)).map(|entry| entry.sent).sum();
        let reached = self.server.log().wait(limit, |entries| {
            let sum: u64 = sent(entries);
            sum >= bytes
        });
        ensure!(reached, "the server sent {} bytes within {limit:?}, not {bytes}", self.sent());
        Ok(())
    }

    /// Requests of one operation so far.
    #[must_use]
    pub fn count(&self, operation: Operation) -> usize {
        self.server.log().count(|entry| entry.operation == operation)
    }

    /// The bytes of one object that were sent, request by request, in the order of their offsets.
    #[must_use]
    pub fn sent_ranges(&self, file: &ModelFile) -> Vec<Range<u64>> {
        let key = file.key();
        let entries = self.server.log().select(|entry| is_get(entry) && entry.key == key && entry.sent > 0);
        let mut ranges: Vec<_> = entries
            .into_iter()
            .filter_map(|entry| entry.range.map(|range| range.start..range.start + entry.sent))
            .collect();
        ranges.sort_by_key(|range| (range.start, range.end));
        ranges
    }
}

fn is_get(entry: &Entry) -> bool {
    entry.operation == Operation::Get
}

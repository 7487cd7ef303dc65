//! `ossc-agent verify`: the model directory compared with OSS. Lists the objects, has the store look at what is
//! there, and judges; deeply, each byte is read again and each object's checksum asked for. Changes nothing, and
//! works beside an agent or without one. `cli` shows the report.

use std::path::PathBuf;

use serde::Serialize;
use tokio::runtime::Runtime;

use super::Error;
use crate::base::Object;
use crate::config::Config;
use crate::oss;
use crate::store::{self, Doubt, Found, State};
use crate::sys;

/// What a file is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All of the object, and nothing speaks against any byte of it.
    Ok,
    /// Not all of it, and nothing speaks against what is there.
    Incomplete,
    /// Something is not as in OSS, or not as it was loaded.
    Different,
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What differs.
    pub what: String,
    /// What to do about it.
    pub advice: &'static str,
}

/// What was found of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileReport {
    /// Its name below the model directory.
    pub name: String,
    /// The verdict.
    pub status: Status,
    /// Bytes of the object as listed; of one that is not listed any more, as loaded.
    pub size: u64,
    /// Bytes of it that are there.
    pub ready: u64,
    /// Version as listed.
    pub etag: String,
    /// Whether the checksum of the whole object agreed with OSS's: when it was loaded, and now if deep.
    pub checksum_agrees: bool,
    /// Why it is not ok; empty if it is.
    pub findings: Vec<Finding>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The verdict of the worst file.
    pub status: Status,
    /// `oss://bucket/prefix` it was compared with.
    pub oss_path: String,
    /// The directory.
    pub model_dir: PathBuf,
    /// Whether each byte was read again.
    pub deep: bool,
    /// Every file.
    pub files: Vec<FileReport>,
}

const LOAD: &str = "run ossc-agent to load it";
const GO_ON: &str = "let ossc-agent go on, or run it again";
const RELOAD: &str = "run ossc-agent again: it replaces the file by the version in OSS";
const FETCH_AGAIN: &str = "remove the file and run ossc-agent: it is fetched again";
const MOVE_AWAY: &str = "move it away, or use another model directory";
const REMOVE: &str = "remove the file if it is not wanted any more";

/// Compares. Called by `cli` with a checked config; `deep` as on the command line.
pub fn verify(config: &Config, deep: bool) -> Result<Report, Error> {
    let (runtime, client, objects) = listed(config)?;
    let model_dir = &config.store.model_dir;
    let inspection = store::inspect(model_dir, &config.oss.prefix, objects)?;
    let mut files = Vec::with_capacity(inspection.files.len());
    for (object, found) in inspection.files {
        let mut file = judge(&object, &found);
        if let (true, Ok(found)) = (deep, &found) {
            let now = runtime.block_on(client.head(&object.key))?;
            read_again(&mut file, found, &now, config);
        }
        files.push(file);
    }
    files.extend(inspection.unlisted.iter().map(unlisted));
    Ok(Report {
        status: files.iter().map(|file| file.status).max().unwrap_or(Status::Ok),
        oss_path: format!("oss://{}/{}", config.oss.bucket, config.oss.prefix),
        model_dir: model_dir.clone(),
        deep,
        files,
    })
}

/// What OSS has of the model, and what to ask it further with.
pub(super) fn listed(config: &Config) -> Result<(Runtime, oss::Client, Vec<Object>), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(sys::Error::when("start the event loop"))?;
    let client = oss::Client::new(config.oss.clone())?;
    let objects = runtime.block_on(client.list())?;
    Ok((runtime, client, objects))
}

impl FileReport {
    fn new(object: &Object, ready: u64) -> Self {
        Self {
            name: object.name.clone(),
            status: Status::Ok,
            size: object.size,
            ready,
            etag: object.etag.as_str().to_owned(),
            checksum_agrees: false,
            findings: Vec::new(),
        }
    }

    fn find(&mut self, status: Status, what: impl Into<String>, advice: &'static str) {
        self.status = self.status.max(status);
        self.findings.push(Finding { what: what.into(), advice });
    }
}

/// By what is recorded alone.
fn judge(object: &Object, found: &Result<Found, Doubt>) -> FileReport {
    let mut file = FileReport::new(object, found.as_ref().map_or(0, Found::ready));
    let found = match found {
        Ok(found) => found,
        Err(doubt) => {
            let (status, advice) = match doubt {
                Doubt::Unknown | Doubt::Gone | Doubt::Unsynced | Doubt::Damaged { .. } => {
                    (Status::Incomplete, LOAD)
                }
                Doubt::Stranger { .. } => (Status::Different, MOVE_AWAY),
                Doubt::Exchanged | Doubt::Size { .. } | Doubt::Written => (Status::Different, RELOAD),
            };
            file.find(status, doubt.to_string(), advice);
            return file;
        }
    };
    let loaded = &found.object;
    if (loaded.size, &loaded.etag) != (object.size, &object.etag) {
        let what = format!(
            "it is of version {} with {} bytes; OSS has version {} with {} bytes",
            loaded.etag, loaded.size, object.etag, object.size
        );
        file.find(Status::Different, what, RELOAD);
    }
    match found.state {
        State::Complete { verified, .. } => {
            let agrees = loaded.crc64.is_none_or(|crc64| found.recorded_crc64() == Some(crc64));
            file.checksum_agrees = verified && agrees;
            if !agrees {
                file.find(
                    Status::Different,
                    "its blocks do not make the checksum of the object",
                    FETCH_AGAIN,
                );
            }
        }
        State::Partial { ready } => {
            let what = format!("{ready} of {} bytes are there", loaded.size);
            file.find(Status::Incomplete, what, GO_ON);
        }
    }
    file
}

/// By every byte, and by OSS's own account of the object now.
fn read_again(file: &mut FileReport, found: &Found, now: &Object, config: &Config) {
    match found.read_back(&config.store.model_dir) {
        Ok(damages) => {
            for damage in damages {
                let what = match damage.unreadable {
                    None => format!("bytes {} are not those that were loaded", damage.range),
                    Some(why) => format!("bytes {} cannot be read from the disk: {why}", damage.range),
                };
                file.find(Status::Different, what, FETCH_AGAIN);
            }
        }
        Err(error) => {
            let why = std::error::Error::source(&error).map_or_else(String::new, |why| format!(": {why}"));
            file.find(Status::Different, format!("{error}{why}"), "run verify again");
        }
    }
    let same = (now.size, &now.etag) == (found.object.size, &found.object.etag);
    if let (true, Some(expected), Some(made)) = (same, now.crc64, found.recorded_crc64()) {
        file.checksum_agrees = expected == made;
        if expected != made {
            let what = format!("its CRC-64 is {made}, OSS says {expected}");
            file.find(Status::Different, what, FETCH_AGAIN);
        }
    }
}

/// A file whose object OSS does not have any more.
fn unlisted(found: &Found) -> FileReport {
    let mut file = FileReport::new(&found.object, found.ready());
    file.find(Status::Different, "the object is not in OSS any more", REMOVE);
    file
}

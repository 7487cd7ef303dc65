//! The JSON file as written: the keys of the OSS Connector's config.json and ours beside them. Only types
//! are checked here. A key that is not known is kept by name, to be remarked on rather than refused, so
//! that a file written for another version of the connector still starts.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use serde::Deserialize;

use super::Error;
use crate::base::Nic;

/// A configuration file is a page of text; more than this is something else.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// The permission of everybody else to write (inode(7)).
const OTHERS_WRITE: u32 = 0o002;

/// The file's content.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Raw {
    pub(super) log_level: Option<Level>,
    pub(super) log_path: Option<PathBuf>,
    pub(super) log_format: Option<String>,
    pub(super) audit_path: Option<PathBuf>,
    pub(super) expire_time_sec: Option<u64>,
    pub(super) memory_budget: Option<String>,
    pub(super) prefetch: Prefetch,
    pub(super) fast_list: Option<serde_json::Value>,
    pub(super) oss_path: Option<String>,
    pub(super) endpoint: Option<String>,
    pub(super) region: Option<String>,
    pub(super) cname: Option<bool>,
    pub(super) origin_proxy: Option<String>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) credentials: Option<String>,
    pub(super) credentials_file: Option<PathBuf>,
    pub(super) ecs_role: Option<String>,
    pub(super) model_dir: Option<PathBuf>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) peers: super::peers::RawPeers,
    pub(super) sources: Vec<Nic>,
    pub(super) bandwidth_limit: Option<String>,
    pub(super) origin_max_rate: Option<String>,
    pub(super) block_size: Option<String>,
    pub(super) request_timeout_sec: Option<u32>,
    pub(super) request_tries: Option<u32>,
    pub(super) retry_pause_sec: Option<u32>,
    pub(super) takeover_deadline_sec: Option<u32>,
    pub(super) on_change: Option<String>,
    pub(super) restart_deadline_sec: Option<u32>,
    pub(super) offline: Option<bool>,
    pub(super) observe: Option<bool>,
    pub(super) otlp: Option<String>,
    pub(super) http: Option<SocketAddr>,
    pub(super) http_remote: Option<bool>,
    #[serde(flatten)]
    pub(super) unknown: BTreeMap<String, serde_json::Value>,
}

/// The connector writes a number, people write a word.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(untagged)]
pub(super) enum Level {
    Number(u64),
    Word(String),
}

/// `prefetch` of the connector.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(default)]
pub(super) struct Prefetch {
    pub(super) vcpus: Option<u32>,
    pub(super) workers: Option<u32>,
    #[serde(flatten)]
    pub(super) unknown: BTreeMap<String, serde_json::Value>,
}

/// Reads and parses the file. It says where root's files go and to whom root connects, so it must be nobody
/// else's to change.
pub(super) fn read(path: &Path) -> Result<Raw, Error> {
    let fail = |source| Error::Read { path: path.to_owned(), source };
    let mut file = std::fs::File::open(path).map_err(fail)?;
    let about = file.metadata().map_err(fail)?;
    let distrust = |problem| Err(Error::Untrusted { path: path.to_owned(), problem });
    if about.uid() != 0 && about.uid() != geteuid().as_raw() {
        return distrust("it belongs to another user");
    }
    if about.mode() & OTHERS_WRITE != 0 {
        return distrust("every user may write to it");
    }
    let size = about.len();
    if size > MAX_FILE_BYTES {
        return Err(Error::TooLarge { path: path.to_owned(), size });
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(fail)?;
    parse(&text).map_err(|source| Error::Json { path: path.to_owned(), source })
}

/// Parses the text of a configuration file.
pub(super) fn parse(text: &str) -> Result<Raw, serde_json::Error> {
    serde_json::from_str(text)
}

//! Checked settings of the client. The `config` part builds them from JSON, environment and flags; nothing
//! here reads any of these. `Client::new` takes them and reports what cannot work, before anything is sent.
//! Secrets in them are wiped when dropped and not printed.

use std::path::PathBuf;
use std::time::Duration;

use super::credentials::{CredentialSource, Secret};
use crate::base::Nic;

/// How long OSS may be silent unless the user says otherwise (py SDK v2 `defaults.py`: read timeout 20 s).
pub const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// Settings of one client: one bucket, one prefix.
#[derive(Debug, Clone)]
pub struct Config {
    /// Endpoint as the user wrote it, e.g. `oss-cn-hangzhou-internal.aliyuncs.com` or `http://127.0.0.1:9000`.
    /// None of a scheme means https.
    pub endpoint: String,
    /// Bucket, from `oss://bucket/prefix/`.
    pub bucket: String,
    /// Prefix, "" or ending in `/`; or the key of a single object; or a directory without its `/`.
    pub prefix: String,
    /// Region; None = inferred from the endpoint; still none = signature V1.
    pub region: Option<String>,
    /// Endpoint is a CNAME of the bucket.
    pub cname: bool,
    /// HTTP proxy that requests to the endpoint go through, `http://[user:password@]host:port`; None = directly.
    pub proxy: Option<Secret>,
    /// Extra trusted roots, PEM.
    pub ca_file: Option<PathBuf>,
    /// Where access keys come from.
    pub credentials: CredentialSource,
    /// Silence after which a request is given up, before its reply's head and within its body. A listing page or
    /// metadata reply must be complete in half as long again.
    pub request_timeout: Duration,
    /// Addresses or interfaces that small requests (listing, metadata, credentials) are sent from in turn; empty = the
    /// kernel's choice. A [`super::Connection`] is given its own.
    pub sources: Vec<Nic>,
}

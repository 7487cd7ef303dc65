//! Keys in a file that something else keeps fresh. Two formats share the usual path
//! `/root/.alibabacloud/credentials` and are told apart by the first byte: the JSON of the OSS Connector
//! (`{`), and the ini file of Alibaba's SDKs, of which the `access_key` kind is read. The file is read again
//! whenever the cache asks; a file half-written at that moment fails this time and is read again later.

use std::path::Path;

use zeroize::Zeroizing;

use super::document::Document;
use super::{Credentials, CredentialsError, Secret};
use crate::oss::error::printable;

/// A credentials file is under a few KiB; more is some other file.
const MAX_FILE_BYTES: u64 = 64 << 10;
/// The ini section that is read.
const SECTION: &str = "default";

pub(super) async fn read(path: &Path) -> Result<Credentials, CredentialsError> {
    let origin = || format!("file {}", path.display());
    let read = async {
        let size = tokio::fs::metadata(path).await?.len();
        if size > MAX_FILE_BYTES {
            return Err(std::io::Error::other("too large for a credentials file"));
        }
        tokio::fs::read_to_string(path).await.map(Zeroizing::new)
    };
    let text = read.await.map_err(|error| CredentialsError::passing(origin(), error.to_string()))?;
    parse(&text).map_err(|reason| CredentialsError::passing(origin(), reason))
}

/// Tells the formats apart and reads either.
pub(super) fn parse(text: &str) -> Result<Credentials, String> {
    if text.trim_start().starts_with('{') {
        // The parser's own message may quote the text, so only the place is told.
        let document: Document = serde_json::from_str(text)
            .map_err(|e| format!("not a JSON credentials file (line {}, column {})", e.line(), e.column()))?;
        document.credentials().map_err(str::to_owned)
    } else {
        parse_ini(text)
    }
}

/// `[default]` with `type = access_key`, `access_key_id`, `access_key_secret`.
fn parse_ini(text: &str) -> Result<Credentials, String> {
    let mut inside = false;
    let (mut kind, mut id, mut secret, mut token) = ("access_key", None, None, None);
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';'])) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            inside = name.trim() == SECTION;
            continue;
        }
        let Some((key, value)) = line.split_once('=').filter(|_| inside) else { continue };
        match key.trim() {
            "type" => kind = value.trim(),
            "access_key_id" => id = Some(value.trim()),
            "access_key_secret" => secret = Some(value.trim()),
            "security_token" => token = Some(value.trim()),
            _ => {}
        }
    }
    if !matches!(kind, "access_key" | "sts") {
        let kind = printable(kind);
        return Err(format!("type '{kind}' is not read from a file; choose that credential source instead"));
    }
    match (id, secret) {
        (Some(id), Some(secret)) => Ok(Credentials {
            access_key_id: id.to_owned(),
            access_key_secret: Secret::new(secret),
            security_token: token.map(Secret::new),
            expiration: None,
        }),
        _ => Err(format!("access_key_id and access_key_secret are missing in section [{SECTION}]")),
    }
}

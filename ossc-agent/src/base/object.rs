//! One object as OSS listed it: what `oss` finds, `store` lays out and `fetch` asks for.

use std::fmt;
use std::time::SystemTime;

/// An object of the model at the version seen when the load started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Full key in the bucket, decoded UTF-8.
    pub key: String,
    /// Name below `MODEL_DIR`: the key without the prefix of `OSS_PATH`. Checked by `store`, not here.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Version pin: every GET sends it as `If-Match`.
    pub etag: ETag,
    /// `Last-Modified`, one-second resolution as OSS gives it; becomes the file's mtime.
    pub modified: SystemTime,
    /// `x-oss-hash-crc64ecma` of the whole object where known. A listing does not carry it; the first
    /// HEAD or GET does. Absent for some old or copied objects: cannot be verified then.
    pub crc64: Option<u64>,
}

/// An entity tag as on the wire, quotes included. Opaque: compared byte for byte (RFC 9110 8.8.3).
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct ETag(String);

impl ETag {
    /// Takes the tag as received; adds the quotes that some listings leave out.
    #[must_use]
    pub fn new(raw: &str) -> Self {
        if raw.starts_with('"') || raw.starts_with("W/") {
            Self(raw.to_owned())
        } else {
            Self(format!("\"{raw}\""))
        }
    }

    /// The tag with its quotes, as `If-Match` wants it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

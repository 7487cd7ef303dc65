//! Which model an order is about. The keys and sizes of its objects decide: the same layout of bytes is read the
//! same way. The ETags say which version a run saw; see [`super::Orders::runs`] for what a new version inherits.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::base::Object;

/// Bytes of SHA-256 kept: nobody can find two models that share 128 bits.
const HASH_BYTES: usize = 16;

/// The number of a model, from the keys and sizes of its objects; the name of its file on disk.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModelId(String);

impl ModelId {
    pub(super) fn of(files: &[(String, u64)]) -> Self {
        Self(digest(files.iter().flat_map(|(key, size)| [text(key), size.to_le_bytes().to_vec()])))
    }

    /// The id with this text, if it is one.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        (text.len() == 2 * HASH_BYTES && text.bytes().all(is_hex)).then(|| Self(text.to_owned()))
    }

    /// Its 32 hexadecimal digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The model of one load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// Where it was loaded from, for people.
    pub source: String,
    /// Keys and sizes in bytes of its objects, indexed by `FileId`.
    pub files: Vec<(String, u64)>,
    /// Digest of the ETags.
    pub version: String,
}

impl Model {
    /// The model with these objects, in the order of their `FileId`s.
    pub fn new<'a>(source: String, objects: impl Iterator<Item = &'a Object> + Clone) -> Self {
        let version = digest(objects.clone().map(|object| text(object.etag.as_str())));
        let files = objects.map(|object| (object.key.clone(), object.size)).collect();
        Self { source, files, version }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> ModelId {
        ModelId::of(&self.files)
    }
}

/// A text with its length, so that no two lists of texts give the same bytes.
fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn digest(parts: impl Iterator<Item = Vec<u8>>) -> String {
    let mut hasher = Sha256::new();
    parts.for_each(|part| hasher.update(part));
    hasher.finalize().iter().take(HASH_BYTES).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::base::ETag;

    fn model(objects: &[(&str, u64, &str)]) -> Model {
        let object = |&(key, size, etag): &(&str, u64, &str)| Object {
            key: key.to_owned(),
            name: key.to_owned(),
            size,
            etag: ETag::new(etag),
            modified: SystemTime::UNIX_EPOCH,
            crc64: None,
        };
        let objects: Vec<_> = objects.iter().map(object).collect();
        Model::new("oss://b/m/".to_owned(), objects.iter())
    }

    #[test]
    fn keys_and_sizes_make_the_model_and_etags_its_version() {
        let one = model(&[("a", 1, "x"), ("b", 2, "y")]);
        for (other, same_model, same_version) in [
            (model(&[("a", 1, "x"), ("b", 2, "y")]), true, true),
            (model(&[("a", 1, "x"), ("b", 2, "z")]), true, false),
            (model(&[("a", 1, "x"), ("b", 3, "y")]), false, true),
            (model(&[("a", 1, "x"), ("c", 2, "y")]), false, true),
            (model(&[("a", 1, "x")]), false, false),
        ] {
            assert_eq!((one.id() == other.id(), one.version == other.version), (same_model, same_version));
        }
        assert_eq!(ModelId::parse(one.id().as_str()), Some(one.id()));
        for text in ["", "../../../../../../../etc/passwd0", "0123456789ABCDEF0123456789ABCDEF"] {
            assert_eq!(ModelId::parse(text), None, "{text}");
        }
    }
}

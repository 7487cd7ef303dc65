//! The bucket's objects: what tests put in, and what requests find.
//!
//! An [`Object`] is content plus the metadata OSS answers with. The collection is one sorted map, because listings are
//! in byte order; replies hold their object, so replacing one never disturbs a reply that is already under way.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::content::Content;
use crate::hex;
use crate::synthetic;

/// Computed objects above this size get no checksum unless asked for: the first request would wait for seconds.
const LARGEST_CHECKSUM: u64 = 4 << 30;

/// Hexadecimal digits of an ETag without part count, as of an MD5.
const ETAG_BYTES: usize = 16;

/// One object: content and metadata.
///
/// The ETag is derived from the content (bytes in memory), from path, size and time (files), or from seed and size
/// (computed objects), so that it is the same after a restart and changes when the content does.
#[derive(Debug, Clone)]
pub struct Object {
    pub(crate) content: Content,
    /// With quotes, as on the wire.
    pub(crate) etag: String,
    /// Seconds since 1970; 0 until the object is put without a time of its own.
    pub(crate) last_modified: i64,
    pub(crate) content_type: String,
    pub(crate) object_type: &'static str,
    has_crc64: bool,
    crc64: OnceLock<Option<u64>>,
}

impl Object {
    /// An object of these bytes.
    #[must_use]
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes: Vec<u8> = bytes.into();
        let name = digest(&[b"bytes", &bytes]);
        Self::new(Content::Bytes(bytes.into()), name)
    }

    /// An object of `size` bytes as [`synthetic::fill`] computes them.
    #[must_use]
    pub fn synthetic(seed: u64, size: u64) -> Self {
        let name = digest(&[b"synthetic", &seed.to_le_bytes(), &size.to_le_bytes()]);
        Self { has_crc64: size <= LARGEST_CHECKSUM, ..Self::new(Content::Synthetic { seed, size }, name) }
    }

    /// An object of `size` bytes as [`synthetic::fill_tiled`] computes them, sent from memory at the speed of
    /// sendfile(2).
    #[must_use]
    pub fn tiled(seed: u64, size: u64) -> Self {
        let name = digest(&[b"tiled", &seed.to_le_bytes(), &size.to_le_bytes()]);
        Self::new(Content::Tiled { seed, size }, name)
    }

    /// An object with the content of a file. The file must not change while it is served.
    pub fn file(path: &Path) -> Result<Self> {
        let about = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
        let modified = about.modified().unwrap_or(UNIX_EPOCH).duration_since(UNIX_EPOCH).unwrap_or_default();
        let size = about.len();
        let name = digest(&[
            path.as_os_str().as_encoded_bytes(),
            &size.to_le_bytes(),
            &modified.as_nanos().to_le_bytes(),
        ]);
        let object = Self::new(Content::File { path: path.to_owned(), size }, name);
        Ok(Self { last_modified: i64::try_from(modified.as_secs()).unwrap_or(0), ..object })
    }

    /// Replaces the ETag; quotes are added.
    #[must_use]
    pub fn etag(mut self, etag: &str) -> Self {
        self.etag = format!("\"{etag}\"");
        self
    }

    /// Makes it an object uploaded in this many parts: type `Multipart`, and the ETag ends in `-<parts>`.
    #[must_use]
    pub fn multipart(mut self, parts: u32) -> Self {
        self.etag = format!("\"{}-{parts}\"", self.etag.trim_matches('"'));
        self.object_type = "Multipart";
        self
    }

    /// Sets the time of the last change; only whole seconds count.
    #[must_use]
    pub fn last_modified(mut self, time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_modified = i64::try_from(since.as_secs()).unwrap_or(0);
        self
    }

    /// Leaves out `x-oss-hash-crc64ecma`, as OSS does for some old objects.
    #[must_use]
    pub fn without_crc64(mut self) -> Self {
        self.has_crc64 = false;
        self
    }

    /// Has `x-oss-hash-crc64ecma` computed however big the object is.
    #[must_use]
    pub fn with_crc64(mut self) -> Self {
        self.has_crc64 = true;
        self
    }

    /// Bytes of the object.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.content.size()
    }

    /// The checksum OSS would answer with, computed when first asked for; `None` if the object has none.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn crc64(&self) -> io::Result<Option<u64>> {
        if let Some(known) = self.crc64.get() {
            return Ok(*known);
        }
        let computed = if self.has_crc64 { Some(self.content.crc64()?) } else { None };
        Ok(*self.crc64.get_or_init(|| computed))
    }

    fn new(content: Content, name: String) -> Self {
        Self {
            content,
            etag: format!("\"{name}\""),
            last_modified: 0,
            content_type: "application/octet-stream".to_owned(),
            object_type: "Normal",
            has_crc64: true,
            crc64: OnceLock::new(),
        }
    }
}

/// The objects of the bucket, sorted by key.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    map: RwLock<BTreeMap<String, Arc<Object>>>,
}

impl Objects {
    /// Adds or replaces an object. One without a time of its own is as old as `now`.
    pub(crate) fn put(&self, key: &str, mut object: Object, now: i64) {
        if object.last_modified == 0 {
            object.last_modified = now;
        }
        self.map.write().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned(), Arc::new(object));
    }

    /// Removes an object; false if there was none.
    pub(crate) fn delete(&self, key: &str) -> bool {
        self.map.write().unwrap_or_else(PoisonError::into_inner).remove(key).is_some()
    }

    /// The object with this key.
    pub(crate) fn get(&self, key: &str) -> Option<Arc<Object>> {
        self.read().get(key).map(Arc::clone)
    }

    /// All objects, for a listing.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, BTreeMap<String, Arc<Object>>> {
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds every file below `dir`; keys are `prefix` plus the relative path. Gives the number of files.
    pub(crate) fn add_dir(&self, prefix: &str, dir: &Path) -> Result<usize> {
        let mut count = 0;
        let mut pending = vec![(dir.to_owned(), prefix.to_owned())];
        while let Some((folder, prefix)) = pending.pop() {
            let entries =
                fs::read_dir(&folder).with_context(|| format!("cannot read folder {}", folder.display()))?;
            for entry in entries {
                let entry = entry.with_context(|| format!("cannot read folder {}", folder.display()))?;
                let path = entry.path();
                let name = entry.file_name().into_string().ok();
                let name =
                    name.with_context(|| format!("{} is not UTF-8, so it cannot be a key", path.display()))?;
                let key = format!("{prefix}{name}");
                if path.is_dir() {
                    pending.push((path, format!("{key}/")));
                } else {
                    self.put(&key, Object::file(&path)?, 0);
                    count += 1;
                }
            }
        }
        Ok(count)
    }
}

/// A name of ETag form for these parts.
fn digest(parts: &[&[u8]]) -> String {
    let mut sha = Sha256::new();
    for part in parts {
        sha.update(part);
    }
    hex::upper(&sha.finalize()[..ETAG_BYTES])
}

/// The object form used where only a key and a size are known: computed bytes with the key's own seed.
pub(crate) fn object_for_key(key: &str, size: u64) -> Object {
    Object::synthetic(synthetic::seed_of(key), size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_has_the_form_of_oss_and_follows_the_content() {
        let first = Object::bytes("a");
        assert_eq!(first.etag.len(), 34);
        assert!(first.etag.trim_matches('"').bytes().all(|byte| b"0123456789ABCDEF".contains(&byte)));
        assert_eq!(first.etag, Object::bytes("a").etag);
        assert_ne!(first.etag, Object::bytes("b").etag);
        assert_ne!(Object::synthetic(1, 10).etag, Object::synthetic(2, 10).etag);
        assert!(Object::bytes("a").multipart(26).etag.ends_with("-26\""));
    }

    #[test]
    fn a_checksum_is_there_unless_left_out_or_too_dear() {
        assert!(Object::bytes("a").crc64().unwrap().is_some());
        assert!(Object::bytes("a").without_crc64().crc64().unwrap().is_none());
        assert!(Object::synthetic(1, LARGEST_CHECKSUM + 1).crc64().unwrap().is_none());
        assert!(Object::tiled(1, 700 << 30).crc64().unwrap().is_some());
    }

    #[test]
    fn a_folder_becomes_keys_with_slashes() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("a.bin"), "one").unwrap();
        fs::write(dir.path().join("sub/b.bin"), "three").unwrap();
        let objects = Objects::default();
        assert_eq!(objects.add_dir("models/", dir.path()).unwrap(), 2);
        let keys: Vec<String> = objects.read().keys().cloned().collect();
        assert_eq!(keys, ["models/a.bin", "models/sub/b.bin"]);
        assert_eq!(objects.get("models/sub/b.bin").unwrap().size(), 5);
        assert!(objects.delete("models/a.bin") && !objects.delete("models/a.bin"));
    }
}

//! The manifest of a model: the BLAKE3 of each block, signed with Ed25519 (RFC 8032) by whoever publishes the model.
//! A checksum tells what broke on the way; this tells what a peer made up. With one, a block from a peer counts only
//! when it has the hash of the manifest, so a node that was let in and lies is found at its first block. Bytes from
//! OSS need no proof. Made and checked by `agent::manifest`, used by `exchange`.
//!
//! The file is a line with the format's version and the signature in base64, and the JSON that is signed, to the byte.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{KeyPair, PKCS_ED25519};
use ring::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::error::Error;
use crate::base::{Layout, Object};

/// The key that signs, which stays with who publishes the model.
pub const PRIVATE_KEY: &str = "manifest-key.pem";
/// The key that nodes check with.
pub const PUBLIC_KEY: &str = "manifest-public.pem";

/// Begins the first line.
const MAGIC: &str = "ossc-manifest-1 ";
/// Signed before the JSON, so that no signature made for something else fits.
const CONTEXT: &[u8] = b"ossc manifest 1\n";
/// What stands before the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410 section 4).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// Longest manifest that is read, bytes: 664 GB in blocks of 128 KiB are 340 MB.
const LONGEST: u64 = 1 << 30;

/// What the blocks of a model must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// The bucket.
    pub bucket: String,
    /// Its objects.
    pub objects: Vec<Entry>,
}

/// One version of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Object key.
    pub key: String,
    /// Path below the model directory.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Version.
    pub etag: String,
    /// Bytes of a block, but for the last one.
    pub block_size: u64,
    /// BLAKE3 of each block, in hexadecimal.
    pub blocks: Vec<Hash>,
}

/// A BLAKE3 hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hash(blake3::Hash);

impl From<blake3::Hash> for Hash {
    fn from(hash: blake3::Hash) -> Self {
        Self(hash)
    }
}

impl From<Hash> for blake3::Hash {
    fn from(hash: Hash) -> Self {
        hash.0
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> Self {
        hash.0.to_string()
    }
}

impl TryFrom<String> for Hash {
    type Error = blake3::HexError;

    fn try_from(text: String) -> Result<Self, blake3::HexError> {
        blake3::Hash::from_hex(text).map(Self)
    }
}

impl Manifest {
    /// What the blocks of this version of an object of `bucket` must be, cut like this. None if the manifest does not say.
    #[must_use]
    pub fn blocks(&self, bucket: &str, object: &Object, layout: Layout) -> Option<Vec<blake3::Hash>> {
        let block_size = layout.block_size().bytes();
        let is_it = |entry: &&Entry| {
            entry.key == object.key
                && entry.etag == object.etag.as_str()
                && (entry.size, entry.block_size) == (object.size, block_size)
        };
        let entry = self.objects.iter().filter(|_| self.bucket == bucket).find(is_it)?;
        let complete = u32::try_from(entry.blocks.len()) == Ok(layout.block_count());
        complete.then(|| entry.blocks.iter().map(|hash| hash.0).collect())
    }

    /// Signs it with the key in `key` and writes it to `path`. Called by `agent::manifest`.
    ///
    /// # Errors
    /// When the key cannot be used, or the file is there or cannot be written.
    pub fn write(&self, path: &Path, key: &Path) -> Result<(), Error> {
        let bad_key = |why: String| Error::Manifest { what: "sign with", path: key.to_owned(), why };
        let pem = Zeroizing::new(fs::read(key).map_err(|error| bad_key(error.to_string()))?);
        let der = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|error| bad_key(error.to_string()))?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der());
        let pair = pair.map_err(|error| bad_key(format!("an Ed25519 key is needed: {error}")))?;
        let fail = |why: String| Error::Manifest { what: "write", path: path.to_owned(), why };
        let json = serde_json::to_vec(self).map_err(|error| fail(error.to_string()))?;
        let signature = BASE64.encode(pair.sign(&[CONTEXT, &json].concat()));
        let text = [MAGIC.as_bytes(), signature.as_bytes(), b"\n", &json].concat();
        create(path, &text, 0o644).map_err(|error| fail(error.to_string()))
    }

    /// Reads one that was signed with the private half of the key in `public_key`.
    ///
    /// # Errors
    /// When a file cannot be read, or the signature is another one's.
    pub fn read(path: &Path, public_key: &Path) -> Result<Self, Error> {
        let bad_key = |why: String| Error::Manifest { what: "check with", path: public_key.to_owned(), why };
        let pem = fs::read(public_key).map_err(|error| bad_key(error.to_string()))?;
        let der =
            SubjectPublicKeyInfoDer::from_pem_slice(&pem).map_err(|error| bad_key(error.to_string()))?;
        let raw = der.strip_prefix(&SPKI).filter(|raw| raw.len() == 32);
        let raw = raw.ok_or_else(|| bad_key("it is no Ed25519 public key".to_owned()))?;
        let fail = |why: String| Error::Manifest { what: "use", path: path.to_owned(), why };
        let facts = fs::metadata(path).map_err(|error| fail(error.to_string()))?;
        if facts.len() > LONGEST {
            return Err(fail(format!("it has more than {LONGEST} bytes")));
        }
        let text = fs::read(path).map_err(|error| fail(error.to_string()))?;
        let (signature, json) = split(&text).map_err(|why| fail(why.to_owned()))?;
        UnparsedPublicKey::new(&ED25519, raw)
            .verify(&[CONTEXT, json].concat(), &signature)
            .map_err(|_| fail(format!("it was not signed with the key of {}", public_key.display())))?;
        serde_json::from_slice(json).map_err(|error| fail(error.to_string()))
    }
}

/// Signature and JSON of a manifest's text.
pub(super) fn split(text: &[u8]) -> Result<(Vec<u8>, &[u8]), &'static str> {
    let rest =
        text.strip_prefix(MAGIC.as_bytes()).ok_or("it does not begin as a manifest of this version")?;
    let end = rest.iter().position(|byte| *byte == b'\n').ok_or("it ends in its first line")?;
    let (signature, json) = rest.split_at_checked(end).ok_or("it ends in its first line")?;
    let signature = BASE64.decode(signature).map_err(|_| "its signature is no base64")?;
    Ok((signature, json.get(1..).unwrap_or_default()))
}

/// Makes a pair of keys in `directory`, which is made if it is not there. Called by `cli`.
///
/// # Errors
/// When a file is there already or cannot be written.
pub fn make_keys(directory: &Path) -> Result<(), Error> {
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |why: String| Error::Manifest { what: "make", path, why }
    };
    fs::create_dir_all(directory).map_err(|error| fail(directory)(error.to_string()))?;
    let pair = KeyPair::generate_for(&PKCS_ED25519).map_err(|error| fail(directory)(error.to_string()))?;
    let private = directory.join(PRIVATE_KEY);
    create(&private, Zeroizing::new(pair.serialize_pem()).as_bytes(), 0o600)
        .map_err(|error| fail(&private)(error.to_string()))?;
    let public = directory.join(PUBLIC_KEY);
    create(&public, pair.public_key_pem().as_bytes(), 0o644).map_err(|error| fail(&public)(error.to_string()))
}

/// A new file; what is there is not overwritten.
fn create(path: &Path, content: &[u8], mode: u32) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::base::{BlockSize, ETag};

    fn model() -> (Object, Layout, Manifest) {
        let object = Object {
            key: "m/a".to_owned(),
            name: "a".to_owned(),
            size: BlockSize::MIN.bytes() + 1,
            etag: ETag::new("v1"),
            modified: SystemTime::UNIX_EPOCH,
            crc64: None,
        };
        let layout = Layout::new(object.size, BlockSize::MIN).unwrap();
        let entry = Entry {
            key: object.key.clone(),
            name: object.name.clone(),
            size: object.size,
            etag: object.etag.as_str().to_owned(),
            block_size: BlockSize::MIN.bytes(),
            blocks: vec![blake3::hash(b"first").into(), blake3::hash(b"second").into()],
        };
        (object, layout, Manifest { bucket: "b".to_owned(), objects: vec![entry] })
    }

    #[test]
    fn is_read_as_written_and_only_with_its_key() {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        make_keys(&path("ours")).unwrap();
        make_keys(&path("theirs")).unwrap();
        assert!(make_keys(&path("ours")).is_err(), "nothing is overwritten");
        let manifest = model().2;
        manifest.write(&path("m"), &path("ours").join(PRIVATE_KEY)).unwrap();
        assert_eq!(Manifest::read(&path("m"), &path("ours").join(PUBLIC_KEY)).unwrap(), manifest);
        let other = Manifest::read(&path("m"), &path("theirs").join(PUBLIC_KEY)).unwrap_err();
        assert!(other.to_string().contains("not signed with the key"), "{other}");
        let text = fs::read(path("m")).unwrap();
        for at in [0, MAGIC.len() + 3, text.len() - 2] {
            let mut text = text.clone();
            text[at] ^= 1;
            fs::write(path("changed"), &text).unwrap();
            assert!(Manifest::read(&path("changed"), &path("ours").join(PUBLIC_KEY)).is_err(), "byte {at}");
        }
        fs::write(path("cut"), &text[..text.len() / 2]).unwrap();
        assert!(Manifest::read(&path("cut"), &path("ours").join(PUBLIC_KEY)).is_err());
        // A key for something else.
        fs::write(path("rsa"), KeyPair::generate().unwrap().public_key_pem()).unwrap();
        let wrong = Manifest::read(&path("m"), &path("rsa")).unwrap_err();
        assert!(wrong.to_string().contains("no Ed25519 public key"), "{wrong}");
    }

    #[test]
    fn speaks_of_one_version_in_blocks_of_one_size() {
        let (object, layout, manifest) = model();
        assert_eq!(manifest.blocks("b", &object, layout).unwrap()[0], blake3::hash(b"first"));
        assert_eq!(manifest.blocks("other", &object, layout), None);
        let newer = Object { etag: ETag::new("v2"), ..object.clone() };
        assert_eq!(manifest.blocks("b", &newer, layout), None);
        let coarse = Layout::new(object.size, BlockSize::MAX).unwrap();
        assert_eq!(manifest.blocks("b", &object, coarse), None);
        let mut short = manifest.clone();
        short.objects[0].blocks.pop();
        assert_eq!(short.blocks("b", &object, layout), None);
    }
}

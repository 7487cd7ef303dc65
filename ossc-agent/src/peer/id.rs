//! Names of nodes and objects as all nodes say them. Pure. Whatever came over the wire becomes one of these
//! types by a check, so that no later code meets an odd name.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use crate::base::{Layout, Object};

/// Longest node or cluster name: a DNS label (RFC 1035 2.3.4), because certificates carry both as one.
const MAX_NAME: usize = 63;

/// A node's or cluster's name: lower-case letters, digits and hyphens, 1 to 63 of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

/// The text is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a name is 1 to 63 lower-case letters, digits and hyphens, with no hyphen at either end")]
pub struct BadName;

impl Name {
    /// For a node whose address makes no name.
    pub(super) fn fallback() -> Self {
        Self("node".to_owned())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let edge = text.starts_with('-') || text.ends_with('-');
        let good = !text.is_empty() && text.len() <= MAX_NAME && text.bytes().all(plain) && !edge;
        if good { Ok(Self(text.to_owned())) } else { Err(BadName) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One version of an object, cut into blocks of one size: equal on two nodes only if they mean the same bytes by
/// the same block numbers. 128 bits of SHA-256 over bucket, key, size, ETag and block size.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId([u8; 16]);

impl ObjectId {
    /// The id of an object in this bucket with this layout.
    #[must_use]
    pub fn of(bucket: &str, object: &Object, layout: Layout) -> Self {
        let mut hash = Sha256::new();
        for text in [bucket, &object.key, object.etag.as_str()] {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
        hash.update(object.size.to_le_bytes());
        hash.update(layout.block_size().bytes().to_le_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(hash.finalize().get(..16).unwrap_or(&[0; 16]));
        Self(id)
    }

    /// As it is on the wire.
    #[must_use]
    pub fn bytes(self) -> [u8; 16] {
        self.0
    }

    /// From the wire.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for ObjectId {
    type Err = ();

    /// Exactly 32 lower-case hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if text.len() != 32 || !digits {
            return Err(());
        }
        u128::from_str_radix(text, 16).map(|number| Self(number.to_be_bytes())).map_err(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::base::{BlockSize, ETag};

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "10-0-0-1-7600", "node-7"] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in ["", "A", "a.b", "-a", "a-", "a b", "a\r\nx", "ü", &"a".repeat(64)] {
            assert_eq!(bad.parse::<Name>(), Err(BadName), "{bad}");
        }
    }

    #[test]
    fn an_id_changes_with_everything_that_changes_a_block() {
        let object = |key: &str, etag: &str, size| Object {
            key: key.to_owned(),
            name: key.to_owned(),
            size,
            etag: ETag::new(etag),
            modified: SystemTime::UNIX_EPOCH,
            crc64: None,
        };
        let id = |bucket: &str, object: &Object, block_size| {
            ObjectId::of(bucket, object, Layout::new(object.size, block_size).unwrap())
        };
        let first = id("b", &object("k", "e", 9), BlockSize::MIN);
        assert_eq!(first.to_string().parse(), Ok(first));
        assert_eq!(id("b", &object("k", "e", 9), BlockSize::MIN), first);
        for other in [
            id("b2", &object("k", "e", 9), BlockSize::MIN),
            id("b", &object("k2", "e", 9), BlockSize::MIN),
            id("b", &object("k", "e2", 9), BlockSize::MIN),
            id("b", &object("k", "e", 10), BlockSize::MIN),
            id("b", &object("k", "e", 9), BlockSize::MAX),
        ] {
            assert_ne!(other, first);
        }
        for bad in ["", "0", &"G".repeat(32), &"+".repeat(32), &"0".repeat(33)] {
            assert!(bad.parse::<ObjectId>().is_err(), "{bad}");
        }
    }
}

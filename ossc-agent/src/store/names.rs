//! From object names to paths below the model directory. Pure.
//!
//! Object keys are bytes from outside; here they become names that cannot leave the model directory,
//! cannot meet the agent's own state, and do not exclude each other. What is refused is refused as a
//! whole load, with the key: a model with a file missing is worse than no model.
//! The second fence, against symlinks that appear on disk, is openat2 in `tree`.

use std::collections::HashMap;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::error::Error;
use crate::base::Object;

/// Directory below the model directory where the store keeps its state, and the prefix that no object
/// name may have.
pub const STATE_DIR: &str = ".ossc";
/// Longest component of a path on every supported file system (NAME_MAX, limits.h).
const COMPONENT_MAX: usize = 255;
/// Longest path with its final NUL (PATH_MAX, limits.h).
const PATH_MAX: usize = 4096;
/// Bytes of SHA-256 used to name state files: nobody can find two keys that share 128 bits.
const HASH_BYTES: usize = 16;

/// What is wrong with an object's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// `OSS_PATH` names this object itself.
    #[error("nothing is left of its key behind the prefix")]
    Empty,
    /// Starts with a slash.
    #[error("its name begins with '/'")]
    Absolute,
    /// `a//b`.
    #[error("its name has an empty component ('//')")]
    EmptyComponent,
    /// `.` or `..`.
    #[error("its name has a component '.' or '..'")]
    Dots,
    /// No path can hold it.
    #[error("its name contains a NUL byte")]
    Nul,
    /// A component is longer than a file name can be.
    #[error("its name has a component longer than 255 bytes")]
    LongComponent,
    /// The path would be longer than the kernel takes.
    #[error("its path would be longer than 4095 bytes")]
    LongPath,
    /// `.ossc…`.
    #[error("names that begin with '.ossc' are for the state of ossc-agent")]
    Reserved,
    /// A name that ends in a slash, with bytes in it.
    #[error("its name ends in '/', which makes it a directory, but it has contents")]
    DirectoryWithContents,
}

/// A file's name below the model directory, checked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Name(String);

impl Name {
    /// Checks one name, which has no slash at its end, for a model directory whose path has `base` bytes.
    pub(super) fn new(name: &str, base: usize) -> Result<Self, BadName> {
        if name.is_empty() {
            return Err(BadName::Empty);
        }
        if name.starts_with('/') {
            return Err(BadName::Absolute);
        }
        if name.contains('\0') {
            return Err(BadName::Nul);
        }
        for component in name.split('/') {
            match component {
                "" => return Err(BadName::EmptyComponent),
                "." | ".." => return Err(BadName::Dots),
                long if long.len() > COMPONENT_MAX => return Err(BadName::LongComponent),
                _ => {}
            }
        }
        if name.starts_with(STATE_DIR) {
            return Err(BadName::Reserved);
        }
        // A slash between, a NUL behind.
        if base.saturating_add(name.len()).saturating_add(2) > PATH_MAX {
            return Err(BadName::LongPath);
        }
        Ok(Self(name.to_owned()))
    }

    /// The name, with `/` between components.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as a relative path.
    pub(super) fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// The directory it is in, relative; empty for the model directory itself.
    pub(super) fn parent(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(parent, _)| parent)
    }

    /// The last component.
    pub(super) fn leaf(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, leaf)| leaf)
    }

    /// Every directory above it, nearest last: `a`, `a/b` for `a/b/c`.
    pub(super) fn ancestors(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('/').filter_map(|(at, _)| self.0.get(..at))
    }

    /// What its ready file and its hidden data file are called.
    pub(super) fn hash(&self) -> String {
        let digest = Sha256::digest(self.0.as_bytes());
        digest.iter().take(HASH_BYTES).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What a listing lays out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tree {
    /// The files, in name order, no name twice.
    pub(super) files: Vec<(Name, Object)>,
    /// Directories that exist as objects of their own: key and name.
    pub(super) directories: Vec<(String, Name)>,
}

/// Checks all names, one by one and against each other, for a model directory whose path has `base` bytes.
pub(super) fn check(objects: Vec<Object>, base: usize) -> Result<Tree, Error> {
    let mut tree = Tree::default();
    for object in objects {
        let refuse = |problem| Error::Name { key: object.key.clone(), problem };
        match object.name.strip_suffix('/') {
            Some(_) if object.size > 0 => return Err(refuse(BadName::DirectoryWithContents)),
            Some(directory) => {
                let name = Name::new(directory, base).map_err(refuse)?;
                tree.directories.push((object.key, name));
            }
            // The marker object of the prefix itself: the model directory.
            None if object.name.is_empty() && object.size == 0 && object.key.ends_with('/') => {}
            None => {
                let name = Name::new(&object.name, base).map_err(refuse)?;
                tree.files.push((name, object));
            }
        }
    }
    tree.files.sort_by(|(a, _), (b, _)| a.cmp(b));
    tree.check_conflicts()?;
    Ok(tree)
}

impl Tree {
    fn check_conflicts(&self) -> Result<(), Error> {
        let conflict = |first: &str, second: &str| {
            Err(Error::Conflict { first: first.to_owned(), second: second.to_owned() })
        };
        let mut files: HashMap<&str, &str> = HashMap::with_capacity(self.files.len());
        for (name, object) in &self.files {
            if let Some(other) = files.insert(name.as_str(), &object.key) {
                return conflict(other, &object.key);
            }
        }
        let above_files = self.files.iter().flat_map(|(name, o)| name.ancestors().map(move |a| (a, &o.key)));
        let above_dirs =
            self.directories.iter().flat_map(|(key, name)| name.ancestors().map(move |a| (a, key)));
        let themselves = self.directories.iter().map(|(key, name)| (name.as_str(), key));
        for (directory, key) in above_files.chain(above_dirs).chain(themselves) {
            if let Some(file) = files.get(directory) {
                return conflict(file, key);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::base::ETag;

    fn object(name: &str, size: u64) -> Object {
        Object {
            key: format!("m/{name}"),
            name: name.to_owned(),
            size,
            etag: ETag::new("x"),
            modified: SystemTime::UNIX_EPOCH,
            crc64: None,
        }
    }

    #[test]
    fn names_that_stay_below_are_taken() {
        let longest = "x".repeat(255);
        for name in ["a", "a/b/c", "mit Leer zeichen", "模型/权重.gguf", "a+b%2F", ".hidden", "...", &longest]
        {
            assert_eq!(Name::new(name, 10).map(|n| n.0), Ok(name.to_owned()));
        }
    }

    #[test]
    fn names_that_leave_or_cannot_be_are_refused() {
        let long = "x".repeat(256);
        let deep = "x/".repeat(2046) + "xxx";
        for (name, problem) in [
            ("", BadName::Empty),
            ("/etc/passwd", BadName::Absolute),
            ("a//b", BadName::EmptyComponent),
            ("a/", BadName::EmptyComponent),
            ("..", BadName::Dots),
            ("a/../b", BadName::Dots),
            ("./a", BadName::Dots),
            ("a\0b", BadName::Nul),
            (&long, BadName::LongComponent),
            (&deep, BadName::LongPath),
            (".ossc", BadName::Reserved),
            (".ossc/ready/x", BadName::Reserved),
            (".osscar", BadName::Reserved),
        ] {
            assert_eq!(Name::new(name, 10), Err(problem), "{name:?}");
        }
    }

    #[test]
    fn a_listing_becomes_files_in_order_and_directories() {
        let marker = Object { key: "m/".to_owned(), name: String::new(), ..object("", 0) };
        let tree = check(vec![object("b", 1), object("a/x", 0), object("d/", 0), object("a-", 2), marker], 1)
            .unwrap();
        let names: Vec<_> = tree.files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a-", "a/x", "b"]);
        assert_eq!(tree.directories, [("m/d/".to_owned(), Name("d".to_owned()))]);
    }

    #[test]
    fn objects_that_exclude_each_other_are_refused() {
        for names in [
            ["a", "a"].as_slice(),
            &["a", "a/b"],
            &["a/b/c", "a-", "a"],
            &["a/b", "a/b/c/d/e"],
            &["a", "a/"],
            &["a/b/", "a"],
        ] {
            let objects = names.iter().map(|name| object(name, 0)).collect();
            assert!(matches!(check(objects, 1), Err(Error::Conflict { .. })), "{names:?}");
        }
        assert!(check(vec![object("a/", 0), object("a/", 0), object("a/b", 1)], 1).is_ok());
        assert!(matches!(
            check(vec![object("a/", 1)], 1),
            Err(Error::Name { problem: BadName::DirectoryWithContents, .. })
        ));
    }

    #[test]
    fn parts_of_a_name() {
        let name = Name::new("a/b/c", 1).unwrap();
        assert_eq!((name.parent(), name.leaf()), ("a/b", "c"));
        assert_eq!(name.ancestors().collect::<Vec<_>>(), ["a", "a/b"]);
        assert_eq!(name.hash().len(), 32);
        assert_eq!(Name::new("c", 1).unwrap().parent(), "");
    }
}

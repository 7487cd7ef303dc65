//! Which files are traced: those given and those below directories given. Symbolic links are followed, as
//! model caches keep their files behind them; a file that is reached twice is traced once, under the first name.
//! Called once at start; a path that cannot be looked at ends the trace before it has begun.

use std::collections::HashSet;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc::O_PATH;

use super::Error;
use crate::base::FileId;

/// A file to trace. Its place in the list of all is its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Traced {
    /// As the user would find it.
    pub(super) path: PathBuf,
    /// Bytes, when the trace began.
    pub(super) size: u64,
}

impl Traced {
    /// The number of the file at this place of the list.
    pub(super) fn id(place: usize) -> FileId {
        FileId(u32::try_from(place).unwrap_or(u32::MAX))
    }

    /// A descriptor that names the file and reads nothing: opening it is no access anybody sees.
    pub(super) fn handle(&self) -> Result<File, Error> {
        OpenOptions::new()
            .read(true)
            .custom_flags(O_PATH)
            .open(&self.path)
            .map_err(|source| Error::Path { path: self.path.clone(), source })
    }
}

/// All regular files at and below `paths`, in the order of the paths and by name within each.
pub(super) fn collect(paths: &[PathBuf]) -> Result<Vec<Traced>, Error> {
    let mut found = Found::default();
    for path in paths {
        let fail = |source| Error::Path { path: path.clone(), source };
        let metadata = path.metadata().map_err(fail)?;
        if !metadata.is_file() && !metadata.is_dir() {
            return Err(fail(io::Error::other("it is neither a regular file nor a directory")));
        }
        found.take(path, &metadata).map_err(|(path, source)| Error::Path { path, source })?;
    }
    if found.files.is_empty() { Err(Error::NoFiles) } else { Ok(found.files) }
}

#[derive(Default)]
struct Found {
    files: Vec<Traced>,
    /// Device and inode of every file and directory met.
    met: HashSet<(u64, u64)>,
}

impl Found {
    fn take(&mut self, path: &Path, metadata: &Metadata) -> Result<(), (PathBuf, io::Error)> {
        let is_new = self.met.insert((metadata.dev(), metadata.ino()));
        if is_new && metadata.is_file() {
            self.files.push(Traced { path: path.to_owned(), size: metadata.len() });
        } else if is_new && metadata.is_dir() {
            let fail = |source| (path.to_owned(), source);
            let entries = path.read_dir().map_err(fail)?.collect::<Result<Vec<_>, _>>().map_err(fail)?;
            let mut below: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
            below.sort();
            for path in below {
                // A link to nowhere, or a file that has gone since, is nothing to trace.
                if let Ok(metadata) = path.metadata() {
                    self.take(&path, &metadata)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn takes_files_and_whole_trees_each_file_once() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("a/deep")).unwrap();
        for (name, size) in [("z.gguf", 5), ("a/deep/x", 7), ("a/b", 0)] {
            fs::write(root.join(name), vec![0; size]).unwrap();
        }
        symlink(root, root.join("a/round")).unwrap();
        symlink("deep/x", root.join("a/again")).unwrap();
        symlink("nowhere", root.join("a/broken")).unwrap();
        let collected = |paths: &[&str]| {
            let paths: Vec<_> = paths.iter().map(|path| root.join(path)).collect();
            let strip = |file: &Traced| file.path.strip_prefix(root).unwrap().display().to_string();
            collect(&paths).map(|files| files.iter().map(strip).collect::<Vec<_>>())
        };
        assert_eq!(collected(&[""]).unwrap(), ["a/again", "a/b", "z.gguf"]);
        assert_eq!(collected(&["z.gguf", "a"]).unwrap(), ["z.gguf", "a/again", "a/b"]);
        fs::create_dir(root.join("empty")).unwrap();
        assert!(matches!(collected(&["empty"]), Err(Error::NoFiles)));
        assert!(matches!(collected(&["a", "gone"]), Err(Error::Path { .. })));
        assert!(matches!(collect(&["/dev/null".into()]), Err(Error::Path { .. })));
        let file = Traced { path: root.join("z.gguf"), size: 5 };
        assert!(io::read_to_string(file.handle().unwrap()).is_err(), "the descriptor cannot read");
    }
}

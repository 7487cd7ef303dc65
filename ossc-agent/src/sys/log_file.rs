//! A file that lines are appended to and that a log rotator may take away: the log and the audit log.
//!
//! Opened with O_APPEND, so that a file that was copied and truncated goes on at its start without a hole
//! (logrotate(8), `copytruncate`). One that was renamed is let go by [`LogFile::reopen`], which the agent calls on
//! SIGHUP, or by itself where nobody sends a signal ([`LogFile::watched`]). Each write is made of whole lines and
//! goes to one file as a whole, so that no line is torn or lost by a rotation.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Permissions of a file that is made here: a log names objects and processes.
const MODE: u32 = 0o600;

/// The file, shared by those who write to it.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    /// Whether each write looks first if the name is still this file's.
    is_watched: bool,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// A write failed within a line, which the next one must not go on with.
    is_torn: bool,
}

impl LogFile {
    /// Opens it, or makes it.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open(path: &Path) -> io::Result<Self> {
        // Reopened from wherever the process works then.
        let path = std::path::absolute(path)?;
        let open = Open { file: append(&path)?, is_torn: false }.into();
        Ok(Self { path, is_watched: false, open })
    }

    /// The same for a process that gets no signal when the file is renamed, and writes little.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn watched(path: &Path) -> io::Result<Self> {
        Ok(Self { is_watched: true, ..Self::open(path)? })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Goes on with the file that has the name now, or a new one. Goes on with the old one if that fails.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn reopen(&self) -> io::Result<()> {
        // Opened before the lock is taken: who writes does not wait for the disk.
        let file = append(&self.path)?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        *open = Open { file, is_torn: false };
        Ok(())
    }

    /// Appends whole lines.
    ///
    /// # Errors
    /// Those of write(2); the lines, or some of them, are not there then.
    pub fn append(&self, lines: &[u8]) -> io::Result<()> {
        if self.is_watched && !self.has_its_name() {
            self.reopen()?;
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Open { file, is_torn } = &mut *open;
        if std::mem::take(is_torn) {
            file.write_all(b"\n")?;
        }
        let written = file.write_all(lines);
        *is_torn = written.is_err();
        written
    }

    fn has_its_name(&self) -> bool {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |about: io::Result<std::fs::Metadata>| about.map(|about| (about.dev(), about.ino())).ok();
        let (named, own) = (of(std::fs::metadata(&self.path)), of(open.file.metadata()));
        named.is_some() && named == own
    }
}

/// For loggers, which hand over one whole line at a time.
impl Write for &LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.append(line).map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(MODE).open(path)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn rotation_of_either_kind_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("log"), dir.path().join("log.1"));
        let log = LogFile::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        log.append(b"one\n").unwrap();
        fs::rename(&path, &old).unwrap();
        log.append(b"two\n").unwrap();
        assert_eq!(fs::read(&old).unwrap(), b"one\ntwo\n", "until it is told");
        log.reopen().unwrap();
        log.append(b"three\n").unwrap();
        assert_eq!(
            (fs::read(&old).unwrap(), fs::read(&path).unwrap()),
            (b"one\ntwo\n".into(), b"three\n".into())
        );
        fs::copy(&path, &old).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        log.append(b"four\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"four\n", "from the start, without a hole");
    }

    #[test]
    fn one_that_is_watched_follows_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("log"), dir.path().join("log.1"));
        let log = LogFile::watched(&path).unwrap();
        log.append(b"one\n").unwrap();
        fs::rename(&path, &old).unwrap();
        log.append(b"two\n").unwrap();
        assert_eq!((fs::read(&old).unwrap(), fs::read(&path).unwrap()), (b"one\n".into(), b"two\n".into()));
    }
}

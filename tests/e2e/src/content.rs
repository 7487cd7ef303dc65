//! What the bytes of a file must be, and the comparison with what was read.
//!
//! Driven by the reader binary, which gets a [`Target`] for each file on its command line, and by tests that look at
//! files themselves. The right bytes are computed from the object's seed or read from a reference file; never are
//! they taken from the file under test.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, bail};
use oss_server::synthetic;

/// Bytes compared at a time where a whole file is checked.
const CHUNK: usize = 1 << 20;

/// Where the right bytes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Those that the test server computes for an object with this seed.
    Synthetic(u64),
    /// Those of a file that is not under test.
    Like(PathBuf),
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Synthetic(seed) => write!(f, "synthetic:{seed}"),
            Self::Like(reference) => write!(f, "like:{}", reference.display()),
        }
    }
}

impl FromStr for Content {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("synthetic", seed)) => Ok(Self::Synthetic(seed.parse().context("seed of the content")?)),
            Some(("like", reference)) => Ok(Self::Like(reference.into())),
            _ => bail!("{text} is neither synthetic:SEED nor like:REFERENCE"),
        }
    }
}

impl Content {
    /// Writes the right bytes at `offset` into the whole of `out`.
    pub fn fill(&self, offset: u64, out: &mut [u8]) -> anyhow::Result<()> {
        match self {
            Self::Synthetic(seed) => synthetic::fill(*seed, offset, out),
            Self::Like(reference) => {
                File::open(reference)
                    .and_then(|file| file.read_exact_at(out, offset))
                    .with_context(|| format!("read the reference {}", reference.display()))?
            }
        }
        Ok(())
    }

    /// Compares what was read at `offset` with what belongs there.
    pub fn check(&self, offset: u64, found: &[u8]) -> Result<(), Mismatch> {
        let first_wrong = match self {
            Self::Synthetic(seed) => synthetic::check(*seed, offset, found),
            Self::Like(_) => {
                let mut expected = vec![0; found.len()];
                self.fill(offset, &mut expected).map_err(|error| Mismatch {
                    offset,
                    expected: format!("{error:#}"),
                    found: "bytes".to_owned(),
                })?;
                let wrong = expected.iter().zip(found).position(|(expected, found)| expected != found);
                wrong.map(|index| offset + index as u64)
            }
        };
        let Some(wrong) = first_wrong else { return Ok(()) };
        let mut expected = [0];
        let expected = match self.fill(wrong, &mut expected) {
            Ok(()) => format!("{:#04x}", expected[0]),
            Err(error) => format!("{error:#}"),
        };
        let index = usize::try_from(wrong - offset).unwrap_or(usize::MAX);
        let found = found.get(index).map_or_else(String::new, |byte| format!("{byte:#04x}"));
        Err(Mismatch { offset: wrong, expected, found })
    }
}

/// A file under test and what it must hold; on a command line `FILE=CONTENT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    path: PathBuf,
    content: Content,
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (path, content) = text.split_once('=').context("a file is given as FILE=CONTENT")?;
        Ok(Self { path: path.into(), content: content.parse()? })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.path.display(), self.content)
    }
}

impl Target {
    /// A file and its content.
    #[must_use]
    pub fn new(path: PathBuf, content: Content) -> Self {
        Self { path, content }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// As [`Content::fill`].
    pub fn fill(&self, offset: u64, out: &mut [u8]) -> anyhow::Result<()> {
        self.content.fill(offset, out)
    }

    /// As [`Content::check`].
    pub fn check(&self, offset: u64, found: &[u8]) -> Result<(), Mismatch> {
        self.content.check(offset, found)
    }

    /// Reads the file to its end and compares every byte and the length.
    pub fn check_whole(&self, size: u64) -> anyhow::Result<()> {
        let mut file = File::open(&self.path).with_context(|| format!("open {}", self.path.display()))?;
        let mut bytes = vec![0; CHUNK];
        let mut offset = 0;
        loop {
            let got = file.read(&mut bytes).with_context(|| format!("read {}", self.path.display()))?;
            if got == 0 {
                break;
            }
            self.check(offset, bytes.get(..got).unwrap_or_default())
                .with_context(|| format!("check {}", self.path.display()))?;
            offset += got as u64;
        }
        anyhow::ensure!(offset == size, "{} has {offset} bytes, not {size}", self.path.display());
        Ok(())
    }
}

/// The first place where a file is not what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    offset: u64,
    expected: String,
    found: String,
}

impl Mismatch {
    /// The file ended at `offset`, before the end that its size promised.
    #[must_use]
    pub fn early_end(offset: u64) -> Self {
        Self { offset, expected: "a byte".to_owned(), found: "the end of the file".to_owned() }
    }

    /// The digest of the whole file differs.
    #[must_use]
    pub fn digest(expected: &str, found: &str) -> Self {
        Self { offset: 0, expected: expected.to_owned(), found: found.to_owned() }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "offset={} expected={} found={}", self.offset, self.expected, self.found)
    }
}

impl std::error::Error for Mismatch {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_survive_the_command_line() {
        for target in [
            Target::new("/m/a b.bin".into(), Content::Synthetic(7)),
            Target::new("/m/c".into(), Content::Like("/ref/c".into())),
        ] {
            assert_eq!(target.to_string().parse::<Target>().unwrap(), target);
        }
    }

    #[test]
    fn the_first_wrong_byte_is_told() {
        let reference = tempfile::NamedTempFile::new().unwrap();
        let mut bytes = vec![0; 100];
        synthetic::fill(3, 50, &mut bytes);
        std::fs::write(reference.path(), [vec![1; 50], bytes.clone()].concat()).unwrap();
        for content in [Content::Synthetic(3), Content::Like(reference.path().into())] {
            assert_eq!(content.check(50, &bytes), Ok(()));
            let mut broken = bytes.clone();
            broken[10] = 0;
            let mismatch = content.check(50, &broken).unwrap_err();
            assert_eq!((mismatch.offset, mismatch.found.as_str()), (60, "0x00"));
        }
    }
}

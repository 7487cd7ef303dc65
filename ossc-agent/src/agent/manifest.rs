//! `ossc-agent manifest`: makes the manifest of a model from the files that were loaded, and compares files with one.
//! A manifest speaks for a model, so every byte is read and each file must have the checksum that OSS tells. Works
//! beside an agent or without one, and changes no file of the model. `cli` shows what was found; the format and the
//! signature are `peer::manifest`'s.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::path::Path;

use crc_fast::{CrcAlgorithm, Digest};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::verify::{FileReport, Finding, Report, Status, listed};
use super::{Error, ManifestError};
use crate::base::{BlockIndex, BlockSize, Layout, Object};
use crate::config::Config;
use crate::peer::manifest::{Entry, Hash, Manifest};
use crate::sys::file;

/// Bytes read at a time.
const PIECE: usize = 1 << 20;

/// What was made.
#[derive(Debug, Clone, Copy)]
pub struct Made {
    /// Files in the manifest.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Their blocks.
    pub blocks: usize,
}

/// What a file's bytes are.
struct Sums {
    crc64: u64,
    blocks: Vec<blake3::Hash>,
}

/// Reads the model of `config`, signs what its blocks are with `key`, and writes that to `out`. Called by `cli`.
///
/// # Errors
/// When OSS cannot be asked, a file cannot be read or is not what OSS has, or the manifest cannot be written.
pub fn create(config: &Config, key: &Path, out: &Path) -> Result<Made, Error> {
    let (runtime, client, objects) = listed(config)?;
    let total = objects.iter().map(|object| object.size).sum();
    // As the store does it.
    let block_size = config.store.block_size.unwrap_or_else(|| BlockSize::for_model(total));
    let mut manifest = Manifest { bucket: config.oss.bucket.clone(), objects: Vec::new() };
    for object in objects {
        let known = runtime.block_on(client.head(&object.key))?;
        if (known.size, &known.etag) != (object.size, &object.etag) {
            let why = "the object was replaced in OSS meanwhile; load it again".to_owned();
            return Err(ManifestError { name: object.name, why }.into());
        }
        let entry = entry(&config.store.model_dir, &object, known.crc64, block_size)?;
        manifest.objects.push(entry);
    }
    manifest.write(out, key)?;
    let blocks = manifest.objects.iter().map(|entry| entry.blocks.len()).sum();
    Ok(Made { files: manifest.objects.len(), bytes: total, blocks })
}

fn entry(
    model_dir: &Path,
    object: &Object,
    crc64: Option<u64>,
    block_size: BlockSize,
) -> Result<Entry, Error> {
    let fail = |why: String| ManifestError { name: object.name.clone(), why };
    let layout =
        Layout::new(object.size, block_size).ok_or_else(|| fail("it has too many blocks".to_owned()))?;
    let sums = read(model_dir, Path::new(&object.name), layout).map_err(|error| {
        fail(format!("{error}; every file must be there whole: let ossc-agent complete the load first"))
    })?;
    let expected = crc64.ok_or_else(|| fail("OSS tells no checksum to compare it with".to_owned()))?;
    if sums.crc64 != expected {
        let why =
            format!("its CRC-64 is {}, OSS says {expected}; remove the file and load it again", sums.crc64);
        return Err(fail(why).into());
    }
    Ok(Entry {
        key: object.key.clone(),
        name: object.name.clone(),
        size: object.size,
        etag: object.etag.as_str().to_owned(),
        block_size: block_size.bytes(),
        blocks: sums.blocks.into_iter().map(Hash::from).collect(),
    })
}

/// Compares the files below `model_dir` with a manifest that must be signed for `public_key`. OSS is not asked. Called
/// by `cli`.
///
/// # Errors
/// When the manifest cannot be used.
pub fn check(manifest: &Path, public_key: &Path, model_dir: &Path) -> Result<Report, Error> {
    let manifest = Manifest::read(manifest, public_key)?;
    let files: Vec<_> = manifest.objects.iter().map(|entry| compare(entry, model_dir)).collect();
    Ok(Report {
        status: files.iter().map(|file| file.status).max().unwrap_or(Status::Ok),
        oss_path: format!("the manifest of oss://{}", manifest.bucket),
        model_dir: model_dir.to_owned(),
        deep: true,
        files,
    })
}

fn compare(entry: &Entry, model_dir: &Path) -> FileReport {
    let mut report = FileReport {
        name: entry.name.clone(),
        status: Status::Ok,
        size: entry.size,
        ready: 0,
        etag: entry.etag.clone(),
        checksum_agrees: false,
        findings: Vec::new(),
    };
    let mut find = |status, what, advice| {
        report.status = status;
        report.findings.push(Finding { what, advice });
    };
    let layout = BlockSize::new(entry.block_size).and_then(|block_size| Layout::new(entry.size, block_size));
    let Some(layout) = layout else {
        let what = format!("the manifest cuts it into blocks of {} bytes", entry.block_size);
        find(Status::Different, what, "make the manifest again");
        return report;
    };
    match read(model_dir, Path::new(&entry.name), layout) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            find(Status::Incomplete, "its file is not there".to_owned(), "run ossc-agent to load it");
        }
        Err(error) => find(Status::Different, error.to_string(), "remove the file and run ossc-agent"),
        Ok(sums) => {
            let pairs = (0..).map(BlockIndex).zip(sums.blocks.iter().zip(&entry.blocks));
            let wrong = pairs.filter(|(_, (found, expected))| **found != blake3::Hash::from(**expected));
            for (block, _) in wrong {
                let what = format!("bytes {} are not those of the manifest", layout.range_of(block));
                find(Status::Different, what, "remove the file and run ossc-agent: it is fetched again");
            }
            if sums.blocks.len() != entry.blocks.len() {
                let what = format!("the manifest has {} hashes for it", entry.blocks.len());
                find(Status::Different, what, "make the manifest again");
            }
            report.ready = entry.size;
            report.checksum_agrees = report.status == Status::Ok;
        }
    }
    report
}

/// Reads a file of the model from its begin to its end. It may be held until an agent has its bytes.
fn read(model_dir: &Path, name: &Path, layout: Layout) -> io::Result<Sums> {
    let root = File::open(model_dir)?;
    let mut file =
        file::open_beneath(root.as_fd(), name, OFlag::O_RDONLY | OFlag::O_NOFOLLOW, Mode::empty())?;
    let (mut whole, mut blocks) = (Digest::new(CrcAlgorithm::Crc64Xz), Vec::new());
    let mut piece = vec![0; PIECE];
    for block in (0..layout.block_count()).map(BlockIndex) {
        let (mut left, mut hasher) = (layout.range_of(block).len(), blake3::Hasher::new());
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let count = file.read(piece.get_mut(..most).unwrap_or_default())?;
            let bytes = piece.get(..count).unwrap_or_default();
            if bytes.is_empty() {
                return Err(io::Error::other(format!("it is shorter than {} bytes", layout.size())));
            }
            whole.update(bytes);
            hasher.update(bytes);
            left -= count as u64;
        }
        blocks.push(hasher.finalize());
    }
    if file.read(piece.get_mut(..1).unwrap_or_default())? > 0 {
        return Err(io::Error::other(format!("it is longer than {} bytes", layout.size())));
    }
    Ok(Sums { crc64: whole.finalize(), blocks })
}

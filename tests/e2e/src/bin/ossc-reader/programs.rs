//! Reads by unmodified programs: cp, sha256sum, dd, Python's mmap and safetensors.
//!
//! Driven by `kind`. What a program writes to its standard output is verified here, not by the program. When it
//! fails, the errno is taken out of its message, as that is all a program passes on.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use e2e::content::{Mismatch, Target};
use nix::errno::Errno;
use sha2::{Digest, Sha256};

use crate::{Finding, pick};

/// Bytes compared at a time where a whole file is verified.
const CHUNK: usize = 1 << 20;
/// Slices that one Python process takes from its mapping.
const SLICES: usize = 8;
/// Tensors that one Python process reads.
const TENSORS: usize = 4;

/// argv: file, then offset and end of each slice. Writes the slices to standard output.
const MMAP_SCRIPT: &str = "
import mmap, sys
with open(sys.argv[1], 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
    for start, end in zip(sys.argv[2::2], sys.argv[3::2]):
        sys.stdout.buffer.write(mapping[int(start):int(end)])
";

/// argv: file, then names of tensors. Writes their bytes to standard output.
const SAFETENSORS_SCRIPT: &str = "
import sys
from safetensors import safe_open
with safe_open(sys.argv[1], framework='np') as file:
    for name in sys.argv[2:]:
        sys.stdout.buffer.write(file.get_tensor(name).tobytes())
";

/// cp(1) of the whole file, whose copy must be right.
pub(crate) fn cp(target: &Target, size: u64, scratch: &Path) -> Result<(), Finding> {
    let copy = scratch.join("copy");
    run(Command::new("cp").arg(target.path()).arg(&copy))?;
    let mut file = std::fs::File::open(&copy)?;
    let mut bytes = vec![0; CHUNK];
    let mut offset = 0;
    loop {
        let got = file.read(&mut bytes)?;
        if got == 0 {
            break;
        }
        target.check(offset, bytes.get(..got).unwrap_or_default())?;
        offset += got as u64;
    }
    if offset == size { Ok(()) } else { Err(Mismatch::early_end(offset).into()) }
}

/// sha256sum(1) of the whole file. A digest does not say which byte is wrong; the mismatch is told at 0.
pub(crate) fn sha256sum(target: &Target, size: u64) -> Result<(), Finding> {
    let output = run(Command::new("sha256sum").arg("-b").arg(target.path()))?;
    let found = output.get(..64).map(String::from_utf8_lossy).context("sha256sum printed no digest")?;
    let mut hasher = Sha256::new();
    let mut bytes = vec![0; CHUNK];
    let mut offset = 0;
    while offset < size {
        let length = usize::try_from(size - offset).unwrap_or(CHUNK).min(CHUNK);
        let part = bytes.get_mut(..length).unwrap_or_default();
        target.fill(offset, part)?;
        hasher.update(&*part);
        offset += length as u64;
    }
    let expected: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if found == expected { Ok(()) } else { Err(Mismatch::digest(&expected, &found).into()) }
}

/// dd(1) of the range.
pub(crate) fn dd(target: &Target, range: Range<u64>) -> Result<(), Finding> {
    let mut input = std::ffi::OsString::from("if=");
    input.push(target.path());
    let output = run(Command::new("dd").arg(input).args([
        "bs=64K".to_owned(),
        "status=none".to_owned(),
        "iflag=skip_bytes,count_bytes".to_owned(),
        format!("skip={}", range.start),
        format!("count={}", range.end - range.start),
    ]))?;
    check_slices(target, &[range], &output)
}

/// Slices of a mapping of the whole file: the given range and some random ones.
pub(crate) fn python_mmap(
    target: &Target,
    size: u64,
    range: Range<u64>,
    rng: &mut fastrand::Rng,
) -> Result<(), Finding> {
    let mut slices = vec![range];
    slices.resize_with(SLICES, || pick::random(rng, size));
    let arguments = slices.iter().flat_map(|slice| [slice.start.to_string(), slice.end.to_string()]);
    let output = python(MMAP_SCRIPT, target.path(), arguments)?;
    check_slices(target, &slices, &output)
}

/// Tensors of a safetensors file, whose places are read from the header of the reference.
pub(crate) fn safetensors(target: &Target, rng: &mut fastrand::Rng) -> Result<(), Finding> {
    let mut tensors = tensors(target)?;
    rng.shuffle(&mut tensors);
    tensors.truncate(TENSORS);
    let output = python(SAFETENSORS_SCRIPT, target.path(), tensors.iter().map(|(name, _)| name.clone()))?;
    let slices: Vec<_> = tensors.into_iter().map(|(_, range)| range).collect();
    check_slices(target, &slices, &output)
}

/// Name and place in the file of each tensor. The format: u64 header length, JSON header, then the data that the
/// header's `data_offsets` count from (huggingface/safetensors README, "Format").
fn tensors(target: &Target) -> anyhow::Result<Vec<(String, Range<u64>)>> {
    let mut length = [0; 8];
    target.fill(0, &mut length)?;
    let length = u64::from_le_bytes(length);
    let mut header = vec![0; usize::try_from(length).context("safetensors header")?];
    target.fill(8, &mut header)?;
    let header: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&header).context("read the safetensors header of the reference")?;
    let data = 8 + length;
    header
        .into_iter()
        .filter(|(name, _)| name != "__metadata__")
        .map(|(name, tensor)| {
            let offset = |index: usize| tensor["data_offsets"][index].as_u64().context("data_offsets");
            Ok((name, data + offset(0)?..data + offset(1)?))
        })
        .collect()
}

/// Verifies the slices, one after the other in `output`.
fn check_slices(target: &Target, slices: &[Range<u64>], mut output: &[u8]) -> Result<(), Finding> {
    for slice in slices {
        let length = usize::try_from(slice.end - slice.start).map_err(|_| Errno::EOVERFLOW)?;
        let Some((bytes, rest)) = output.split_at_checked(length) else {
            return Err(Mismatch::early_end(slice.start + output.len() as u64).into());
        };
        target.check(slice.start, bytes)?;
        output = rest;
    }
    Ok(())
}

/// Runs a script with the tests' Python.
fn python(
    script: &str,
    file: &Path,
    arguments: impl Iterator<Item = impl AsRef<OsStr>>,
) -> Result<Vec<u8>, Finding> {
    run(Command::new(e2e::python::interpreter()?).args(["-c", script]).arg(file).args(arguments))
}

/// Runs a program to its end and gives its standard output, or the errno that its message names.
fn run(command: &mut Command) -> Result<Vec<u8>, Finding> {
    let output = e2e::sys::die_with_parent(command).env("LC_ALL", "C").stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let message = String::from_utf8_lossy(&output.stderr);
    if let Some(errno) = named_errno(&message) {
        // The program's own words help where the errno alone does not.
        std::io::stderr().write_all(&output.stderr)?;
        return Err(errno.into());
    }
    Err(Finding::Broken(failure(command, &message).unwrap_or_else(|error| error)))
}

fn failure(command: &Command, message: &str) -> anyhow::Result<anyhow::Error> {
    bail!("{} failed: {}", command.get_program().display(), message.trim())
}

/// The errno whose text, as the C library words it, stands in a program's message.
fn named_errno(message: &str) -> Option<Errno> {
    [Errno::EIO, Errno::ESTALE, Errno::EACCES, Errno::EPERM, Errno::ENOENT, Errno::ENODEV, Errno::ETIMEDOUT]
        .into_iter()
        .find(|errno| {
            // "Input/output error (os error 5)"
            let worded = std::io::Error::from(*errno).to_string();
            worded.split(" (os error").next().is_some_and(|text| message.contains(text))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errnos_are_found_in_messages_of_programs() {
        for (message, errno) in [
            ("cp: error reading 'a': Input/output error", Some(Errno::EIO)),
            ("OSError: [Errno 5] Input/output error", Some(Errno::EIO)),
            ("dd: failed to open 'x': No such file or directory", Some(Errno::ENOENT)),
            ("something else", None),
        ] {
            assert_eq!(named_errno(message), errno, "{message}");
        }
    }
}

//! Makes safetensors files: the real format around computed tensors.
//!
//! Driven by tests that have Python's safetensors read them. The format is a u64 header length, a JSON header, and
//! the tensors' bytes, which the header's `data_offsets` count from the end of the header (README of
//! huggingface/safetensors, "Format").

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use serde_json::{Map, json};

use crate::content::Content;

/// Writes a file of `tensors` tensors of `bytes` bytes each.
pub fn write_safetensors(path: &Path, seed: u64, tensors: usize, bytes: usize) -> anyhow::Result<()> {
    let mut header = Map::new();
    for tensor in 0..tensors {
        let offsets = [tensor * bytes, (tensor + 1) * bytes];
        let entry = json!({ "dtype": "U8", "shape": [bytes], "data_offsets": offsets });
        header.insert(format!("layers.{tensor:03}.weight"), entry);
    }
    let header = serde_json::to_vec(&header)?;
    let file = File::create(path).with_context(|| format!("make {}", path.display()))?;
    let mut file = BufWriter::new(file);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    let mut tensor = vec![0; bytes];
    for index in 0..tensors {
        Content::Synthetic(seed).fill((index * bytes) as u64, &mut tensor)?;
        file.write_all(&tensor)?;
    }
    file.flush().with_context(|| format!("write {}", path.display()))
}

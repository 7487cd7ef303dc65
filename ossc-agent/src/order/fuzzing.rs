//! Learned orders and heads of model files, as functions of bytes for fuzzers. Driven by `crate::fuzzing`. A panic
//! means that a plan leaves its files, or that a head's length is believed that the bytes cannot tell.

use std::collections::HashSet;

use super::model::ModelId;
use super::plan_file::Orders;
use super::{Head, default_plan, head_len, merge, opening};
use crate::base::{BlockSize, FileId, Layout};

/// Longest head that `head` believes.
const MAX_HEAD: u64 = 256 << 20;
/// Blocks of a model up to which its orders are merged here, to keep each run short.
const MOST_BLOCKS: u32 = 1 << 12;

/// A file of the shelf.
pub(crate) fn orders(bytes: &[u8]) {
    let _id = std::str::from_utf8(bytes).ok().and_then(ModelId::parse);
    let Ok(orders) = Orders::parse(bytes) else { return };
    let again = Orders::parse(&orders.encode());
    assert_eq!(again.as_ref().ok(), Some(&orders), "it is not read as it was written");
    assert_eq!(again.map(|again| again.id()).ok(), Some(orders.id()));
    let layouts: Option<Vec<_>> =
        orders.files.iter().map(|(_, size)| Layout::new(*size, BlockSize::MIN)).collect();
    let Some(layouts) = layouts else { return };
    if layouts.iter().fold(0_u32, |sum, layout| sum.saturating_add(layout.block_count())) > MOST_BLOCKS {
        return;
    }
    let sizes = || layouts.iter().zip(0..).map(|(layout, file)| (FileId(file), layout.size()));
    for command in orders.commands.keys() {
        let runs = orders.runs(command, "version");
        let steps: Vec<_> = runs.iter().map(|run| run.steps.as_slice()).collect();
        let plan = merge(&layouts, &steps);
        let mut seen = HashSet::new();
        for (file, range) in &plan {
            let layout = layouts[file.index()];
            assert!(!range.is_empty() && range.end() <= layout.size(), "{file:?} {range}");
            assert!(
                layout.blocks_of(*range).all(|block| seen.insert((*file, block))),
                "twice: {file:?} {range}"
            );
        }
        for (file, range) in opening(&default_plan(sizes()), &plan) {
            assert!(range.end() <= layouts[file.index()].size());
        }
    }
}

/// The first bytes of a model file.
pub(crate) fn heads(bytes: &[u8]) {
    for name in ["m.gguf", "m.safetensors", "m.bin"] {
        match head_len(name, bytes) {
            Head::Known(len) => {
                assert!(len <= MAX_HEAD);
                // What is behind the head has no say.
                let end = bytes.len().min(usize::try_from(len).unwrap_or(usize::MAX));
                let cut = head_len(name, &bytes[..end]);
                assert!(cut == Head::Known(len) || (end as u64) < 9, "{name}: {len}, {cut:?}");
            }
            Head::NeedMore(more) => {
                assert!(more > bytes.len() as u64 && more <= MAX_HEAD, "{name}: {more}")
            }
            Head::Unknown => {}
        }
    }
}

//! Settings of the store.

use std::path::PathBuf;

use crate::base::BlockSize;

/// Where and in what pieces.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the files appear.
    pub model_dir: PathBuf,
    /// Overrides `BlockSize::for_model`.
    pub block_size: Option<BlockSize>,
}

//! Moving bytes. (stub: signatures of the contract)
use std::sync::Arc;

use nix::errno::Errno;

use crate::base::{ByteRange, FileId};

/// Why blocks could not be had for good; cheap to clone, one per cause.
#[derive(Debug, Clone)]
pub struct Failure(Arc<String>);

impl Failure {
    /// What the reader's system call returns.
    pub fn errno(&self) -> Errno {
        unimplemented!()
    }
}

/// Called once, from a worker thread, when a demanded range is ready or lost for good. Must not block.
pub type Done = Box<dyn FnOnce(Result<(), Failure>) + Send>;

/// What the agent's loop wants to know.
#[derive(Debug)]
pub enum Event {
    /// Every block is there and the checksum agrees (or OSS has none).
    Complete(FileId),
    /// The file cannot be completed.
    Failed(FileId, Failure),
}

/// Handle to queue and workers.
#[derive(Debug, Clone)]
pub struct Fetcher {}

impl Fetcher {
    /// A reader waits for `range`: fetch it before all else, then call `done`. Calls it at once when ready.
    pub fn demand(&self, _file: FileId, _range: ByteRange, _done: Done) {
        unimplemented!()
    }
    /// Expected soon; appended to the planned lane.
    pub fn plan(&self, _file: FileId, _range: ByteRange) {
        unimplemented!()
    }
}

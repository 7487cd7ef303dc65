//! What `Store::open` found and did, for the agent to log.

use super::recover::Plan;
use crate::base::Object;

/// Counts and names of one opening.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Files of which nothing was there.
    pub new: Tally,
    /// Incomplete files of an earlier run that go on; `bytes` is what they have already.
    pub resumed: Tally,
    /// Complete files of an earlier run, used as they are.
    pub complete: Tally,
    /// Names of complete files whose object changed in OSS: replaced when the new version is published.
    /// They are counted in `new`, too.
    pub replaced: Vec<String>,
    /// Names of complete files whose object is no longer listed: left where they are.
    pub gone: Vec<String>,
}

/// A number of files and of bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Files.
    pub files: u32,
    /// Bytes.
    pub bytes: u64,
}

impl Tally {
    fn add(&mut self, bytes: u64) {
        self.files = self.files.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

impl Report {
    /// Counts one object.
    pub(super) fn count(&mut self, object: &Object, plan: &Plan) {
        match plan {
            Plan::Keep { .. } => self.complete.add(object.size),
            Plan::Resume { record, .. } => self.resumed.add(record.ready_bytes()),
            Plan::New { replaces, .. } => {
                self.new.add(object.size);
                if *replaces {
                    self.replaced.push(object.name.clone());
                }
            }
        }
    }
}

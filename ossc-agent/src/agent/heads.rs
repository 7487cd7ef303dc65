//! Plans the metadata heads of the files. The default order fetches the first bytes of every file; when they
//! are there this looks into them and plans the rest of the head, until it is complete. Driven by the loop.

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::base::{ByteRange, FileId};
use crate::fetch::Fetcher;
use crate::order::{self, Plan};
use crate::store::{File, Store};

/// A head longer than this is not read into memory; the largest seen is 6 MB (GGUF, 152 000 tokens).
const MAX_HEAD: u64 = 64 << 20;

/// The bytes of a file's head up to `end` are ready.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeadReady {
    file: FileId,
    end: u64,
}

/// Plans heads and hears of them.
pub(super) struct Heads {
    sender: UnboundedSender<HeadReady>,
    receiver: UnboundedReceiver<HeadReady>,
}

impl Heads {
    /// Plans the order the load begins with: head and end of every file, and what was learned.
    pub(super) fn plan(store: &Store, fetcher: &Fetcher, learned: &Plan) -> Self {
        let (sender, receiver) = unbounded_channel();
        let heads = Self { sender, receiver };
        let default: Plan =
            order::default_plan(store.files().iter().map(|file| (file.id(), file.layout().size())));
        for (file, range) in order::opening(&default, learned) {
            fetcher.plan(file, range);
        }
        // They are planned; now to hear when they are there.
        for (file, range) in default.into_iter().filter(|(_, range)| range.start() == 0) {
            heads.follow(fetcher, file, range);
        }
        heads
    }

    /// The next piece of a head that has arrived. Cancel safe.
    pub(super) async fn next(&mut self) -> HeadReady {
        match self.receiver.recv().await {
            Some(ready) => ready,
            // `self.sender` lives as long as the receiver.
            None => std::future::pending().await,
        }
    }

    /// Looks into the head and plans what is missing of it.
    pub(super) fn look(&self, store: &Store, fetcher: &Fetcher, ready: HeadReady) {
        let Some(file) = store.file(ready.file) else { return };
        let Some(prefix) = prefix(file, ready.end) else { return };
        let name = &file.object().name;
        if let Some(rest) = order::rest_of_head(name, file.layout().size(), &prefix) {
            tracing::debug!(file = %name, %rest, "planning the rest of the head");
            self.follow(fetcher, ready.file, rest);
        }
    }

    fn follow(&self, fetcher: &Fetcher, file: FileId, range: ByteRange) {
        let sender = self.sender.clone();
        let done = move |outcome: Result<(), _>| {
            // A head that cannot be had is reported by whoever reads it; a closed channel means the agent ends.
            if outcome.is_ok() {
                sender.send(HeadReady { file, end: range.end() }).ok();
            }
        };
        fetcher.plan_then(file, range, Box::new(done));
    }
}

/// The first bytes of a file, which are ready; None if there are too many or they cannot be read.
fn prefix(file: &File, end: u64) -> Option<Vec<u8>> {
    if end > MAX_HEAD {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(end).ok()?];
    match file.read_at(0, &mut bytes) {
        Ok(read) => {
            bytes.truncate(read);
            Some(bytes)
        }
        Err(error) => {
            tracing::debug!(%error, "head not read");
            None
        }
    }
}

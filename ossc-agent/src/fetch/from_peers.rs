//! Where a block comes from while there are peers: them, or the origin when they say so. The one place where `fetch`
//! meets `peer`, besides the choice of the next block (`queue`). Without peers everything here is a no.

use tokio::sync::watch;

use super::lanes::Share;
use super::queue::Flow;
use super::threads::Phase;
use super::transfer::{Transfer, Trouble};
use super::worker::Shared;
use crate::base::{BlockIndex, FileId, Lane};
use crate::peer::{BodyError, Mode, Next, OriginRead, Peers};
use crate::store;

impl Share for Peers {
    fn claim(&self, file: FileId, block: BlockIndex) -> bool {
        Self::claim(self, file, block)
    }

    fn choose(&self, wanted: &mut dyn Iterator<Item = (FileId, BlockIndex)>) -> Option<(FileId, BlockIndex)> {
        Self::choose(self, wanted)
    }
}

/// What came of asking peers.
pub(super) enum FromPeers {
    /// The origin is to be read; peers know while this is held.
    Not(Option<OriginRead>),
    /// The extent has arrived, or its file is given up.
    There,
    /// The load ends.
    Ended,
    /// The file cannot be written.
    Write(store::Error),
}

/// Gets an extent from peers, if it is one block and they have it.
pub(super) async fn from_peers(
    shared: &Shared,
    transfer: &mut Transfer<'_>,
    lane: Lane,
    phase: &mut watch::Receiver<Phase>,
) -> FromPeers {
    let Some(peers) = &shared.peers else { return FromPeers::Not(None) };
    let extent = transfer.left().clone();
    if extent.blocks.len() != 1 || peers.mode() != Mode::Sharing {
        return FromPeers::Not(Some(peers.read_origin(extent.file, extent.blocks)));
    }
    let mut fetching = peers.fetch(extent.file, BlockIndex(extent.blocks.start), lane == Lane::Demand);
    loop {
        let next = tokio::select! {
            next = fetching.next() => next,
            _ = phase.wait_for(|phase| *phase >= Phase::Draining) => return FromPeers::Ended,
        };
        let mut body = match next {
            Next::Body(body) => body,
            Next::Origin(reading) => return FromPeers::Not(Some(reading)),
        };
        match transfer.receive(&mut *body, &shared.limit, None).await {
            Ok(Flow::Continue | Flow::Stop) => {
                fetching.received(body, Ok(()));
                return FromPeers::There;
            }
            Err(
                trouble @ (Trouble::Source(_)
                | Trouble::Still { .. }
                | Trouble::Crawls
                | Trouble::SlowToEnd { .. }),
            ) => {
                tracing::debug!(?trouble, "a peer's block did not come");
                let cause =
                    if let Trouble::Source(fault) = &trouble { fault.cause.downcast_ref() } else { None };
                // Whatever else it is, it did not come whole.
                let broken = BodyError::Transport(std::io::ErrorKind::UnexpectedEof.into());
                fetching.received(body, Err(cause.unwrap_or(&broken)));
                transfer.restart_block();
            }
            Err(Trouble::Write(error)) => return FromPeers::Write(error),
        }
    }
}

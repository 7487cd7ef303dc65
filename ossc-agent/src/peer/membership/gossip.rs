//! Members by gossip: a node that knows one other learns of all, and of their deaths, within a second or two. The
//! protocol is chitchat's; its messages travel as `POST /v1/gossip` on the port that blocks do, so that they are
//! as authentic as those, and may be longer than a datagram.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chitchat::transport::{Socket, Transport};
use chitchat::{
    ChitchatConfig, ChitchatHandle, ChitchatId, ChitchatMessage, Deserializable as _, FailureDetectorConfig,
    Serializable as _, spawn_chitchat,
};
use tokio::sync::{Semaphore, mpsc};

use super::Membership;
use crate::peer::link::Send;
use crate::peer::{Inner, lock};

/// Between two rounds. With chitchat's threshold (phi 8) a death among 50 nodes was seen after 1.4 to 2 s.
const ROUND: Duration = Duration::from_millis(200);
/// How long dead nodes and deleted keys are remembered.
const GRACE: Duration = Duration::from_secs(600);
/// Messages under way at a time; more are dropped, as datagrams would be.
const MOST_SENT: usize = 32;
/// Messages not looked at yet; more are dropped.
const MOST_RECEIVED: usize = 256;

/// The messages that the server takes from peers.
pub(in crate::peer) type Incoming = mpsc::Sender<(SocketAddr, ChitchatMessage)>;

/// Live nodes as chitchat sees them.
pub(super) struct Gossip {
    handle: ChitchatHandle,
}

impl Gossip {
    /// Begins to gossip with the seeds. `address` is where others reach this node.
    pub(super) async fn start(
        inner: &Arc<Inner>,
        seeds: Vec<String>,
        address: SocketAddr,
    ) -> anyhow::Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let generation = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let config = ChitchatConfig {
            chitchat_id: ChitchatId::new(inner.me.as_str(), generation, address),
            cluster_id: inner.cluster.to_string(),
            gossip_interval: ROUND,
            listen_addr: address,
            seed_nodes: seeds,
            failure_detector_config: FailureDetectorConfig {
                initial_interval: ROUND * 5,
                ..Default::default()
            },
            marked_for_deletion_grace_period: GRACE,
            catchup_callback: None,
            extra_liveness_predicate: None,
        };
        let transport = OverHttp { inner: Arc::downgrade(inner), address };
        Ok(Self { handle: spawn_chitchat(config, Vec::new(), &transport).await? })
    }
}

impl Membership for Gossip {
    async fn members(&mut self) -> Vec<SocketAddr> {
        let live = |chitchat: &mut chitchat::Chitchat| {
            chitchat.live_nodes().map(|node| node.gossip_advertise_addr).collect()
        };
        self.handle.with_chitchat(live).await
    }
}

/// A message of the wire.
pub(in crate::peer) fn parse(mut bytes: &[u8]) -> Option<ChitchatMessage> {
    let message = ChitchatMessage::deserialize(&mut bytes).ok()?;
    bytes.is_empty().then_some(message)
}

struct OverHttp {
    inner: Weak<Inner>,
    address: SocketAddr,
}

#[async_trait::async_trait]
impl Transport for OverHttp {
    async fn open(&self, _listen: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let (sender, incoming) = mpsc::channel(MOST_RECEIVED);
        if let Some(inner) = self.inner.upgrade() {
            *lock(&inner.gossip) = Some(sender);
        }
        let under_way = Arc::new(Semaphore::new(MOST_SENT));
        Ok(Box::new(Post { inner: Weak::clone(&self.inner), address: self.address, incoming, under_way }))
    }
}

struct Post {
    inner: Weak<Inner>,
    address: SocketAddr,
    incoming: mpsc::Receiver<(SocketAddr, ChitchatMessage)>,
    under_way: Arc<Semaphore>,
}

#[async_trait::async_trait]
impl Socket for Post {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        let inner = self.inner.upgrade().ok_or_else(|| anyhow::anyhow!("the exchange has ended"))?;
        let Ok(place) = Arc::clone(&self.under_way).try_acquire_owned() else { return Ok(()) };
        let body = message.serialize_to_vec();
        let headers = [("x-ossc-address", self.address.to_string())];
        tokio::spawn(async move {
            let send =
                Send { to, line: "POST /v1/gossip", headers: &headers, body: &body, wait: Duration::ZERO };
            match inner.pool.ask(send).await {
                Ok((_, body)) => drop(body.whole().await),
                Err(error) => tracing::debug!(%error, %to, "a gossip message was not delivered"),
            }
            drop(place);
        });
        Ok(())
    }

    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        self.incoming.recv().await.ok_or_else(|| anyhow::anyhow!("the exchange has ended"))
    }
}

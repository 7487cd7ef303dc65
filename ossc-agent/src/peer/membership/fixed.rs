//! Members from a list: addresses, and names that are looked up again from time to time, so that a name may stand for
//! all nodes (a headless service).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Membership;

/// Between two look-ups.
const AGAIN: Duration = Duration::from_secs(10);
/// While a name has no address.
const SOON: Duration = Duration::from_secs(1);

/// The list.
#[derive(Debug)]
pub(super) struct Fixed {
    seeds: Vec<String>,
    found: Vec<SocketAddr>,
    next: Option<Instant>,
}

impl Fixed {
    /// `seeds` are `HOST:PORT`.
    pub(super) fn new(seeds: Vec<String>) -> Self {
        Self { seeds, found: Vec::new(), next: None }
    }
}

impl Membership for Fixed {
    async fn members(&mut self) -> Vec<SocketAddr> {
        let now = Instant::now();
        if self.next.is_some_and(|next| now < next) {
            return self.found.clone();
        }
        let mut found = BTreeSet::new();
        let mut all = true;
        for seed in &self.seeds {
            match tokio::net::lookup_host(seed).await {
                Ok(addresses) => found.extend(addresses),
                Err(error) => {
                    all = false;
                    tracing::debug!(%error, seed, "a seed has no address");
                }
            }
        }
        self.next = Some(now + if all { AGAIN } else { SOON });
        self.found = found.into_iter().collect();
        self.found.clone()
    }
}

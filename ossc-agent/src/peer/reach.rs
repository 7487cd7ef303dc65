//! Whether the peers that are named at first can be reached and let this node in, asked before a load by `doctor`.
//!
//! The question is the one that members ask each other all the time (`membership`), over a connection of its own.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::auth::Auth;
use super::link::Pool;
use super::{Config, Error, Name, membership, name_of};

/// What came of one seed.
#[derive(Debug)]
pub struct Reached {
    /// As it is configured.
    pub seed: String,
    /// What came of each of its addresses, or why it has none.
    pub addresses: io::Result<Vec<(SocketAddr, Answer)>>,
}

/// What one address said.
#[derive(Debug)]
pub enum Answer {
    /// A node of this cluster, after so long.
    Node(Name, Duration),
    /// Nobody listens there, or nothing comes back.
    Nobody(io::Error),
    /// Somebody who does not let this node in, or whom this node does not believe.
    Refused(io::Error),
}

/// Asks every seed.
///
/// # Errors
/// This node's own keys cannot be used.
pub async fn reach(config: &Config) -> Result<Vec<Reached>, Error> {
    let me = config.node.clone().unwrap_or_else(|| name_of(config.advertise.unwrap_or(config.listen)));
    let auth = Arc::new(Auth::new(&config.security, &config.cluster, &me)?);
    let pool = Arc::new(Pool::new(auth, config.cluster.clone(), me, config.sources.clone()));
    let mut all = Vec::new();
    for seed in &config.seeds {
        let addresses = match tokio::net::lookup_host(seed).await {
            Ok(found) => {
                let mut answers = Vec::new();
                for address in found {
                    answers.push((address, ask(&pool, address).await));
                }
                Ok(answers)
            }
            Err(error) => Err(error),
        };
        all.push(Reached { seed: seed.clone(), addresses });
    }
    Ok(all)
}

async fn ask(pool: &Arc<Pool>, address: SocketAddr) -> Answer {
    let asked = Instant::now();
    match membership::have(pool, address).await {
        Ok(news) => Answer::Node(news.name, asked.elapsed()),
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable => Answer::Nobody(error),
            _ => Answer::Refused(error),
        },
    }
}

//! Who is there. Members come from a [`Membership`]; this file asks each of them again and again what it has, which
//! is also how its death is noticed. New members are asked at once, all of them while they are few, and a changing
//! part of them when they are many.

mod fixed;
pub(super) mod gossip;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::task::JoinSet;

use super::link::{Pool, Send};
use super::{Inner, lock, wire};
use crate::peer::swarm::News;

/// Between two rounds.
pub(super) const ROUND: Duration = Duration::from_millis(250);
/// Members asked in a round, at most.
pub(super) const A_ROUND: usize = 8;
/// A member that has not answered for so long is gone.
const GONE: Duration = Duration::from_secs(3);
/// And has let so many questions go unanswered: one may be late on a busy node.
const FAILURES: u32 = 3;
/// How long the start waits for the first answers of the seeds.
const SETTLE: Duration = Duration::from_millis(750);
/// The least it waits where members are found by gossip: two rounds of it.
const GOSSIP_SETTLE: Duration = Duration::from_millis(500);
/// A member that has not answered for so long is asked for no blocks until it does: all of them would wait with it.
const LATE: Duration = Duration::from_secs(1);
/// How long a member may take for its bitmaps.
const ANSWER: Duration = Duration::from_millis(500);

/// A source of members' addresses.
pub(super) trait Membership: std::marker::Send {
    /// The members known now, this node among them or not.
    async fn members(&mut self) -> Vec<SocketAddr>;
}

/// When a member was last asked and heard.
#[derive(Debug, Default)]
struct Seen {
    asked: Option<Instant>,
    heard: Option<Instant>,
    name: Option<super::Name>,
    is_me: bool,
    /// A question is under way.
    asking: bool,
    /// Questions in a row that were not answered.
    failures: u32,
}

/// How members are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Discovery {
    /// The seeds are all there are.
    List,
    /// The seeds know others; this node is reached at this address.
    Gossip(SocketAddr),
}

/// Looks for peers until the runtime ends.
pub(super) async fn run(inner: Arc<Inner>, seeds: Vec<String>, discovery: Discovery) {
    let mut fixed = fixed::Fixed::new(seeds.clone());
    let mut gossip = match discovery {
        Discovery::List => None,
        Discovery::Gossip(address) => match gossip::Gossip::start(&inner, seeds, address).await {
            Ok(gossip) => Some(gossip),
            Err(error) => {
                tracing::error!(error = &*error, "no gossip with peers; only the seeds are known");
                None
            }
        },
    };
    let least = if gossip.is_some() { GOSSIP_SETTLE } else { Duration::ZERO };
    let began = Instant::now();
    let mut seen: HashMap<SocketAddr, Seen> = HashMap::new();
    let mut asking = JoinSet::new();
    let mut ticks = tokio::time::interval(ROUND);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let mut members = fixed.members().await;
                if let Some(gossip) = &mut gossip {
                    members.extend(gossip.members().await);
                }
                for member in &members {
                    seen.entry(*member).or_default();
                }
                for (_, gone) in seen.extract_if(|member, _| !members.contains(member)) {
                    gone.give_up(&inner);
                }
                ask(&inner, &mut seen, &mut asking);
            }
            Some(Ok((member, heard))) = asking.join_next() => {
                if let Some(seen) = seen.get_mut(&member) {
                    seen.asking = false;
                    note(&inner, member, seen, heard);
                }
            }
            // A trial begins everywhere in the same moment.
            () = tokio::time::sleep(until(inner.trial.start)), if !until(inner.trial.start).is_zero() => {}
        }
        let all_heard = seen.values().all(|seen| seen.is_me || seen.heard.is_some());
        let waited = began.elapsed();
        let may_start = until(inner.trial.start).is_zero();
        if inner.settled.get().is_none() && may_start && (all_heard && waited >= least || waited >= SETTLE) {
            inner.settled.get_or_init(|| ());
            inner.wake();
        }
    }
}

/// How long it is until then.
fn until(start: Option<SystemTime>) -> Duration {
    start.and_then(|start| start.duration_since(SystemTime::now()).ok()).unwrap_or_default()
}

impl Seen {
    /// The member is gone, if it was ever there.
    fn give_up(mut self, inner: &Inner) {
        if let Some(name) = self.name.take() {
            tracing::warn!(node = %name, "peer lost");
            inner.swarm().lost(&name);
        }
    }
}

type Heard = (SocketAddr, std::io::Result<News>);

/// Asks some members, those first that were not asked for longest; a slow one does not hold up the others.
fn ask(inner: &Arc<Inner>, seen: &mut HashMap<SocketAddr, Seen>, asking: &mut JoinSet<Heard>) {
    let late = |seen: &&Seen| seen.asking && seen.asked.is_some_and(|asked| asked.elapsed() > LATE);
    for name in seen.values().filter(late).filter_map(|seen| seen.name.as_ref()) {
        inner.swarm().unanswered(name);
    }
    let free = seen.iter().filter(|(_, seen)| !seen.is_me && !seen.asking);
    let mut turn: Vec<_> = free.map(|(at, seen)| (seen.asked, *at)).collect();
    // Each node has an order of its own, so that not all of them know the same.
    fastrand::shuffle(&mut turn);
    turn.sort_by_key(|(asked, _)| *asked);
    let new = turn.iter().filter(|(asked, _)| asked.is_none()).count();
    turn.truncate(new.max(A_ROUND));
    for (_, member) in turn {
        if let Some(seen) = seen.get_mut(&member) {
            (seen.asked, seen.asking) = (Some(Instant::now()), true);
        }
        let inner = Arc::clone(inner);
        asking.spawn(async move { (member, have(&inner.pool, member).await) });
    }
}

/// Takes in what a member said, or that it said nothing.
fn note(inner: &Inner, member: SocketAddr, seen: &mut Seen, heard: std::io::Result<News>) {
    match heard {
        Ok(heard) if heard.name == inner.me => seen.is_me = true,
        Ok(heard) => {
            if seen.heard.is_none() {
                tracing::info!(node = %heard.name, address = %member, "peer found");
            }
            (seen.heard, seen.failures, seen.name) = (Some(Instant::now()), 0, Some(heard.name.clone()));
            lock(&inner.addresses).insert(heard.name.clone(), member);
            inner.swarm().heard(heard, Instant::now());
            inner.wake();
        }
        Err(error) => {
            tracing::debug!(%error, address = %member, "no answer from a peer");
            seen.failures += 1;
            if let Some(name) = &seen.name {
                inner.swarm().unanswered(name);
            }
            if seen.failures >= FAILURES && seen.heard.is_some_and(|heard| heard.elapsed() > GONE) {
                let asked = seen.asked;
                std::mem::take(seen).give_up(inner);
                // It is not new, and waits for its turn.
                seen.asked = asked;
            }
        }
    }
}

/// What a member has.
pub(super) async fn have(pool: &Arc<Pool>, member: SocketAddr) -> std::io::Result<News> {
    let send = Send { to: member, line: "GET /v1/have", headers: &[], body: &[], wait: ANSWER };
    let (reply, body) = pool.ask(send).await?;
    let body = body.whole().await?;
    if reply.status != 200 {
        return Err(std::io::Error::other(format!("status {}", reply.status)));
    }
    wire::parse_have(&reply, &body).map_err(std::io::Error::other)
}

//! The other nodes: whether those that are named answer, and let this node in.

use super::report::Check;
use crate::base::chain;
use crate::peer::Config;
use crate::peer::reach::{Answer, Reached, reach};

/// One check for each seed. A peer that is not there is no failure: a load works without, and it may come later.
pub(super) async fn checks(config: &Config) -> Vec<Check> {
    match reach(config).await {
        Ok(seeds) => seeds.iter().flat_map(seed).collect(),
        Err(error) => {
            let advice = "without them the agent does not start; see docs/peers.md";
            vec![Check::fail("keys for peers", chain(&error), advice)]
        }
    }
}

fn seed(reached: &Reached) -> Vec<Check> {
    let name = format!("peer {}", reached.seed);
    let addresses = match &reached.addresses {
        Ok(addresses) if addresses.is_empty() => return vec![unknown(name, "it has no address")],
        Ok(addresses) => addresses,
        Err(error) => return vec![unknown(name, &error.to_string())],
    };
    let answer = |(address, answer): &(std::net::SocketAddr, Answer)| match answer {
        Answer::Node(node, time) => {
            Check::ok(name.clone(), format!("{node} at {address} answers in {} ms", time.as_millis()))
        }
        Answer::Nobody(error) => Check::warn(
            name.clone(),
            format!("no answer from {address}: {error}"),
            "let TCP through to that port, and start an agent there; until then OSS is read for what it has",
        ),
        Answer::Refused(error) => Check::fail(
            name.clone(),
            format!("{address} and this node do not accept each other: {error}"),
            "give both the same --peers-cluster and the same key, or certificates of the same authority",
        ),
    };
    addresses.iter().map(answer).collect()
}

fn unknown(name: String, why: &str) -> Check {
    Check::warn(name, why, "correct --peers, or the name in DNS; until then OSS is read for what it has")
}

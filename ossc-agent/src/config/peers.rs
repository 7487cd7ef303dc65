//! Settings of the exchange with peers: flags, environment and JSON into `peer::Config`. Nothing is shared unless
//! `--peers-listen` (or its equals) says where to listen.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::raw::Raw;
use super::{Environment, Error, Flags};
use crate::base::{Bytes, Nic};
use crate::peer::{Config, ManifestFiles, Name, Security, TlsFiles, Trial};

/// Cluster of nodes that were not told another one.
const DEFAULT_CLUSTER: &str = "ossc";
/// Two for each of eight nodes; with more of them each block would only come later.
const DEFAULT_SERVE_SLOTS: NonZeroU32 = NonZeroU32::new(16).unwrap();
/// Longer than the start of a deployment's nodes is usually spread.
const DEFAULT_LINGER: Duration = Duration::from_secs(600);

/// Flags of the exchange.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Sharing blocks with other nodes")]
pub struct PeerFlags {
    /// Share blocks with other nodes, which reach this one at this address [env: OSSC_PEERS_LISTEN] [JSON:
    /// peers.listen]
    #[arg(long, value_name = "IP:PORT")]
    pub peers_listen: Option<SocketAddr>,

    /// Where other nodes are: HOST:PORT, comma-separated; a name may have many addresses, and this node may be
    /// among them [env: OSSC_PEERS] [JSON: peers.seeds]
    #[arg(long = "peers", value_name = "HOST:PORT", value_delimiter = ',')]
    pub seeds: Vec<String>,

    /// How other nodes are found: `gossip` (the ones given know others) or `list` (the ones given are all) [JSON:
    /// peers.discovery] [default: gossip]
    #[arg(long, value_name = "HOW")]
    pub peers_discovery: Option<Discovery>,

    /// Where other nodes reach this one, if not where it listens [env: OSSC_PEERS_ADVERTISE] [JSON:
    /// peers.advertise]
    #[arg(long, value_name = "IP:PORT")]
    pub peers_advertise: Option<SocketAddr>,

    /// Nodes of other clusters are refused [env: OSSC_PEERS_CLUSTER] [JSON: peers.cluster] [default: ossc]
    #[arg(long, value_name = "NAME")]
    pub peers_cluster: Option<String>,

    /// Name of this node, different from all others' [env: OSSC_PEERS_NODE] [JSON: peers.node] [default: from
    /// its address]
    #[arg(long, value_name = "NAME")]
    pub peers_node: Option<String>,

    /// Share blocks with nodes of the same zone alone; each zone reads OSS once [env: OSSC_PEERS_ZONE] [JSON: peers.zone]
    #[arg(long, value_name = "NAME")]
    pub peers_zone: Option<String>,

    /// Speed of this node's network, Gbit/s: how much of the model it reads from OSS compared with the others
    /// [JSON: peers.gbps] [default: 1]
    #[arg(long, value_name = "N")]
    pub peers_gbps: Option<f64>,

    /// Most bytes a second sent to other nodes [JSON: peers.serveRate]
    #[arg(long, value_name = "SIZE")]
    pub peers_serve_rate: Option<Bytes>,

    /// Most blocks sent to other nodes at a time; a few more that their readers wait for [JSON: peers.serveSlots]
    /// [default: 16]
    #[arg(long, value_name = "N")]
    pub peers_serve_slots: Option<NonZeroU32>,

    /// With --exit-when-complete: still serve the other nodes for so long [JSON: peers.lingerSec] [default: 600]
    #[arg(long, value_name = "SECONDS")]
    pub peers_linger: Option<u32>,

    /// Manifest that blocks of other nodes are checked against, as `ossc-agent manifest create` writes it [JSON:
    /// peers.manifest]
    #[arg(long, value_name = "FILE")]
    pub peers_manifest: Option<PathBuf>,

    /// PEM file of the public key that the manifest was signed for [JSON: peers.manifestKey]
    #[arg(long, value_name = "FILE")]
    pub peers_manifest_key: Option<PathBuf>,

    /// PEM file of the authority whose certificates peers must have [JSON: peers.ca]
    #[arg(long, value_name = "FILE")]
    pub peers_ca: Option<PathBuf>,

    /// PEM file of this node's certificate [JSON: peers.cert]
    #[arg(long, value_name = "FILE")]
    pub peers_cert: Option<PathBuf>,

    /// PEM file of this node's private key [JSON: peers.key]
    #[arg(long, value_name = "FILE")]
    pub peers_key: Option<PathBuf>,

    /// File with a key that all nodes share, in place of certificates: for a network that nobody else can listen on
    /// [env: OSSC_PEERS_PSK_FILE] [JSON: peers.pskFile]
    #[arg(long, value_name = "FILE")]
    pub peers_psk_file: Option<PathBuf>,

    /// Share blocks with anybody who reaches the port
    #[arg(long)]
    pub insecure_peers: bool,
}

/// How other nodes are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "lowercase")]
pub enum Discovery {
    /// Those given know others.
    Gossip,
    /// Those given are all.
    List,
}

/// `peers` of the JSON file.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RawPeers {
    listen: Option<SocketAddr>,
    seeds: Vec<String>,
    discovery: Option<Discovery>,
    advertise: Option<SocketAddr>,
    cluster: Option<String>,
    node: Option<String>,
    zone: Option<String>,
    gbps: Option<f64>,
    serve_rate: Option<String>,
    serve_slots: Option<NonZeroU32>,
    manifest: Option<PathBuf>,
    manifest_key: Option<PathBuf>,
    linger_sec: Option<u32>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    psk_file: Option<PathBuf>,
    insecure: bool,
    #[serde(flatten)]
    pub(super) unknown: BTreeMap<String, serde_json::Value>,
}

/// The settings, or None where nothing is to be shared.
pub(super) fn resolve(
    flags: &Flags,
    env: &Environment,
    raw: &Raw,
    sources: &[Nic],
) -> Result<Option<Config>, Error> {
    let (flags, raw) = (&flags.peers, &raw.peers);
    let value = |name, value: &str, wanted: &str| Error::Value {
        name,
        value: value.to_owned(),
        wanted: wanted.to_owned(),
    };
    let address = |flag: Option<SocketAddr>, variable, raw: Option<SocketAddr>| {
        let parse = |text: &str| {
            text.parse().map_err(|_| value(variable, text, "an IP address with a port is needed"))
        };
        match (flag, env.get(variable)) {
            (None, Some(text)) => parse(text).map(Some),
            (flag, _) => Ok(flag.or(raw)),
        }
    };
    let listen = address(flags.peers_listen, "OSSC_PEERS_LISTEN", raw.listen)?;
    let Some(listen) = listen else { return Ok(None) };
    let name = |flag: &Option<String>, variable, raw: &Option<String>| {
        let text = flag.clone().or_else(|| env.get(variable).map(str::to_owned)).or_else(|| raw.clone());
        text.map(|text| text.parse::<Name>().map_err(|error| value(variable, &text, &error.to_string())))
            .transpose()
    };
    let seeds = if !flags.seeds.is_empty() {
        flags.seeds.clone()
    } else if let Some(list) = env.get("OSSC_PEERS") {
        list.split(',').map(|seed| seed.trim().to_owned()).collect()
    } else {
        raw.seeds.clone()
    };
    for seed in &seeds {
        let port = seed.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none() {
            return Err(value("peers", seed, "write HOST:PORT"));
        }
    }
    let weight = flags.peers_gbps.or(raw.gbps).unwrap_or(1.0);
    if !weight.is_finite() || weight <= 0.0 {
        return Err(value("peers gbps", &weight.to_string(), "a number above 0 is needed"));
    }
    let raw_rate = raw.serve_rate.as_ref().map(|text| {
        text.parse::<Bytes>().map_err(|_| value("peers.serveRate", text, "a size such as 500M is needed"))
    });
    let serve_rate = match flags.peers_serve_rate {
        Some(rate) => Some(rate),
        None => raw_rate.transpose()?,
    };
    let cluster = match name(&flags.peers_cluster, "OSSC_PEERS_CLUSTER", &raw.cluster)? {
        Some(cluster) => cluster,
        None => DEFAULT_CLUSTER
            .parse()
            .map_err(|error: crate::peer::BadName| value("cluster", DEFAULT_CLUSTER, &error.to_string()))?,
    };
    let security = security(flags, env, raw)?.ok_or(Error::InsecurePeers { listen })?;
    Ok(Some(Config {
        listen,
        seeds,
        gossip: flags.peers_discovery.or(raw.discovery) != Some(Discovery::List),
        advertise: address(flags.peers_advertise, "OSSC_PEERS_ADVERTISE", raw.advertise)?,
        cluster,
        node: name(&flags.peers_node, "OSSC_PEERS_NODE", &raw.node)?,
        zone: name(&flags.peers_zone, "OSSC_PEERS_ZONE", &raw.zone)?,
        weight,
        serve_rate: serve_rate.map(|rate| rate.0),
        serve_slots: flags.peers_serve_slots.or(raw.serve_slots).unwrap_or(DEFAULT_SERVE_SLOTS),
        manifest: manifest(flags, raw)?,
        linger: flags
            .peers_linger
            .or(raw.linger_sec)
            .map_or(DEFAULT_LINGER, |seconds| Duration::from_secs(seconds.into())),
        sources: sources.to_vec(),
        security,
        trial: trial(env),
    }))
}

/// The manifest, if there is one, and its key.
fn manifest(flags: &PeerFlags, raw: &RawPeers) -> Result<Option<ManifestFiles>, Error> {
    let manifest = flags.peers_manifest.as_ref().or(raw.manifest.as_ref());
    let public_key = flags.peers_manifest_key.as_ref().or(raw.manifest_key.as_ref());
    match (manifest, public_key) {
        (Some(manifest), Some(public_key)) => {
            Ok(Some(ManifestFiles { manifest: manifest.clone(), public_key: public_key.clone() }))
        }
        (None, None) => Ok(None),
        _ => Err(Error::Value {
            name: "peers",
            value: "manifest".to_owned(),
            wanted: "--peers-manifest and --peers-manifest-key belong together; give both".to_owned(),
        }),
    }
}

/// What tests ask for.
#[cfg(debug_assertions)]
fn trial(env: &Environment) -> Trial {
    let start = env.get("OSSC_TEST_PEERS_START").and_then(|text| text.parse().ok());
    let what = env.get("OSSC_TEST_PEERS");
    Trial {
        start: start.map(|millis| std::time::UNIX_EPOCH + Duration::from_millis(millis)),
        owners_only: what == Some("owners-only"),
        lies: what == Some("lies"),
    }
}

/// Never in a release build.
#[cfg(not(debug_assertions))]
fn trial(_env: &Environment) -> Trial {
    Trial::default()
}

/// How peers know each other; None if nothing was said about it.
fn security(flags: &PeerFlags, env: &Environment, raw: &RawPeers) -> Result<Option<Security>, Error> {
    let either = |flag: &Option<PathBuf>, raw: &Option<PathBuf>| flag.clone().or_else(|| raw.clone());
    let tls = (
        either(&flags.peers_ca, &raw.ca),
        either(&flags.peers_cert, &raw.cert),
        either(&flags.peers_key, &raw.key),
    );
    let env_psk = env.get("OSSC_PEERS_PSK_FILE").map(PathBuf::from);
    let psk = flags.peers_psk_file.clone().or(env_psk).or_else(|| raw.psk_file.clone());
    let insecure = flags.insecure_peers || raw.insecure;
    let fail = |value: &str, wanted: &str| {
        Err(Error::Value { name: "peers", value: value.to_owned(), wanted: wanted.to_owned() })
    };
    match (tls, psk, insecure) {
        ((Some(authority), Some(certificate), Some(key)), None, false) => {
            Ok(Some(Security::Tls(TlsFiles { authority, certificate, key })))
        }
        ((None, None, None), Some(file), false) => Ok(Some(Security::Psk(file))),
        ((None, None, None), None, true) => Ok(Some(Security::Insecure)),
        ((None, None, None), None, false) => Ok(None),
        ((ca, cert, key), None, false) if ca.is_none() || cert.is_none() || key.is_none() => {
            fail("certificates", "--peers-ca, --peers-cert and --peers-key belong together; give all three")
        }
        _ => {
            fail("security", "certificates, a shared key and --insecure-peers exclude each other; choose one")
        }
    }
}

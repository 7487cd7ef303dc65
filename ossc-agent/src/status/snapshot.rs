//! The load as people and programs see it: one value, from which the terminal, the JSON, the page and the metrics are
//! all made, so that they cannot disagree. docs/status.md describes the JSON; a field that changes its meaning or goes
//! away raises [`VERSION`], one that is added does not.

use serde::{Deserialize, Serialize};

/// Version of the JSON.
pub const VERSION: u32 = 1;

/// The load at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// [`VERSION`].
    pub version: u32,
    /// The agent.
    pub agent: Agent,
    /// The model as OSS_PATH says it.
    pub source: String,
    /// Where its files are.
    pub model_dir: String,
    /// How far it is.
    pub state: State,
    /// How readers are held; none where every file was complete at the start.
    pub gate: Option<String>,
    /// Whether the gate hears the kernel no more; readers then wait until the agent is started again.
    pub gate_broken: bool,
    /// Bytes of all files.
    pub bytes: Bytes,
    /// Blocks of all files.
    pub blocks: Amount,
    /// Files.
    pub files_complete: u64,
    /// Files that were complete and gave up their bytes.
    #[serde(default)]
    pub files_evicted: u64,
    /// Files of the model.
    pub files_total: u64,
    /// What complete files give back.
    #[serde(default)]
    pub room: Room,
    /// Until all is there, at the speed of the last seconds; none where that says nothing.
    pub eta_seconds: Option<f64>,
    /// Where bytes come from: each NIC, then the peers, where there are any.
    pub sources: Vec<Source>,
    /// Sharing blocks with other nodes; none where it is off.
    #[serde(default)]
    pub peers: Option<Sharing>,
    /// Connections to OSS.
    pub connections: Connections,
    /// Requests to OSS.
    pub requests: Requests,
    /// Why blocks are fetched, the most urgent reason first.
    #[serde(default)]
    pub lanes: Vec<Lane>,
    /// Programs that read.
    pub readers: Readers,
    /// First accesses of readers to blocks.
    pub foresight: Foresight,
    /// Speeds of the last minutes.
    pub history: History,
    /// The files in the order of their names; the first ones of very many.
    pub files: Vec<File>,
}

/// The process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// Its version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// When it was started, RFC 3339.
    pub started: String,
    /// How long it has run.
    pub uptime_seconds: f64,
}

/// How far the load is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Bytes are missing.
    Loading,
    /// Every file is complete, or was and is evicted since.
    Complete,
    /// Of a file: it cannot be had, and its readers get errors.
    Lost,
    /// Of a file: it gave up its bytes; the next reader has it fetched again.
    Evicted,
}

/// Bytes of all files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// All.
    pub total: u64,
    /// Those that readers have without waiting.
    pub ready: u64,
    /// Those that were there when the agent was started.
    pub at_start: u64,
}

/// Memory and space that complete files give back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// After so long without a use; none where that does not matter.
    pub expire_seconds: Option<u64>,
    /// Most bytes of memory that files may take; none without a limit.
    pub budget_bytes: Option<u64>,
    /// Bytes of memory that files take; none where nothing limits them.
    pub memory_bytes: Option<u64>,
    /// How often a file gave up something in this run.
    pub evictions: u64,
    /// Bytes given up in this run.
    pub freed_bytes: u64,
}

/// Some of a total.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// All.
    pub total: u64,
    /// Those that are there.
    pub ready: u64,
}

/// Where bytes come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// `oss` or `peer`.
    pub source: String,
    /// The NIC as configured; `routes` where none is; none for peers.
    pub nic: Option<String>,
    /// Bytes of objects received in this run.
    pub received_bytes: u64,
    /// The same a second, over the last seconds.
    pub bytes_per_second: f64,
    /// Connections through the NIC, idle ones included.
    pub connections: Option<u32>,
    /// False while the NIC rests because requests through it failed.
    pub up: Option<bool>,
}

/// Sharing blocks with other nodes, in this run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sharing {
    /// Nodes that are there now, besides this one.
    pub members: u64,
    /// Nodes that nothing is taken from any more because they sent wrong bytes.
    pub quarantined: u64,
    /// Bytes of blocks by where they came from.
    pub bytes: SharedBytes,
    /// Requests to peers, and their answers.
    pub requests: Asked,
    /// The other nodes; of very many those that most went to or came from.
    #[serde(default)]
    pub nodes: Vec<Node>,
}

/// Another node, and what went between it and this one in this run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// `there`, `gone` or `quarantined`.
    pub state: String,
    /// Bytes of blocks that came from it.
    pub received_bytes: u64,
    /// Bytes of blocks that it was sent.
    pub served_bytes: u64,
    /// Requests to it.
    pub requests: u64,
}

/// Bytes of blocks. The first five were asked of OSS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedBytes {
    /// This node owns them.
    pub own: u64,
    /// In place of their owner.
    pub stand_in: u64,
    /// Peers did not give them for long.
    pub escape: u64,
    /// There was no peer.
    pub alone: u64,
    /// Peers sent something else.
    pub again: u64,
    /// Came from peers.
    pub received: u64,
    /// Sent to peers.
    pub served: u64,
}

/// Requests to peers, and their answers other than the block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// To owners of blocks.
    pub owner: u64,
    /// To others that have them.
    pub holder: u64,
    /// Of these, second ones for a block that a reader waits for.
    pub hedged: u64,
    /// Ask that other node.
    pub redirected: u64,
    /// Still reading it.
    pub not_yet: u64,
    /// Not here.
    pub not_here: u64,
    /// Too many requests.
    pub busy: u64,
    /// No answer, or a broken one.
    pub failed: u64,
    /// The block with a wrong checksum.
    pub corrupt: u64,
}

/// Connections to OSS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// How many may work now.
    pub at_work: u32,
    /// How many may at most.
    pub most: u32,
}

/// Requests to OSS in this run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// Those that have ended.
    pub total: u64,
    /// Those without a reply, or with a status of 400 and more.
    pub failed: u64,
    /// Those whose rest was asked for on another connection, because they stood still.
    pub given_up: u64,
    /// Those that were another try.
    pub retries: u64,
    /// Replies that said to slow down.
    pub slow_downs: u64,
    /// Blocks given up after all tries; a reader that wants one tries again.
    pub blocks_lost: u64,
}

/// A reason to fetch blocks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lane {
    /// `demand` (a reader waits), `planned` (one is about to), `background`.
    pub lane: String,
    /// Missing blocks that are to be fetched for it.
    pub queued_blocks: u64,
    /// Blocks whose fetch has begun for it in this run; one that failed and was begun again counts twice.
    pub begun_blocks: u64,
}

/// Programs that read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Readers {
    /// Held now.
    pub held: u64,
    /// Held so far, these included.
    pub held_total: u64,
    /// Calls that got an error instead of bytes.
    pub denied_total: u64,
    /// How long the one that has waited longest has, of those held now.
    pub longest_hold_seconds: f64,
    /// Those held now that have waited longest.
    pub waiting: Vec<Waiting>,
    /// Where readers were last seen.
    pub positions: Vec<Position>,
}

/// A reader that is held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    /// Its process.
    pub pid: u32,
    /// Name of its program; empty where it cannot be told.
    pub program: String,
    /// The file.
    pub file: String,
    /// First byte it waits for.
    pub start: u64,
    /// The byte after the last.
    pub end: u64,
    /// How long it has waited.
    pub seconds: f64,
}

/// Where a reader was last seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Its process.
    pub pid: u32,
    /// The file.
    pub file: String,
    /// First byte of its last access.
    pub start: u64,
    /// The byte after the last.
    pub end: u64,
    /// How long ago.
    pub seconds_ago: f64,
}

/// First accesses of readers to blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foresight {
    /// The bytes were there.
    pub hits: u64,
    /// The reader had to wait.
    pub misses: u64,
}

/// Speeds of the last minutes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// Between two samples.
    pub every_seconds: f64,
    /// Bytes a second of each of [`Snapshot::sources`], the oldest sample first.
    pub bytes_per_second: Vec<Vec<u64>>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct File {
    /// Path below the model directory.
    pub name: String,
    /// How far it is.
    pub state: State,
    /// Its bytes.
    pub size: u64,
    /// Those that readers have without waiting.
    pub ready: u64,
    /// Bytes of a block.
    pub block_size: u64,
    /// Runs of blocks in the order of the file, each a letter and how many: `-` missing, `h` missing and a held reader
    /// wants it, `f` being fetched, `c` there at the start, `o` from OSS, `p` from a peer.
    pub blocks: String,
}

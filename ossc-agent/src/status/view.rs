//! Looks at the parts of a running load and says what is there, as a [`Snapshot`]. It reads counters and copies, and
//! changes nothing. The status server asks it, and has it take a sample of the speeds once a second.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;

use super::positions::Positions;
use super::snapshot::{
    Agent, Amount, Asked, Bytes, Connections, File, Foresight, History, Lane, Node, Position, Readers,
    Requests, Room, SharedBytes, Sharing, Snapshot, Source, State, VERSION, Waiting,
};
use super::{as_f64, whole};
use crate::base::{BlockIndex, FileId, Layout};
use crate::fetch::{BlockState, Fetcher, LaneWork, Network};
use crate::peer::{Partner, Peers};
use crate::store::Store;
use crate::{gate, metrics, store};

/// Between two samples of the speeds.
pub(super) const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// Samples kept: five minutes.
const SAMPLES: usize = 300;
/// Samples of which the speed now is the mean: less jumps, more lags behind.
const NOW: usize = 5;
/// Readers named, at most; how many there are is said in any case.
const MOST_NAMED: usize = 64;
/// Files named, at most. More are a million lines nobody reads, once a second.
const MOST_FILES: usize = 4096;
/// Other nodes named, at most.
const MOST_NODES: usize = 256;

/// What the load says of itself.
#[derive(Debug)]
pub struct About {
    /// The model as OSS_PATH says it.
    pub source: String,
    /// Where its files are.
    pub model_dir: String,
    /// How readers are held.
    pub gate: Option<String>,
    /// When complete files that nobody uses give memory back.
    pub expire: Option<Duration>,
    /// Bytes of memory that files may take.
    pub budget: Option<u64>,
}

/// The parts of a load that are looked at.
#[derive(Debug)]
pub struct Parts {
    /// Files and what is in them.
    pub store: Arc<Store>,
    /// Blocks on their way.
    pub fetcher: Fetcher,
    /// Readers that are held.
    pub gate: gate::Numbers,
    /// Requests to OSS.
    pub requests: metrics::Requests,
    /// Whether readers found their bytes there.
    pub foresight: metrics::Foresight,
    /// What complete files gave back.
    pub room: metrics::Room,
    /// Where readers are.
    pub positions: Arc<Positions>,
    /// Sharing with other nodes, if it is on.
    pub peers: Option<Peers>,
}

/// Looks at a load.
pub struct View {
    about: About,
    parts: Parts,
    /// Bytes that were ready when the load began.
    at_start: u64,
    started: (SystemTime, Instant),
    samples: Mutex<VecDeque<Sample>>,
    /// What holds readers that nobody had to hold at the start.
    late_gate: OnceLock<(String, gate::Numbers)>,
}

/// What the exchange with other nodes says of itself.
fn sharing(peers: &Peers) -> Sharing {
    let ((members, quarantined), counts) = (peers.census(), peers.counts());
    Sharing {
        members,
        quarantined,
        bytes: SharedBytes {
            own: counts.own.bytes,
            stand_in: counts.stand_in.bytes,
            escape: counts.escape.bytes,
            alone: counts.alone.bytes,
            again: counts.again.bytes,
            received: counts.peers.bytes,
            served: counts.served.bytes,
        },
        requests: Asked {
            owner: counts.asked_owner,
            holder: counts.asked_holder,
            hedged: counts.hedged,
            redirected: counts.redirected,
            not_yet: counts.not_yet,
            not_here: counts.not_here,
            busy: counts.busy,
            failed: counts.failed,
            corrupt: counts.corrupt,
        },
        nodes: nodes(peers.partners()),
    }
}

fn lane(work: LaneWork) -> Lane {
    let LaneWork { lane, queued, begun } = work;
    Lane { lane: lane.name().to_owned(), queued_blocks: queued, begun_blocks: begun }
}

/// Those first with whom most was exchanged.
fn nodes(mut partners: Vec<Partner>) -> Vec<Node> {
    let exchanged = |partner: &Partner| partner.received.bytes.saturating_add(partner.served.bytes);
    partners.sort_by_cached_key(|partner| (std::cmp::Reverse(exchanged(partner)), partner.name.to_string()));
    let node = |partner: Partner| Node {
        name: partner.name.to_string(),
        state: match (partner.is_quarantined, partner.is_there) {
            (true, _) => "quarantined",
            (false, true) => "there",
            (false, false) => "gone",
        }
        .to_owned(),
        received_bytes: partner.received.bytes,
        served_bytes: partner.served.bytes,
        requests: partner.asked,
    };
    partners.into_iter().take(MOST_NODES).map(node).collect()
}

/// Bytes received so far, source by source.
struct Sample {
    at: Instant,
    received: Vec<u64>,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("about", &self.about).finish_non_exhaustive()
    }
}

impl View {
    /// A view of a load whose agent started `started` ago with `at_start` bytes there.
    #[must_use]
    pub fn new(about: About, parts: Parts, at_start: u64, started: Instant) -> Self {
        let wall = SystemTime::now().checked_sub(started.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH);
        Self {
            about,
            parts,
            at_start,
            started: (wall, started),
            samples: Mutex::default(),
            late_gate: OnceLock::new(),
        }
    }

    /// Readers are held from now on, as they were not at the start.
    pub fn gate_started(&self, mode: String, numbers: gate::Numbers) {
        self.late_gate.get_or_init(|| (mode, numbers));
    }

    /// Readers that are held.
    pub(super) fn gate(&self) -> &gate::Numbers {
        self.late_gate.get().map_or(&self.parts.gate, |(_, numbers)| numbers)
    }

    /// The numbers that have labels or are spread over ranges of time, for the metrics.
    pub(super) fn parts(&self) -> &Parts {
        &self.parts
    }

    /// When the agent started, in seconds since 1970.
    pub(super) fn started(&self) -> f64 {
        self.started.0.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
    }

    /// Takes a sample of the speeds. Called every [`SAMPLE_EVERY`].
    pub(super) fn sample(&self) {
        let received = self.received().into_iter().map(|(_, bytes)| bytes).collect();
        let mut samples = self.samples();
        if samples.len() > SAMPLES {
            samples.pop_front();
        }
        samples.push_back(Sample { at: Instant::now(), received });
    }

    /// Bytes by source: each NIC's name, None for peers.
    fn received(&self) -> Vec<(Option<String>, u64)> {
        let nics = self.parts.requests.received_by_nic();
        let mut all: Vec<_> = nics.map(|(name, bytes)| (Some(name.to_owned()), bytes)).collect();
        if self.parts.peers.is_some() {
            all.push((None, self.parts.fetcher.progress().counts.bytes_from_peers));
        }
        all
    }

    /// The load at this moment; without the files and the history, which take longest, unless they are wanted.
    pub(super) fn snapshot(&self, is_whole: bool) -> Snapshot {
        let Parts { store, fetcher, .. } = &self.parts;
        let (progress, network) = (fetcher.progress(), fetcher.network());
        let files = store.files();
        let complete = files.iter().filter(|file| file.is_complete()).count();
        let dormant = fetcher.dormant();
        let is_complete = complete + dormant.len() == files.len();
        let evicted: u64 =
            dormant.iter().filter_map(|id| store.file(*id)).map(|file| file.layout().size()).sum();
        let blocks = files.iter().fold(Amount::default(), |sum, file| Amount {
            total: sum.total + u64::from(file.layout().block_count()),
            ready: sum.ready + u64::from(file.ready().count()),
        });
        let sources = self.sources(&network);
        let speed: f64 = sources.iter().map(|source| source.bytes_per_second).sum();
        let missing = progress.bytes_total.saturating_sub(progress.bytes_ready).saturating_sub(evicted);
        let sums = self.parts.requests.sums();
        let counts = &progress.counts;
        let readers = self.readers();
        Snapshot {
            version: VERSION,
            agent: Agent {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                started: Timestamp::try_from(self.started.0)
                    .map_or_else(|_| String::new(), |at| format!("{at:.0}")),
                uptime_seconds: self.started.1.elapsed().as_secs_f64(),
            },
            source: self.about.source.clone(),
            model_dir: self.about.model_dir.clone(),
            state: if is_complete { State::Complete } else { State::Loading },
            gate: self.late_gate.get().map(|(mode, _)| mode).or(self.about.gate.as_ref()).cloned(),
            gate_broken: self.gate().snapshot().broken,
            bytes: Bytes {
                total: progress.bytes_total,
                ready: progress.bytes_ready,
                at_start: self.at_start,
            },
            blocks,
            files_complete: complete as u64,
            files_evicted: dormant.len() as u64,
            files_total: files.len() as u64,
            room: self.room(),
            eta_seconds: eta(missing, speed, is_complete),
            sources,
            peers: self.parts.peers.as_ref().map(sharing),
            connections: Connections { at_work: network.at_work, most: network.most },
            requests: Requests {
                total: sums.ended,
                failed: sums.failed,
                given_up: sums.given_up,
                retries: sums.retried,
                slow_downs: counts.slow_downs,
                blocks_lost: counts.failures,
            },
            lanes: fetcher.lanes().into_iter().map(lane).collect(),
            foresight: Foresight {
                hits: self.parts.foresight.hits.get(),
                misses: self.parts.foresight.misses.get(),
            },
            history: if is_whole { self.history() } else { History::default() },
            files: if is_whole { self.files() } else { Vec::new() },
            readers,
        }
    }

    fn room(&self) -> Room {
        let (room, About { expire, budget, .. }) = (&self.parts.room, &self.about);
        let (evictions, freed_bytes) = room.sums();
        Room {
            expire_seconds: expire.map(|expire| expire.as_secs()),
            budget_bytes: *budget,
            memory_bytes: (expire.is_some() || budget.is_some()).then(|| room.memory()),
            evictions,
            freed_bytes,
        }
    }

    fn sources(&self, network: &Network) -> Vec<Source> {
        let samples = self.samples();
        let before = samples.len().checked_sub(NOW).or(Some(0)).and_then(|at| samples.get(at));
        let now = Instant::now();
        let speed = |place: usize, bytes: u64| {
            let before = before.and_then(|sample| Some((sample.at, *sample.received.get(place)?)));
            before.map_or(0.0, |(at, was)| per_second(bytes.saturating_sub(was), now - at))
        };
        let source = |(place, (nic, bytes)): (usize, (Option<String>, u64))| {
            let about = network.nics.get(place).filter(|_| nic.is_some());
            Source {
                source: if nic.is_some() { "oss" } else { "peer" }.to_owned(),
                nic,
                received_bytes: bytes,
                bytes_per_second: speed(place, bytes),
                connections: about.map(|nic| nic.connections),
                up: about.map(|nic| nic.is_up),
            }
        };
        self.received().into_iter().enumerate().map(source).collect()
    }

    fn history(&self) -> History {
        let samples = self.samples();
        let sources = samples.back().map_or(0, |last| last.received.len());
        let of_source = |place: usize| {
            let pairs = samples.iter().zip(samples.iter().skip(1));
            let between = pairs.map(|(before, after)| {
                let bytes = |sample: &Sample| sample.received.get(place).copied().unwrap_or(0);
                whole(per_second(bytes(after).saturating_sub(bytes(before)), after.at - before.at))
            });
            between.collect()
        };
        History {
            every_seconds: SAMPLE_EVERY.as_secs_f64(),
            bytes_per_second: (0..sources).map(of_source).collect(),
        }
    }

    fn readers(&self) -> Readers {
        let (counts, now) = (self.gate().snapshot(), Instant::now());
        let waiting = self.gate().waiting(MOST_NAMED);
        let name = |id: FileId| {
            self.parts.store.file(id).map_or_else(String::new, |file| file.object().name.clone())
        };
        let seconds = |at: Instant| now.saturating_duration_since(at).as_secs_f64();
        let positions = self.parts.positions.all();
        Readers {
            held: counts.held,
            held_total: counts.held_total,
            denied_total: counts.denied_total,
            longest_hold_seconds: waiting.first().map_or(0.0, |reader| seconds(reader.since)),
            waiting: waiting
                .into_iter()
                .map(|reader| Waiting {
                    pid: reader.pid,
                    program: program(reader.pid),
                    file: name(reader.file),
                    start: reader.range.start(),
                    end: reader.range.end(),
                    seconds: seconds(reader.since),
                })
                .collect(),
            positions: positions
                .into_iter()
                .map(|seen| Position {
                    pid: seen.pid,
                    file: name(seen.file),
                    start: seen.range.start(),
                    end: seen.range.end(),
                    seconds_ago: seconds(seen.at),
                })
                .collect(),
        }
    }

    fn files(&self) -> Vec<File> {
        let Parts { store, fetcher, .. } = &self.parts;
        let (waiting, dormant) = (self.gate().waiting(MOST_NAMED), fetcher.dormant());
        let view = |file: &Arc<store::File>| {
            let layout = file.layout();
            let mut blocks: Vec<u8> = fetcher.blocks(file.id()).into_iter().map(letter).collect();
            for reader in waiting.iter().filter(|reader| reader.file == file.id()) {
                let wanted = layout.blocks_of(reader.range);
                let wanted = blocks.get_mut(wanted.start as usize..wanted.end as usize).unwrap_or_default();
                wanted.iter_mut().filter(|letter| **letter == b'-').for_each(|letter| *letter = b'h');
            }
            let state = match (file.is_complete(), fetcher.is_lost(file.id())) {
                (true, _) => State::Complete,
                (false, _) if dormant.contains(&file.id()) => State::Evicted,
                (false, true) => State::Lost,
                (false, false) => State::Loading,
            };
            File {
                name: file.object().name.clone(),
                state,
                size: layout.size(),
                ready: ready_bytes(layout, &blocks),
                block_size: layout.block_size().bytes(),
                blocks: runs(&blocks),
            }
        };
        store.files().iter().take(MOST_FILES).map(view).collect()
    }

    /// Each change of the samples is whole, so a panic elsewhere leaves them right.
    fn samples(&self) -> MutexGuard<'_, VecDeque<Sample>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn letter(state: BlockState) -> u8 {
    match state {
        BlockState::Missing => b'-',
        BlockState::Fetching => b'f',
        BlockState::AtStart => b'c',
        BlockState::Origin => b'o',
        BlockState::Peer => b'p',
    }
}

/// Bytes of the blocks that are there.
fn ready_bytes(layout: Layout, blocks: &[u8]) -> u64 {
    let there = (0..).map(BlockIndex).zip(blocks).filter(|(_, letter)| b"cop".contains(letter));
    there.map(|(block, _)| layout.range_of(block).len()).sum()
}

/// `aaab` as `a3b1`.
fn runs(letters: &[u8]) -> String {
    let runs = letters.chunk_by(|a, b| a == b);
    runs.filter_map(|run| Some(format!("{}{}", char::from(*run.first()?), run.len()))).collect()
}

/// Name of a process's program, if it runs and is in a pid namespace we see.
fn program(pid: u32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end().chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn eta(missing: u64, speed: f64, is_complete: bool) -> Option<f64> {
    if is_complete {
        return Some(0.0);
    }
    // Below a kilobyte a second the answer would be years.
    (speed >= 1024.0).then(|| as_f64(missing) / speed)
}

fn per_second(bytes: u64, time: Duration) -> f64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 { as_f64(bytes) / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_told_in_runs() {
        assert_eq!(runs(b"cccoof---h"), "c3o2f1-3h1");
        assert_eq!(runs(b""), "");
    }

    #[test]
    fn the_end_is_foreseen_only_with_some_speed() {
        assert_eq!(eta(1 << 20, 1024.0 * 1024.0, false), Some(1.0));
        assert_eq!(eta(1 << 20, 1.0, false), None);
        assert_eq!(eta(0, 0.0, true), Some(0.0));
    }
}

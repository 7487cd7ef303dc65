//! The agent is killed again and again at random moments of a load, also while it starts, under readers of many
//! kinds. None of them sees a wrong byte or an errno, the load completes, and little is fetched twice. A load that
//! completes before the last kill is followed by another one of the same model, whose files were removed.

use std::time::{Duration, Instant};

use anyhow::ensure;
use e2e::agent::{ALL_COMPLETE, Agent, FILES_VISIBLE, PATIENCE, Start, exit};
use e2e::origin::shards;
use e2e::reader::{KINDS, Outcome, Reader, SLOW_KINDS};
use e2e::scratch::FileSystem;
use e2e::site::Site;
use e2e::turn;
use oss_server::Config;

use crate::keeper::{kill_agent, no_keeper_left};
use crate::{MIB, reading};

/// Kills in one storm; another number in the environment variable makes a longer one.
const KILLS: u64 = 20;
const KILLS_VARIABLE: &str = "OSSC_STORM_KILLS";
/// Names the seed of moments and readers, to repeat a failure.
const SEED_VARIABLE: &str = "OSSC_TEST_SEED";
const SHARDS: usize = 4;
const SHARD: u64 = 128 * MIB + 4321;
/// Bytes a second: the load takes some ten seconds without the kills.
const RATE: u64 = 50_000_000;
/// One kill in so many comes at a random time after the start and not after a number of bytes.
const EARLY_ONE_IN: u64 = 4;
/// The latest of these: the files are visible then on a fast machine, and not yet on a slow one.
const EARLY_MS: u64 = 400;
/// So often a wait for bytes looks whether the load is complete.
const GLANCE: Duration = Duration::from_millis(200);
/// Share of the model that the kills together may interrupt.
const PERCENT_UNDER_KILLS: u64 = 80;
const READERS: usize = 16;
/// Reads of each reader; one that ends is followed by another.
const READS: u64 = 4;
/// Share of the model that may be fetched again for each kill.
const REFETCHED_PERCENT: u64 = 2;

struct Storm {
    site: Site,
    rng: fastrand::Rng,
    readers: Vec<Reader>,
    /// How all readers that have ended did; the right ones are only counted.
    wrong: Vec<(String, Outcome)>,
    right: usize,
    /// Loads that were completed before the kills were over.
    loads: u64,
}

/// What a kill waits for.
#[derive(PartialEq, Eq)]
enum Moment {
    Reached,
    /// Never: the load is complete, nothing is sent any more.
    Complete,
}

impl Storm {
    fn start(&self) -> Start {
        // Few connections, because each may lose a block in flight; all readers wait in one line anyway.
        self.site.start().option("--threads", "1").option("--connections", "4")
    }

    /// Collects readers that have ended and starts others in their place.
    fn tend_readers(&mut self) -> anyhow::Result<()> {
        for mut reader in std::mem::take(&mut self.readers) {
            if reader.process().is_running()? {
                self.readers.push(reader);
            } else {
                self.note(reader)?;
            }
        }
        while self.readers.len() < READERS {
            let kinds: Vec<_> = KINDS.into_iter().filter(|kind| !SLOW_KINDS.contains(kind)).collect();
            let kind = self.rng.choice(kinds).unwrap_or("pread");
            let reading = reading(kind, &self.site.copies()).seed(self.rng.u64(..)).ops(READS);
            self.readers.push(reading.start(&self.site.targets())?);
        }
        Ok(())
    }

    fn note(&mut self, reader: Reader) -> anyhow::Result<()> {
        let name = reader.name().to_owned();
        match reader.finish(PATIENCE)? {
            Outcome::Right => self.right += 1,
            other => self.wrong.push((name, other)),
        }
        Ok(())
    }

    /// Lets the agent run to a random moment.
    fn wait_for_moment(&mut self, agent: &Agent, most_bytes: u64) -> anyhow::Result<Moment> {
        if self.rng.u64(..EARLY_ONE_IN) == 0 {
            // The moment itself is what is tested here, so there is nothing to wait for.
            std::thread::sleep(Duration::from_millis(self.rng.u64(..EARLY_MS)));
            return Ok(Moment::Reached);
        }
        agent.wait_for(FILES_VISIBLE)?;
        let origin = self.site.origin();
        let bytes = origin.sent() + self.rng.u64(..most_bytes);
        let deadline = Instant::now() + PATIENCE;
        while let Err(late) = origin.wait_sent(bytes, GLANCE) {
            if agent.log().so_far().iter().any(|event| event.message() == ALL_COMPLETE) {
                return Ok(Moment::Complete);
            }
            ensure!(Instant::now() < deadline, late);
        }
        Ok(Moment::Reached)
    }

    /// Looks at what a complete load left, and removes its files for the next one.
    fn clear(&mut self, agent: Agent) -> anyhow::Result<()> {
        for reader in std::mem::take(&mut self.readers) {
            self.note(reader)?;
        }
        agent.stop()?.expect(exit::OK)?;
        self.site.check_files()?;
        for target in self.site.targets() {
            std::fs::remove_file(target.path())?;
        }
        self.loads += 1;
        Ok(())
    }
}

/// Bytes of the model of the large storm, which the blocks in flight are measured by.
fn shards_size(files: usize) -> u64 {
    SHARD * files as u64
}

fn number(variable: &str, default: u64) -> anyhow::Result<u64> {
    Ok(std::env::var(variable).map_or(Ok(default), |text| text.parse())?)
}

#[test]
fn of_kills_shows_no_reader_a_wrong_byte() -> anyhow::Result<()> {
    storm(FileSystem::Ext4, SHARDS, number(KILLS_VARIABLE, KILLS)?)
}

/// A smaller one: what differs is how the file system takes what was under way.
#[test]
fn of_kills_shows_no_reader_a_wrong_byte_on_xfs() -> anyhow::Result<()> {
    storm(FileSystem::Xfs, 2, number(KILLS_VARIABLE, KILLS / 2)?)
}

#[test]
fn of_kills_shows_no_reader_a_wrong_byte_on_btrfs() -> anyhow::Result<()> {
    storm(FileSystem::Btrfs, 2, number(KILLS_VARIABLE, KILLS / 2)?)
}

fn storm(file_system: FileSystem, files: usize, kills: u64) -> anyhow::Result<()> {
    let _turn = turn::take();
    let seed = number(SEED_VARIABLE, 1)?;
    let config = Config { rate: RATE, ..Config::default() };
    let site = Site::new(file_system, config, shards(files, SHARD))?;
    let rng = fastrand::Rng::with_seed(seed);
    let mut storm = Storm { site, rng, readers: Vec::new(), wrong: Vec::new(), right: 0, loads: 0 };
    let size = storm.site.origin().size();
    // Twice the mean.
    let most_bytes = size / 100 * PERCENT_UNDER_KILLS / kills * 2;
    let mut dead = Vec::new();
    let mut agent = storm.start().start()?;
    agent.wait_for(FILES_VISIBLE)?;
    while (dead.len() as u64) < kills {
        storm.tend_readers()?;
        if storm.wait_for_moment(&agent, most_bytes)? == Moment::Complete {
            storm.clear(agent)?;
            agent = storm.start().start()?;
            // Only where there is no file yet: nobody is told to read one that no agent ever made.
            agent.wait_for(FILES_VISIBLE)?;
            continue;
        }
        kill_agent(&mut agent)?;
        dead.push(std::mem::replace(&mut agent, storm.start().start()?));
    }
    agent.wait_for(ALL_COMPLETE)?;
    storm.clear(agent)?;
    let logs = || {
        dead.iter().map(|agent| e2e::events::text(&agent.log().so_far())).collect::<Vec<_>>().join("\n---\n")
    };
    ensure!(storm.wrong.is_empty(), "seed {seed}: {:#?}\n{}", storm.wrong, logs());
    let refetched = storm.site.origin().sent().saturating_sub(size * storm.loads);
    println!(
        "{kills} kills in {} load(s), {} readers right; fetched again: {} KiB a kill, {:.2} % of the model",
        storm.loads,
        storm.right,
        refetched / kills / 1024,
        refetched as f64 * 100.0 / kills as f64 / size as f64
    );
    ensure!(
        refetched / kills <= shards_size(SHARDS) / 100 * REFETCHED_PERCENT,
        "seed {seed}: {refetched} bytes were fetched again for {kills} kills"
    );
    no_keeper_left(&storm.site)
}

//! The bench's part on what else a model could be loaded with: each contender loads the same objects from the same
//! server, and a program reads them, through a mount or the downloaded files; all take turns. What is timed is from the
//! start of the contender to the end of the reader, with the processor time of both. How each is run is `clients`'. A
//! report of its own.

mod clients;

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};

use self::clients::{CLIENTS, Client, Place};
use super::floor::Floor;
use super::reader::Reader;
use super::table::{median, sorted};
use super::{PREFIX, Workload, settle};
use crate::server::{Server, Settings};
use crate::setup;

/// How the files are read: in order with read(2), or touched page by page through a mapping.
const READERS: [&str; 2] = ["once", "mapped"];
/// The models: one large object, and as many shards as the rest of the bench has.
const MODELS: [(u32, u64); 2] = [(1, 2 << 30), (8, 512 << 20)];
const QUICK_MODELS: [(u32, u64); 2] = [(1, 512 << 20), (2, 512 << 20)];

/// What one run took: wall time, and processor time of contender and reader together.
#[derive(Debug, Clone, Copy)]
struct Took {
    seconds: f64,
    cpu_seconds: f64,
}

/// Measures and gives the report.
pub(super) fn report(
    quick: bool,
    rounds: usize,
    connections: u32,
    machine: &str,
    scratch: &Path,
) -> Result<String> {
    let tools = setup::contenders()?;
    let (floor, reader) = (Floor::compile()?, Reader::compile()?);
    let models = if quick { QUICK_MODELS } else { MODELS };
    let mut columns = Vec::new();
    for (files, file_bytes) in models {
        let workload = Workload { files, file_bytes, connections };
        let objects = (0..files).map(|file| (format!("{PREFIX}{file:02}.bin"), file_bytes));
        let server =
            Server::start(&Settings { synthetic: objects.collect(), public: true, ..Settings::default() })?;
        for mode in READERS {
            let mut samples: Vec<Vec<Took>> = vec![Vec::new(); CLIENTS.len()];
            for round in 0..=rounds {
                for number in (round..round + CLIENTS.len()).map(|turn| turn % CLIENTS.len()) {
                    let client = &CLIENTS[number];
                    if mode == "mapped" && !client.maps() {
                        continue;
                    }
                    let _memory = settle(workload.bytes())?;
                    let work = tempfile::tempdir_in(scratch)?;
                    let place = Place {
                        server: &server,
                        workload,
                        tools: &tools,
                        floor: &floor,
                        reader: &reader,
                        mode,
                        work: work.path(),
                    };
                    let took = one(client, &place).with_context(|| client.name.to_owned())?;
                    work.close().context("cannot remove what was loaded")?;
                    eprintln!(
                        "{files} files, {mode}, round {round}, {}: {:.2} s, {:.2} s of CPU",
                        client.name, took.seconds, took.cpu_seconds
                    );
                    // The first round is the warm-up.
                    if round > 0 {
                        samples[number].push(took);
                    }
                }
            }
            columns.push(samples.iter().map(|samples| middle(samples)).collect::<Vec<_>>());
        }
    }
    Ok(text(rounds, workload_names(models), machine, &columns))
}

fn one(client: &Client, place: &Place<'_>) -> Result<Took> {
    let before = children()?;
    let began = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    let (printed, daemon) = client.run(place)?;
    let bytes = place.workload.bytes();
    ensure!(printed.bytes == bytes, "{} bytes were read instead of {bytes}", printed.bytes);
    let cpu_seconds = match daemon {
        // Until the reader had ended, not what its own end took.
        Some(daemon) => daemon + printed.cpu_seconds,
        None => children()? - before,
    };
    Ok(Took { seconds: printed.ended - began, cpu_seconds })
}

/// Processor time of all children that were waited for.
fn children() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("getrusage")?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

fn middle(samples: &[Took]) -> Option<Took> {
    let of = |value: fn(&Took) -> f64| median(&sorted(samples.iter().map(value)));
    (!samples.is_empty())
        .then(|| Took { seconds: of(|took| took.seconds), cpu_seconds: of(|took| took.cpu_seconds) })
}

fn workload_names(models: [(u32, u64); 2]) -> String {
    let name = |(files, bytes): (u32, u64), how| format!(" {files} x {} MiB, {how} |", bytes >> 20);
    models.iter().flat_map(|model| [name(*model, "read"), name(*model, "mapped")]).collect()
}

fn text(rounds: usize, models: String, machine: &str, columns: &[Vec<Option<Took>>]) -> String {
    let agent = CLIENTS.iter().position(Client::is_agent).unwrap_or_default();
    let cell = |column: &Vec<Option<Took>>, number: usize| {
        let (Some(Some(took)), Some(Some(own))) = (column.get(number), column.get(agent)) else {
            return " - |".to_owned();
        };
        format!(" {:.2} ({:.2}x) {:.2} |", took.seconds, took.seconds / own.seconds, took.cpu_seconds)
    };
    let row = |(number, client): (usize, &Client)| {
        let cells: String = columns.iter().map(|column| cell(column, number)).collect();
        format!("| {} |{cells}\n", client.name)
    };
    let rows: String = CLIENTS.iter().enumerate().map(row).collect();
    format!(
        "# Contenders\n\n\
         Written by `cargo xtask bench --contenders`. Medians of {rounds} interleaved rounds after a warm-up.\n\n\
         {machine}\n\
         Each cell: seconds from the start of the contender to the end of a reader that goes once through all files \
         (in times of ossc-agent's), and processor seconds of contender and reader together, without the server. The \
         reader reads in order with 4 MiB a call, or maps one file after the other and touches each page in order. It finds \
         a hole in any page. Caches are cold each time; server and client are on this machine. The floor and the downloads \
         are read when all is there, the others from the moment their files can be opened.\n\n\
         | contender |{models}\n|---|---|---|---|---|\n{rows}\n\
         How each is run is in [clients.rs](../../xtask/src/bench/contenders/clients.rs). The connector's core gives the bytes \
         to one process's own memory and leaves nothing in the page cache for another, and cannot be mapped. ossfs 2.0 and 1.9 \
         are not in this table: neither Debian nor PyPI has them.\n"
    )
}

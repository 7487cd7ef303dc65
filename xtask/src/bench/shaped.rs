//! The bench's part on links of a known speed: what is lost on one, what two, four and unequal ones bring together, and
//! what it costs when one of two dies. Links are veth pairs between two network namespaces, with a token bucket each
//! (`tests/e2e/src/links.rs`). A section of the report of its own.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use super::agent::Load;
use super::floor::Floor;
use super::links::{Links, SERVER};
use super::table::{median, sorted};
use super::{PREFIX, STALLS, Workload, settle};
use crate::plot::{Chart, Mark, Series};
use crate::server::{Server, Settings};

/// Share of a line that is left to the bytes of files by the headers of TCP and IP.
const PAYLOAD: f64 = 0.957;
/// Mbit/s of a link.
const RATE: u32 = 1000;
/// When one of two links dies, in seconds from the start of the agent.
const DEATH: Duration = Duration::from_secs(2);

/// One row.
struct Case {
    name: &'static str,
    rates: &'static [u32],
    what: What,
    /// Speed in times of the row of one link that the project asks for.
    asked: f64,
}

#[derive(Clone, Copy, PartialEq)]
enum What {
    Floor,
    Load,
    Death,
    Stalls,
}

const CASES: [Case; 7] = [
    Case { name: "1 link, floor", rates: &[RATE], what: What::Floor, asked: f64::NAN },
    Case { name: "1 link", rates: &[RATE], what: What::Load, asked: f64::NAN },
    Case { name: "2 links", rates: &[RATE, RATE], what: What::Load, asked: 1.95 },
    Case { name: "4 links", rates: &[RATE, RATE, RATE, RATE], what: What::Load, asked: 3.85 },
    Case {
        name: "1 link and one of a quarter",
        rates: &[RATE, RATE / 4],
        what: What::Load,
        asked: 0.95 * 1.25,
    },
    Case { name: "2 links, one dies after 2 s", rates: &[RATE, RATE], what: What::Death, asked: f64::NAN },
    Case {
        name: "1 link, one reply in a hundred stands still for 10 s",
        rates: &[RATE],
        what: What::Stalls,
        asked: f64::NAN,
    },
];
/// Their places in `CASES`.
const FLOOR: usize = 0;
const ONE: usize = 1;
const TWO: usize = 2;

/// Time of a load with one link that the project asks for, in times of the floor's.
const ASKED_OF_FLOOR: f64 = 1.03;
/// Time of a load with a slow tail that the project asks for, in times of one without.
const ASKED_OF_STALLS: f64 = 1.05;
/// How much later than it could a load may end whose link dies, in seconds.
const ASKED_LATE: f64 = 2.0;

/// The plot beside the report.
pub(super) const PLOT: &str = "links.svg";

/// Measures; gives the section and its plot.
pub(super) fn section(quick: bool, scratch: &Path) -> Result<(String, String)> {
    let floor = Floor::compile()?;
    let workload =
        Workload { files: 4, file_bytes: if quick { 128 << 20 } else { 512 << 20 }, connections: 8 };
    let rounds = if quick { 1 } else { 3 };
    let mut seconds: [Vec<f64>; CASES.len()] = Default::default();
    for round in 0..rounds {
        for (case, seconds) in CASES.iter().zip(&mut seconds) {
            // In a thread of its own, which goes into another network namespace.
            let run = || one(case, workload, &floor, scratch);
            let took = std::thread::scope(|scope| scope.spawn(run).join())
                .map_err(|_| anyhow!("a run panicked"))??;
            eprintln!("round {round}, {}: {took:.2} s", case.name);
            seconds.push(took);
        }
    }
    let medians = seconds.map(|seconds| median(&sorted(seconds.into_iter())));
    Ok((report(workload, rounds, medians), plot(workload, medians)))
}

/// Speed against what the links have together.
fn plot(workload: Workload, seconds: [f64; CASES.len()]) -> String {
    let mut chart = Chart::new("Speed against links", "Gbit/s of all links together", "GB/s");
    let links = |case: &Case| f64::from(case.rates.iter().sum::<u32>()) / 1000.0;
    let loads = CASES.iter().zip(seconds).filter(|(case, _)| case.what == What::Load);
    let mut points: Vec<_> =
        loads.map(|(case, seconds)| (links(case), workload.bytes() as f64 / seconds / 1e9)).collect();
    points.sort_by(|one, other| one.0.total_cmp(&other.0));
    let payload = |(links, _): &(f64, f64)| (*links, links / 8.0 * PAYLOAD);
    let name = "what the links can carry".to_owned();
    chart.add(Series { name, mark: Mark::Line, points: points.iter().map(payload).collect() });
    chart.add(Series { name: "ossc-agent".to_owned(), mark: Mark::Line, points });
    chart.svg()
}

fn one(case: &Case, workload: Workload, floor: &Floor, scratch: &Path) -> Result<f64> {
    let links = Links::new(case.rates)?;
    let objects = (0..workload.files).map(|file| (format!("{PREFIX}{file:02}.bin"), workload.file_bytes));
    let listen = format!("{SERVER}:0").parse().context("the server's address")?;
    let faults = if case.what == What::Stalls { vec![STALLS.to_owned()] } else { Vec::new() };
    let settings = Settings {
        synthetic: objects.collect(),
        public: true,
        listen: Some(listen),
        faults,
        ..Settings::default()
    };
    let server = links.on_server(move || Server::start(&settings))??;
    let _memory = settle(workload.bytes())?;
    if case.what == What::Floor {
        return Ok(floor.run(&server, workload, 512, scratch)?.seconds);
    }
    let began = Instant::now();
    let load = Load::start(&server, workload, &links.addresses(), scratch)?;
    if case.what == What::Death {
        std::thread::sleep(DEATH.saturating_sub(began.elapsed()));
        links.kill(1)?;
    }
    Ok(load.finish(workload)?.seconds)
}

fn report(workload: Workload, rounds: usize, seconds: [f64; CASES.len()]) -> String {
    let bytes = workload.bytes() as f64;
    let speed = |case: usize| bytes / seconds.get(case).unwrap_or(&f64::NAN);
    let death = DEATH.as_secs_f64();
    let lines = CASES.iter().zip(seconds).enumerate().map(|(number, (case, seconds))| {
        let (measured, asked) = match case.what {
            What::Floor => ("-".to_owned(), "-".to_owned()),
            What::Load if number == ONE => {
                let ratio = speed(FLOOR) / speed(ONE);
                (format!("{ratio:.3} of the floor's time"), format!("at most {ASKED_OF_FLOOR}"))
            }
            What::Load => {
                let ratio = speed(number) / speed(ONE);
                (format!("{ratio:.2}x of one link"), format!("at least {:.2}", case.asked))
            }
            What::Stalls => {
                let ratio = speed(ONE) / speed(number);
                (format!("{ratio:.3} of the time without"), format!("at most {ASKED_OF_STALLS}"))
            }
            What::Death => {
                // Until then as with two, from then on as with one.
                let best = death + (bytes - speed(TWO) * death).max(0.0) / speed(ONE);
                (format!("{:.2} s later than it could", seconds - best), format!("at most {ASKED_LATE}"))
            }
        };
        let line = speed(number) * 8.0 / (case.rates.iter().sum::<u32>() as f64 * 1e6);
        format!("| {} | {seconds:.2} | {line:.3} | {measured} | {asked} |\n", case.name)
    });
    let lines: String = lines.collect();
    let Workload { files, file_bytes, connections } = workload;
    format!(
        "\n## Links of {RATE} Mbit/s\n\n\
         {files} files of {} MiB over links with a token bucket of {RATE} Mbit/s each, {connections} connections, from the \
         start of the process to the last byte complete, medians of {rounds} rounds. Headers of TCP and IP leave {PAYLOAD} of \
         the line for bytes of files. A link that dies drops all that goes to the client, without a word.\n\n\
         | links | time, s | of the line | | asked for |\n|---|---|---|---|---|\n{lines}\n![Speed against links]({PLOT})\n",
        file_bytes >> 20,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_to_one_link_and_lateness_to_what_the_links_can() {
        let workload = Workload { files: 4, file_bytes: 250_000_000, connections: 8 };
        let report = report(workload, 1, [10.0, 10.1, 5.0, 2.6, 8.2, 8.5, 10.2]);
        for line in [
            "| 1 link | 10.10 | 0.792 | 1.010 of the floor's time | at most 1.03 |",
            "| 2 links | 5.00 | 0.800 | 2.02x of one link | at least 1.95 |",
            "| 2 links, one dies after 2 s | 8.50 | 0.471 | 0.44 s later than it could | at most 2 |",
            "| 1 link, one reply in a hundred stands still for 10 s | 10.20 | 0.784 | 1.010 of the time without | at most 1.05 |",
        ] {
            assert!(report.contains(line), "{report}");
        }
    }
}

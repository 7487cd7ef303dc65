//! The bench's part on how many connections: speed against what is allowed, for the floor and the agent, and what the
//! agent does where each connection is slow. A section of the report of its own, with a plot.

use std::path::Path;

use anyhow::Result;

use super::floor::Floor;
use super::table::{median, sorted};
use super::{PREFIX, Workload, agent, settle};
use crate::plot::{Chart, Mark, Series};
use crate::server::{Server, Settings};

/// How many are allowed.
const ALLOWED: [u32; 6] = [1, 2, 4, 8, 16, 32];
const FILES: u32 = 8;
const FLOOR_KIB: u32 = 128;
/// Bytes a second of a slow connection, and how many are allowed there: ten times what a load begins with brings.
const SLOW: u64 = 10_000_000;
const SLOW_ALLOWED: u32 = 64;
/// The plot beside the report.
pub(super) const PLOT: &str = "connections.svg";

/// Measures; gives the section and its plot.
pub(super) fn section(quick: bool, scratch: &Path) -> Result<(String, String)> {
    let floor = Floor::compile()?;
    let (file_bytes, rounds) = if quick { (32 << 20, 1) } else { (256 << 20, 3) };
    let objects = || (0..FILES).map(|file| (format!("{PREFIX}{file:02}.bin"), file_bytes)).collect();
    let settings = Settings { synthetic: objects(), public: true, ..Settings::default() };
    let server = Server::start(&settings)?;
    let slow = Server::start(&Settings { connection_rate: Some(SLOW), ..settings })?;
    let workload = |connections| Workload { files: FILES, file_bytes, connections };
    let mut speeds: [[Vec<f64>; 2]; ALLOWED.len()] = Default::default();
    let mut slow_speeds = Vec::new();
    for round in 0..=rounds {
        for (allowed, [of_floor, of_agent]) in ALLOWED.into_iter().zip(&mut speeds) {
            let workload = workload(allowed);
            let bytes = workload.bytes() as f64;
            let seconds = {
                let _memory = settle(workload.bytes())?;
                floor.run(&server, workload, FLOOR_KIB, scratch)?.seconds
            };
            let _memory = settle(workload.bytes())?;
            let agent = agent::run(&server, workload, scratch)?;
            eprintln!("round {round}, {allowed} connections: {seconds:.2} s, agent {:.2} s", agent.seconds);
            // The first round is the warm-up.
            if round > 0 {
                of_floor.push(bytes / seconds);
                of_agent.push(bytes / agent.seconds);
            }
        }
        if round > 0 {
            let workload = workload(SLOW_ALLOWED);
            let _memory = settle(workload.bytes())?;
            slow_speeds.push(workload.bytes() as f64 / agent::run(&slow, workload, scratch)?.seconds);
        }
    }
    let medians = speeds.map(|both| both.map(|speeds| median(&sorted(speeds.into_iter()))));
    let text = text(file_bytes, rounds, medians, median(&sorted(slow_speeds.into_iter())));
    Ok((text, plot(medians)))
}

fn plot(medians: [[f64; 2]; ALLOWED.len()]) -> String {
    let mut chart = Chart::new("Speed against connections, unshaped loopback", "connections allowed", "GB/s");
    for (of, name) in ["floor", "ossc-agent"].into_iter().enumerate() {
        let speeds = medians.iter().filter_map(|both| both.get(of)).map(|speed| speed / 1e9);
        let points = ALLOWED.into_iter().map(f64::from).zip(speeds).collect();
        chart.add(Series { name: name.to_owned(), mark: Mark::Line, points });
    }
    chart.svg()
}

fn text(file_bytes: u64, rounds: u32, medians: [[f64; 2]; ALLOWED.len()], slow: f64) -> String {
    let row = |(allowed, [floor, agent]): (u32, [f64; 2])| {
        format!("| {allowed} | {:.2} | {:.2} | {:.2} |\n", floor / 1e9, agent / 1e9, agent / floor)
    };
    let rows: String = ALLOWED.into_iter().zip(medians).map(row).collect();
    format!(
        "\n## Connections\n\n\
         {FILES} files of {} MiB over unshaped loopback; the floor has exactly so many connections, the agent at most. It \
         begins with 8 where it may, and takes more while they make the load faster. Medians of {rounds} rounds.\n\n\
         | connections | floor, GB/s | ossc-agent, GB/s | of the floor |\n|---|---|---|---|\n{rows}\n\
         ![Speed against connections]({PLOT})\n\n\
         Where the server gives each connection {} MB/s, and {SLOW_ALLOWED} are allowed, the load has {:.0} MB/s from the \
         start of the process to the last byte: {:.1} times what the 8 it begins with could bring.\n",
        file_bytes >> 20,
        SLOW / 1_000_000,
        slow / 1e6,
        slow / (8 * SLOW) as f64,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_is_compared_with_the_floor_of_as_many_connections() {
        let medians = [[1e9, 0.9e9], [2e9, 1.5e9], [2e9, 2e9], [2e9, 2e9], [2e9, 2e9], [2e9, 2e9]];
        let text = text(256 << 20, 3, medians, 400e6);
        for part in ["| 1 | 1.00 | 0.90 | 0.90 |", "| 2 | 2.00 | 1.50 | 0.75 |", "has 400 MB/s", "5.0 times"]
        {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert_eq!(plot(medians).matches("<polyline").count(), 2);
    }
}

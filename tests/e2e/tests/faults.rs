//! Every byte right or an error, under every fault of the origin: one table, each fault before the first byte, in
//! the middle of a block and at the end.
//!
//! Each row is a load of two small files by an agent of its own. One request for the byte at the chosen place of
//! the first file meets the fault, twice and then never again, or always. A reader reads both files at random
//! places throughout; it may never see a wrong byte, and sees an errno only where the row says so. The rows run
//! beside each other and share one disk; the table is printed at the end (`--nocapture`). Errors of the set-up
//! (mistakes in the configuration, permissions) are left to `errors`.

mod case;
mod rows;
mod watcher;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure};
use e2e::scratch::{FileSystem, Scratch};
use e2e::turn;

use self::case::{Report, run};
use self::rows::{Row, rows};

/// Rows at a time. Most of a row's time is waiting for timeouts and pauses.
const BESIDE: usize = 8;
/// No row may take longer, on a machine however busy.
const DEADLINE: Duration = Duration::from_secs(60);
/// Room for the files of the rows that run at a time.
const DISK: u64 = 1 << 30;
/// Runs only the rows whose line in the table contains this.
const ONLY: &str = "OSSC_FAULT_ROWS";

#[test]
fn of_the_origin_give_every_byte_right_or_an_error() -> anyhow::Result<()> {
    let _turn = turn::take();
    let disk = Scratch::mounted(FileSystem::Ext4, DISK)?;
    let only = std::env::var(ONLY).unwrap_or_default();
    let rows: Vec<Row> = rows().into_iter().filter(|row| row.to_string().contains(&only)).collect();
    ensure!(!rows.is_empty(), "no row is like {only:?}");
    let next = AtomicUsize::new(0);
    let began = Instant::now();
    let mut results: Vec<(usize, Duration, anyhow::Result<Report>)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..BESIDE)
            .map(|_| {
                scope.spawn(|| {
                    let mut results = Vec::new();
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(row) = rows.get(index) else { return results };
                        let began = Instant::now();
                        let result = within_deadline(row.clone(), disk.path());
                        results.push((index, began.elapsed(), result));
                    }
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap_or_default()).collect()
    });
    results.sort_by_key(|(index, ..)| *index);
    let mut wrong = Vec::new();
    println!("{:<44} {:<16} {:<36} {:>7} {:>6} {:>6}", "fault", "when", "outcome", "reads", "errnos", "s");
    for (index, took, result) in &results {
        let row = &rows[*index];
        let (reads, errnos, outcome) = match result {
            Ok(report) => (report.reads, report.errnos, row.expect.to_string()),
            Err(_) => (0, 0, "WRONG".to_owned()),
        };
        println!("{row:<61} {outcome:<36} {reads:>7} {errnos:>6} {:>6.1}", took.as_secs_f64());
        if let Err(error) = result {
            wrong.push(format!("{row}: {error:#}"));
        }
    }
    println!("{} rows in {:.1} s, {} wrong", results.len(), began.elapsed().as_secs_f64(), wrong.len());
    ensure!(results.len() == rows.len(), "only {} of {} rows have ended", results.len(), rows.len());
    ensure!(wrong.is_empty(), "{} rows are wrong:\n\n{}", wrong.len(), wrong.join("\n\n"));
    Ok(())
}

/// Runs a row in a thread of its own, which is left alone when it hangs: the test then fails, and ends.
fn within_deadline(row: Row, disk: &std::path::Path) -> anyhow::Result<Report> {
    let (tell, told) = mpsc::channel();
    let disk = disk.to_owned();
    std::thread::spawn(move || {
        // Nobody listens any more to a row that took too long.
        tell.send(run(&row, &disk)).ok();
    });
    told.recv_timeout(DEADLINE).map_err(|error| anyhow!("no end within {DEADLINE:?}: {error}"))?
}

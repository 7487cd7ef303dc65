//! The status as text for a terminal. Pure.

use std::fmt::{self, Write as _};
use std::time::Duration;

use super::snapshot::{File, Lane, Room, Sharing, Snapshot, Source, State};
use super::{as_f64, whole};
use crate::base;

/// Files shown, unless all are asked for: the ones that are not complete.
const MOST_FILES: usize = 20;
/// Readers shown.
const MOST_READERS: usize = 8;
/// Characters of a bar.
const BAR: usize = 24;

/// The status for people. `is_whole`: every file, else those that are not complete, and not more than fit a screen.
#[must_use]
pub fn text(snapshot: &Snapshot, is_whole: bool) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    write(&mut text, snapshot, is_whole).unwrap_or_default();
    text
}

fn write(out: &mut String, snapshot: &Snapshot, is_whole: bool) -> fmt::Result {
    let Snapshot { agent, bytes, connections, requests, foresight, .. } = snapshot;
    writeln!(out, "{} from {}", printable(&snapshot.model_dir), printable(&snapshot.source))?;
    let (ready, total) = (size(bytes.ready), size(bytes.total));
    let mut files = format!("{} of {} files", snapshot.files_complete, snapshot.files_total);
    if snapshot.files_evicted > 0 {
        write!(files, ", {} evicted", snapshot.files_evicted)?;
    }
    match snapshot.state {
        State::Complete => writeln!(out, "complete: {files}, {total}")?,
        State::Loading | State::Lost | State::Evicted => {
            let eta = snapshot.eta_seconds.map_or_else(|| "unknown".to_owned(), time);
            let percent = percent(bytes.ready, bytes.total);
            writeln!(out, "loading: {ready} of {total} ({percent}), {files}, time left: {eta}")?;
        }
    }
    let gate = snapshot.gate.as_deref().unwrap_or("none, all was complete at the start");
    let uptime = time(agent.uptime_seconds);
    writeln!(out, "agent {} (process {}) since {uptime}; gate: {gate}", agent.version, agent.pid)?;
    writeln!(out, "{} were there at its start", size(bytes.at_start))?;
    room(out, &snapshot.room)?;
    if snapshot.gate_broken {
        writeln!(out, "THE GATE IS BROKEN: readers wait until the agent is started again")?;
    }
    writeln!(out, "\n{:<24}{:>12}{:>14}{:>13}", "FROM", "RECEIVED", "SPEED", "CONNECTIONS")?;
    for source in &snapshot.sources {
        let speed = format!("{}/s", size(whole(source.bytes_per_second)));
        let open = source.connections.map_or_else(|| "-".to_owned(), |open| open.to_string());
        let (name, received) = (name_of(source), size(source.received_bytes));
        writeln!(out, "{name:<24}{received:>12}{speed:>14}{open:>13}")?;
    }
    writeln!(
        out,
        "{} of {} connections at work; requests: {}, {} failed, {} given up for another one, {} told to slow down",
        connections.at_work,
        connections.most,
        requests.total,
        requests.failed,
        requests.given_up,
        requests.slow_downs
    )?;
    if !snapshot.lanes.is_empty() {
        let lane = |lane: &Lane| {
            let Lane { lane, queued_blocks, begun_blocks } = lane;
            format!("{} {begun_blocks} + {queued_blocks}", printable(lane))
        };
        let lanes: Vec<_> = snapshot.lanes.iter().map(lane).collect();
        writeln!(out, "blocks begun + queued by why: {}", lanes.join(", "))?;
    }
    if let Some(Sharing { members, quarantined, bytes, requests, .. }) = &snapshot.peers {
        writeln!(
            out,
            "{members} peers, {quarantined} in quarantine; from OSS as owner {}, in place of owners {}, in trouble {}; to peers {}",
            size(bytes.own),
            size(bytes.stand_in),
            size(bytes.escape + bytes.alone + bytes.again),
            size(bytes.served)
        )?;
        writeln!(
            out,
            "requests to peers: {} to owners, {} to others; {} redirected, {} failed, {} wrong blocks",
            requests.owner, requests.holder, requests.redirected, requests.failed, requests.corrupt
        )?;
    }
    let accesses = foresight.hits + foresight.misses;
    if accesses > 0 {
        let share = percent(foresight.hits, accesses);
        writeln!(out, "first accesses to blocks: {share} of {accesses} found their bytes there")?;
    }
    readers(out, snapshot)?;
    list(out, snapshot, is_whole)
}

fn room(out: &mut String, room: &Room) -> fmt::Result {
    let Room { expire_seconds, budget_bytes, memory_bytes, evictions, freed_bytes } = *room;
    if let Some(memory) = memory_bytes {
        write!(out, "files take {} of memory", size(memory))?;
        if let Some(budget) = budget_bytes {
            write!(out, ", at most {}", size(budget))?;
        }
        if let Some(seconds) = expire_seconds {
            write!(out, ", idle ones for {}", time(as_f64(seconds)))?;
        }
        writeln!(out)?;
    }
    if evictions > 0 {
        writeln!(out, "files gave up memory {evictions} times, {} in all", size(freed_bytes))?;
    }
    Ok(())
}

fn readers(out: &mut String, snapshot: &Snapshot) -> fmt::Result {
    let readers = &snapshot.readers;
    if readers.held == 0 {
        return writeln!(out, "\nno reader waits");
    }
    let longest = time(readers.longest_hold_seconds);
    writeln!(out, "\nREADERS THAT WAIT: {}, the longest for {longest}", readers.held)?;
    for reader in readers.waiting.iter().take(MOST_READERS) {
        let (program, file, seconds) =
            (printable(&reader.program), printable(&reader.file), time(reader.seconds));
        let (start, end) = (size(reader.start), size(reader.end));
        writeln!(out, "  {program} ({}) for {seconds}: {file}, {start} to {end}", reader.pid)?;
    }
    Ok(())
}

fn list(out: &mut String, snapshot: &Snapshot, is_whole: bool) -> fmt::Result {
    let shown = |file: &&File| is_whole || file.state != State::Complete;
    let files: Vec<_> = snapshot.files.iter().filter(shown).collect();
    if files.is_empty() {
        return Ok(());
    }
    let most = if is_whole { files.len() } else { MOST_FILES };
    let width = files.iter().take(most).map(|file| file.name.chars().count()).max().unwrap_or(0).max(4);
    writeln!(out, "\n{:<width$}  {:>10}  READY", "FILE", "SIZE")?;
    for file in files.iter().take(most) {
        let filled = usize::try_from(file.ready * BAR as u64 / file.size.max(1)).unwrap_or(0);
        let bar: String = (0..BAR).map(|at| if at < filled { '#' } else { '.' }).collect();
        let state = match file.state {
            State::Complete => " complete",
            State::Lost => " LOST: its readers get errors, see the log",
            State::Evicted => " evicted: the next reader has it fetched",
            State::Loading => "",
        };
        let (name, percent) = (printable(&file.name), percent(file.ready, file.size));
        writeln!(out, "{name:<width$}  {:>10}  {bar} {percent}{state}", size(file.size))?;
    }
    let all = if is_whole {
        snapshot.files_total
    } else {
        snapshot.files_total.saturating_sub(snapshot.files_complete)
    };
    let hidden = all.saturating_sub(most as u64);
    if hidden > 0 {
        writeln!(out, "and {hidden} more")?;
    }
    Ok(())
}

fn name_of(source: &Source) -> String {
    let rest = if source.up == Some(false) { " (rests)" } else { "" };
    match &source.nic {
        Some(nic) => format!("{} by {nic}{rest}", source.source.to_uppercase()),
        None => "peers".to_owned(),
    }
}

fn size(bytes: u64) -> String {
    base::Bytes(bytes).to_string()
}

fn percent(part: u64, of: u64) -> String {
    let percent = part.saturating_mul(100).checked_div(of).unwrap_or(100);
    format!("{percent} %")
}

/// As people say it, to the second.
fn time(seconds: f64) -> String {
    let seconds = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX).as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

/// Names come from OSS and from programs, and must not steer a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::{
        Agent, Amount, Bytes, Connections, Foresight, History, Readers, Requests, VERSION, Waiting,
    };
    use super::*;

    fn snapshot() -> Snapshot {
        let source = |nic: Option<&str>, bytes_per_second| Source {
            source: if nic.is_some() { "oss" } else { "peer" }.to_owned(),
            nic: nic.map(str::to_owned),
            received_bytes: 3 << 30,
            bytes_per_second,
            connections: nic.map(|_| 4),
            up: nic.map(|_| true),
        };
        let file = |name: &str, state, ready| File {
            name: name.to_owned(),
            state,
            size: 4 << 30,
            ready,
            block_size: 16 << 20,
            blocks: String::new(),
        };
        let reader = Waiting {
            pid: 42,
            program: "llama\x1b[2J".to_owned(),
            file: "b".to_owned(),
            start: 0,
            end: 1 << 20,
            seconds: 61.5,
        };
        Snapshot {
            version: VERSION,
            agent: Agent { version: "1".into(), pid: 7, started: String::new(), uptime_seconds: 3700.0 },
            source: "oss://b/m/".to_owned(),
            model_dir: "/m".to_owned(),
            state: State::Loading,
            gate: Some("pre-content".to_owned()),
            gate_broken: false,
            bytes: Bytes { total: 8 << 30, ready: 5 << 30, at_start: 1 << 30 },
            blocks: Amount::default(),
            files_complete: 1,
            files_evicted: 0,
            files_total: 2,
            room: Room::default(),
            eta_seconds: Some(75.0),
            sources: vec![source(Some("eth0"), f64::from(1 << 30)), source(None, 0.0)],
            peers: Some(Sharing { members: 7, ..Sharing::default() }),
            connections: Connections { at_work: 8, most: 16 },
            requests: Requests {
                total: 9,
                failed: 2,
                given_up: 1,
                retries: 1,
                slow_downs: 0,
                blocks_lost: 0,
            },
            readers: Readers {
                held: 1,
                longest_hold_seconds: 61.5,
                waiting: vec![reader],
                ..Readers::default()
            },
            lanes: [("demand", 3, 1), ("background", 40, 7)]
                .map(|(lane, begun_blocks, queued_blocks)| Lane {
                    lane: lane.to_owned(),
                    queued_blocks,
                    begun_blocks,
                })
                .to_vec(),
            foresight: Foresight { hits: 3, misses: 1 },
            history: History::default(),
            files: vec![file("a", State::Complete, 4 << 30), file("b", State::Loading, 1 << 30)],
        }
    }

    #[test]
    fn a_person_sees_what_matters_and_no_name_steers_the_terminal() {
        let text = text(&snapshot(), false);
        for words in [
            "loading: 5.0 GiB of 8.0 GiB (62 %), 1 of 2 files, time left: 1 min 15 s",
            "agent 1 (process 7) since 1 h 1 min; gate: pre-content",
            "OSS by eth0",
            "1.0 GiB/s",
            "8 of 16 connections at work; requests: 9, 2 failed, 1 given up",
            "7 peers, 0 in quarantine; from OSS as owner 0 B",
            "blocks begun + queued by why: demand 3 + 1, background 40 + 7",
            "75 % of 4 found their bytes there",
            "READERS THAT WAIT: 1, the longest for 1 min 1 s",
            "llama?[2J (42) for 1 min 1 s: b, 0 B to 1.0 MiB",
            "b        4.0 GiB  ######.................. 25 %",
        ] {
            assert!(text.contains(words), "{words} is not in:\n{text}");
        }
        assert!(!text.contains("\na   "), "{text}");
        assert!(
            super::text(&snapshot(), true)
                .contains("a        4.0 GiB  ######################## 100 % complete")
        );
    }

    #[test]
    fn what_was_given_up_is_shown() {
        let mut snapshot = snapshot();
        snapshot.state = State::Complete;
        (snapshot.files_evicted, snapshot.files[1].state, snapshot.files[1].ready) = (1, State::Evicted, 0);
        snapshot.room = Room {
            expire_seconds: Some(120),
            budget_bytes: Some(6 << 30),
            memory_bytes: Some(4 << 30),
            evictions: 3,
            freed_bytes: 5 << 30,
        };
        let text = text(&snapshot, false);
        for words in [
            "complete: 1 of 2 files, 1 evicted, 8.0 GiB",
            "files take 4.0 GiB of memory, at most 6.0 GiB, idle ones for 2 min 0 s",
            "files gave up memory 3 times, 5.0 GiB in all",
            "0 % evicted: the next reader has it fetched",
        ] {
            assert!(text.contains(words), "{words} is not in:\n{text}");
        }
    }

    #[test]
    fn the_json_goes_there_and_back() {
        let there = serde_json::to_string(&snapshot()).unwrap();
        assert_eq!(serde_json::from_str::<Snapshot>(&there).unwrap(), snapshot());
    }
}

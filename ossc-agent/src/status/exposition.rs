//! The metrics as Prometheus reads them (OpenMetrics text): the numbers of a [`Snapshot`], and what has labels or is
//! spread over ranges of time. docs/status.md lists them. Units are seconds and bytes, as their names say.

use std::fmt;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};

use super::snapshot::{Sharing, Snapshot, Source};
use super::view::View;
use crate::metrics::Labels;

/// What the text is, for `Content-Type`.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The text.
pub(super) fn text(view: &View) -> Result<String, fmt::Error> {
    let snapshot = view.snapshot(false);
    let mut registry = Registry::with_prefix("ossc");
    load(&mut registry, &snapshot, view.started());
    room(&mut registry, &snapshot, view);
    network(&mut registry, &snapshot);
    if let Some(sharing) = &snapshot.peers {
        peers(&mut registry, sharing);
    }
    requests(&mut registry, &snapshot, view);
    lanes(&mut registry, &snapshot);
    readers(&mut registry, &snapshot, view);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn load(registry: &mut Registry, snapshot: &Snapshot, started: f64) {
    let build: Family<Labels<1>, Gauge> = Family::default();
    build.get_or_create(&[("version", snapshot.agent.version.clone())]).set(1);
    registry.register("build_info", "The agent's version, as a label", build);
    let start = ConstGauge::new(started);
    registry.register_with_unit("start_time", "When the agent started, since 1970", Unit::Seconds, start);
    let bytes = &snapshot.bytes;
    for (name, help, value) in [
        ("model", "Bytes of all files of the model", bytes.total),
        ("ready", "Bytes that readers have without waiting", bytes.ready),
        ("ready_at_start", "Bytes that were there when the agent started", bytes.at_start),
    ] {
        registry.register_with_unit(name, help, Unit::Bytes, gauge(value));
    }
    for (name, help, value) in [
        ("files", "Files of the model", snapshot.files_total),
        ("files_complete", "Files that are complete", snapshot.files_complete),
        ("files_evicted", "Files that were complete and gave up their bytes", snapshot.files_evicted),
        ("blocks", "Blocks of all files", snapshot.blocks.total),
        ("blocks_ready", "Blocks that are there", snapshot.blocks.ready),
    ] {
        registry.register(name, help, gauge(value));
    }
}

fn room(registry: &mut Registry, snapshot: &Snapshot, view: &View) {
    let (limits, room) = (&snapshot.room, &view.parts().room);
    for (name, help, value) in [
        ("memory", "Bytes of memory that files take, where that is limited", limits.memory_bytes),
        ("memory_budget", "Most bytes of memory that files may take", limits.budget_bytes),
    ] {
        if let Some(value) = value {
            registry.register_with_unit(name, help, Unit::Bytes, gauge(value));
        }
    }
    let help = "How often a complete file gave up memory or space, by cause";
    registry.register("evictions", help, room.evictions());
    let help = "Bytes that complete files gave up, by cause";
    registry.register_with_unit("evicted", help, Unit::Bytes, room.freed());
}

fn network(registry: &mut Registry, snapshot: &Snapshot) {
    let received: Family<Labels<2>, Counter> = Family::default();
    let (connections, up): (Family<Labels<1>, Gauge>, Family<Labels<1>, Gauge>) = Default::default();
    for Source { source, nic, received_bytes, connections: open, up: is_up, .. } in &snapshot.sources {
        let nic = nic.clone().unwrap_or_default();
        let labels = [("source", source.clone()), ("nic", nic.clone())];
        received.get_or_create(&labels).inc_by(*received_bytes);
        if let (Some(open), Some(is_up)) = (open, is_up) {
            connections.get_or_create(&[("nic", nic.clone())]).set((*open).into());
            up.get_or_create(&[("nic", nic)]).set((*is_up).into());
        }
    }
    let help = "Bytes of objects received, by source (oss or peer) and NIC";
    registry.register_with_unit("received", help, Unit::Bytes, received);
    registry.register("connections", "Connections to OSS, idle ones included, by NIC", connections);
    registry.register("nic_up", "0 while a NIC rests because requests through it failed", up);
    let at_work = gauge(snapshot.connections.at_work.into());
    registry.register("connections_at_work", "Connections to OSS that may work now", at_work);
}

fn peers(registry: &mut Registry, sharing: &Sharing) {
    registry.register("peers", "Nodes that are there, besides this one", gauge(sharing.members));
    let help = "Nodes that nothing is taken from any more because they sent wrong bytes";
    registry.register("peers_quarantined", help, gauge(sharing.quarantined));
    let counters = |label: &'static str, counts: &[(&str, u64)]| {
        let family: Family<Labels<1>, Counter> = Family::default();
        for (name, count) in counts {
            family.get_or_create(&[(label, (*name).to_owned())]).inc_by(*count);
        }
        family
    };
    let bytes = &sharing.bytes;
    let reasons = [
        ("own", bytes.own),
        ("stand_in", bytes.stand_in),
        ("escape", bytes.escape),
        ("alone", bytes.alone),
        ("again", bytes.again),
    ];
    let help = "Bytes of blocks asked of OSS, and why this node did";
    registry.register_with_unit("peer_origin", help, Unit::Bytes, counters("why", &reasons));
    let help = "Bytes of blocks sent to peers";
    registry.register_with_unit("peer_served", help, Unit::Bytes, counter(bytes.served));
    let asked = &sharing.requests;
    let requests = [("owner", asked.owner), ("holder", asked.holder)];
    registry.register("peer_requests", "Requests to peers for blocks", counters("to", &requests));
    let answers = [
        ("redirected", asked.redirected),
        ("not_yet", asked.not_yet),
        ("not_here", asked.not_here),
        ("busy", asked.busy),
        ("failed", asked.failed),
        ("corrupt", asked.corrupt),
    ];
    let help = "Requests to peers that did not bring the block";
    registry.register("peer_misses", help, counters("answer", &answers));
}

fn requests(registry: &mut Registry, snapshot: &Snapshot, view: &View) {
    let requests = &view.parts().requests;
    let help = "Requests to OSS that have ended, by operation, HTTP status (none without a reply, given_up) and OSS error code";
    registry.register("requests", help, requests.by_outcome());
    registry.register("request_retries", "Requests to OSS that were another try", requests.retries());
    let help = "Time of requests to OSS to their last byte";
    registry.register_with_unit("request_duration", help, Unit::Seconds, requests.durations());
    let help = "Time of ranged requests to the head of their reply";
    registry.register_with_unit("request_first_byte", help, Unit::Seconds, requests.first_bytes());
    let counts = &snapshot.requests;
    registry.register(
        "slow_downs",
        "Replies of OSS that asked for fewer requests",
        counter(counts.slow_downs),
    );
    registry.register("blocks_lost", "Blocks given up after all tries", counter(counts.blocks_lost));
}

fn lanes(registry: &mut Registry, snapshot: &Snapshot) {
    let begun: Family<Labels<1>, Counter> = Family::default();
    let queued: Family<Labels<1>, Gauge> = Family::default();
    for lane in &snapshot.lanes {
        let labels = [("lane", lane.lane.clone())];
        begun.get_or_create(&labels).inc_by(lane.begun_blocks);
        queued.get_or_create(&labels).set(i64::try_from(lane.queued_blocks).unwrap_or(i64::MAX));
    }
    let help = "Blocks whose fetch has begun, by why: demand (a reader waits), planned, background";
    registry.register("lane_blocks", help, begun);
    registry.register("lane_queued_blocks", "Missing blocks that are to be fetched, by why", queued);
}

fn readers(registry: &mut Registry, snapshot: &Snapshot, view: &View) {
    let readers = &snapshot.readers;
    registry.register("readers_held", "Readers that wait for bytes now", gauge(readers.held));
    let longest = ConstGauge::new(readers.longest_hold_seconds);
    let help = "How long the reader has waited that waits longest now";
    registry.register_with_unit("longest_hold", help, Unit::Seconds, longest);
    let help = "Time that readers were held";
    registry.register_with_unit("reader_hold", help, Unit::Seconds, view.gate().hold_times());
    let help = "Calls of readers that got an error instead of bytes";
    registry.register("readers_denied", help, counter(readers.denied_total));
    let help = "1 when the gate hears the kernel no more: readers wait until the agent is started again";
    registry.register("gate_broken", help, gauge(snapshot.gate_broken.into()));
    let foresight: Family<Labels<1>, Counter> = Family::default();
    for (result, count) in [("hit", snapshot.foresight.hits), ("miss", snapshot.foresight.misses)] {
        foresight.get_or_create(&[("result", result.to_owned())]).inc_by(count);
    }
    let help =
        "First accesses of readers to blocks: hit if the bytes were there, miss if the reader had to wait";
    registry.register("first_accesses", help, foresight);
}

fn gauge(value: u64) -> ConstGauge<u64> {
    ConstGauge::new(value)
}

fn counter(value: u64) -> ConstCounter<u64> {
    ConstCounter::new(value)
}

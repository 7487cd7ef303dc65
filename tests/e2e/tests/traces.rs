//! The load as a trace of OpenTelemetry: which spans a collector gets, and that none hinders a load.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use e2e::agent::{ALL_COMPLETE, exit};
use e2e::collector::{Collector, text};
use e2e::origin::shards;
use e2e::scratch::FileSystem;
use e2e::site::Site;
use oss_server::{Config, Fault, Operation, Rule};

use crate::MIB;

const FILES: usize = 3;

fn site() -> anyhow::Result<Site> {
    Site::new(FileSystem::Ext4, Config::default(), shards(FILES, 8 * MIB + 3))
}

#[test]
fn a_collector_gets_a_span_for_each_step_file_and_failure() -> anyhow::Result<()> {
    let (site, collector) = (site()?, Collector::start("200 OK")?);
    // One request fails; it is sent, whatever the sample is.
    let refusal = Fault::Error { status: 503, code: "ServiceUnavailable".into() };
    let failing = site.origin().server().faults().add(Rule::new(refusal).operation(Operation::Get).times(1));
    let agent = site.start().option("--otlp", collector.url()).start()?;
    agent.wait_for(ALL_COMPLETE)?;
    agent.stop()?.expect(exit::OK)?;
    drop(failing);
    let mut by_name: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for resource in collector.taken()? {
        let about = resource.resource.context("no resource")?.attributes;
        ensure!(text(&about, "service.name") == Some("ossc-agent"), "{about:?}");
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            by_name.entry(span.name.clone()).or_default().push(span);
        }
    }
    let names: Vec<_> = by_name.keys().map(String::as_str).collect();
    let wanted = ["complete", "file", "first byte", "lay out", "list", "load", "request", "show"];
    ensure!(names == wanted, "{names:?}");
    let [load] = by_name["load"].as_slice() else { anyhow::bail!("several loads: {by_name:?}") };
    ensure!(load.parent_span_id.is_empty(), "{load:?}");
    for span in by_name.values().flatten().filter(|span| span.name != "load") {
        ensure!(span.trace_id == load.trace_id && span.parent_span_id == load.span_id, "{span:?}");
        ensure!(span.start_time_unix_nano <= span.end_time_unix_nano, "{span:?}");
        ensure!(span.start_time_unix_nano >= load.start_time_unix_nano, "{span:?}");
    }
    let mut files: Vec<_> =
        by_name["file"].iter().filter_map(|span| text(&span.attributes, "ossc.file")).collect();
    files.sort_unstable();
    let mut listed: Vec<_> = site.origin().files().iter().map(|file| file.name.as_str()).collect();
    listed.sort_unstable();
    ensure!(files == listed, "{files:?}");
    let refused = |span: &&_| matches!(span, opentelemetry_proto::tonic::trace::v1::Span { status: Some(status), .. } if status.message.contains("503"));
    ensure!(by_name["request"].iter().filter(refused).count() == 1, "{:?}", by_name["request"]);
    site.check_files()
}

#[test]
fn a_collector_that_refuses_is_named_once_and_hinders_nothing() -> anyhow::Result<()> {
    let (site, collector) = (site()?, Collector::start("503 Service Unavailable")?);
    let agent = site.start().option("--otlp", collector.url()).start()?;
    agent.wait_for(ALL_COMPLETE)?;
    let ended = agent.stop()?;
    ended.expect(exit::OK)?;
    let said = ended.log.iter().filter(|event| event.message().starts_with("the collector took no spans"));
    ensure!(said.count() == 1, "{}", ended.text());
    ensure!(!collector.taken()?.is_empty(), "nothing was sent");
    site.check_files()
}

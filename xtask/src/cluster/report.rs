//! What the runs of a cluster came to: the table, and docs/bench/cluster-N.md with its plots.

use std::fs;

use anyhow::{Context, Result};

use super::Args;
use super::trial::Outcome;
use crate::cmd;
use crate::plot::{Chart, Mark, Series};

/// Where reports are kept, and their plots beside them.
const DIRECTORY: &str = "docs/bench";

/// All runs of one session.
pub(crate) struct Report<'a> {
    args: &'a Args,
    /// What one node takes, seconds.
    alone: f64,
    outcomes: Vec<Outcome>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(args: &'a Args, alone: f64) -> Self {
        Self { args, alone, outcomes: Vec::new() }
    }

    pub(crate) fn add(&mut self, outcome: Outcome) {
        self.outcomes.push(outcome);
    }

    /// Scenarios that did not keep within their gates.
    pub(crate) fn failed(&self) -> Vec<String> {
        let failed = self.outcomes.iter().filter(|outcome| !outcome.is_good(self.alone));
        failed.map(|outcome| outcome.scenario.to_string()).collect()
    }

    /// Markdown that also reads well in a terminal.
    pub(crate) fn table(&self) -> String {
        let mut table =
            "| load | mean / one node | slowest / one node | OSS bytes / model | readers: end, 1 % | gate: mean, OSS | |\n\
                         |---|---|---|---|---|---|---|\n"
                .to_owned();
        for outcome in &self.outcomes {
            let limit = |value: f64| if value.is_finite() { format!("{value:.2}") } else { "-".to_owned() };
            let gate = outcome
                .gate
                .map_or("-".to_owned(), |gate| format!("{}, {}", limit(gate.mean), limit(gate.origin)));
            let readers = outcome.reading().map_or("-".to_owned(), |[end, slowest, first]| {
                format!("{end:.3} (last {slowest:.3}), {first:.3}")
            });
            let word = match outcome.gate {
                None => "",
                Some(_) if outcome.is_good(self.alone) => "kept",
                Some(_) => "missed",
            };
            table += &format!(
                "| {} | {:.3} ({:.2} s) | {:.3} | {:.3} | {readers} | {gate} | {word} |\n",
                outcome.scenario,
                outcome.mean() / self.alone,
                outcome.mean(),
                outcome.slowest() / self.alone,
                outcome.origin(),
            );
        }
        table
    }

    /// What agents counted, in MiB and in times.
    fn counts(&self) -> String {
        let names = ["own", "stand_in", "escape", "alone", "again", "peers"];
        let others = [
            "asked_owner",
            "asked_holder",
            "hedged",
            "redirected",
            "not_yet",
            "not_here",
            "busy",
            "failed",
            "corrupt",
        ];
        let mut table = format!(
            "| load | {} |\n|{}\n",
            [&names[..], &others[..]].concat().join(" | "),
            "---|".repeat(16)
        );
        for outcome in &self.outcomes {
            let count = |name: &str| {
                outcome.counts.iter().find(|(known, _)| known == name).map_or(0, |(_, count)| *count)
            };
            let bytes = names.iter().map(|name| format!("{:.3}", count(name) as f64 / outcome.model as f64));
            let times = others.iter().map(|name| count(name).to_string());
            let cells: Vec<_> = bytes.chain(times).collect();
            table += &format!("| {} | {} |\n", outcome.scenario, cells.join(" | "));
        }
        table
    }

    /// Writes the report and its plots.
    pub(crate) fn write(&self) -> Result<()> {
        let directory = cmd::root().join(DIRECTORY);
        let name = format!("cluster-{}", self.args.nodes);
        let (completion, origin_plot) = (format!("{name}-completion.svg"), format!("{name}-origin.svg"));
        let write = |name: &str, text: String| {
            fs::write(directory.join(name), text).with_context(|| format!("cannot write {name}"))
        };
        let Args { nodes, link, origin, sink, block, connections, .. } = self.args;
        let model = self.args.model_bytes() as f64 / f64::from(1 << 20);
        let date = jiff::Timestamp::now().strftime("%Y-%m-%d");
        write(
            &format!("{name}.md"),
            format!(
                "# {nodes} nodes\n\n\
             Written by `{} --write` and the scenarios of the table on {date}. {nodes} agents, each in a network \
             namespace behind a link of {link} Mbit/s in both directions (tbf on both ends), have {connections} connections and take in at most {sink} Mbit/s each; \
             the OSS test server is behind a link of {origin} Mbit/s. A model of {model:.0} MiB in blocks of {block} KiB. One node \
             without peers took {:.2} s in the same session; times are given as multiples of that, from the begin of each \
             node's load to its last byte, verified. With \"1 in 10 at a quarter of the speed\" the times are those of the others. \
             Nodes that are killed, stopped or unplugged do not count. Readers in order: when they had all and the first hundredth of the model, in times of their own node; gates 1.03 and 0.02. The scenarios are described by `cargo xtask cluster --help`.\n\n\
             {}\n\
             ![Completion of each node]({completion})\n\n\
             ![Bytes from OSS over time]({origin_plot})\n\n\
             ## Where the bytes came from\n\n\
             Of all nodes together. The first six are in models: read from OSS as owner, in place of the owner, because peers \
             did not give the block for long, without peers, because peers sent something else; and from peers. The others count \
             requests and answers.\n\n{}",
                self.args.command(),
                self.alone,
                self.table(),
                self.counts(),
            ),
        )?;
        write(&completion, self.completion())?;
        write(&origin_plot, self.origin())?;
        eprintln!("written to {DIRECTORY}/{name}.md");
        Ok(())
    }

    fn completion(&self) -> String {
        let mut chart = Chart::new("Completion of each node", "times of one node alone", "");
        for (row, outcome) in self.outcomes.iter().enumerate() {
            let points =
                outcome.seconds().into_iter().map(|seconds| (seconds / self.alone, row as f64)).collect();
            chart.add(Series { name: outcome.scenario.to_string(), mark: Mark::Rows, points });
        }
        chart.svg()
    }

    fn origin(&self) -> String {
        let mut chart = Chart::new("Bytes from OSS", "times of one node alone", "models");
        for outcome in &self.outcomes {
            let model = outcome.model as f64;
            let points =
                outcome.timeline.iter().map(|(at, bytes)| (at / self.alone, bytes / model)).collect();
            chart.add(Series { name: outcome.scenario.to_string(), mark: Mark::Line, points });
        }
        chart.svg()
    }
}

//! What `ossc-agent plan show` prints: a table for people, or JSON whose `version` is raised when a field changes
//! its meaning or goes. The order shown is the one the next load would take, merged from the runs kept.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Error;
use super::select::select;
use crate::base::{BlockSize, Bytes, Layout};
use crate::order::{self, Orders, Run, Shelf, Step};

const JSON_VERSION: u32 = 1;
/// Digits of an id that tell models apart in practice.
const SHORT_ID: usize = 12;

/// What is known of one model or of all.
pub(super) fn text(shelf: &Shelf, model: Option<&str>, as_json: bool) -> Result<String, Error> {
    let ids = match model {
        Some(model) => vec![select(shelf, model)?],
        None => shelf.list()?,
    };
    let mut known = Vec::new();
    for id in ids {
        match shelf.load(&id) {
            Ok(orders) => known.extend(orders),
            Err(error) if model.is_some() => return Err(error.into()),
            // One of many; the others are still worth showing.
            Err(error) => eprintln!("ossc-agent: {}", crate::base::chain(&error)),
        }
    }
    let with_order = model.is_some();
    if as_json {
        let models: Vec<Value> = known.iter().map(|orders| model_json(orders, with_order)).collect();
        return Ok(format!("{:#}\n", json!({ "version": JSON_VERSION, "models": models })));
    }
    let mut text = String::new();
    if known.is_empty() {
        text.push_str("no order has been learned yet\n");
    }
    for orders in &known {
        // Writing to a string cannot fail.
        model_table(&mut text, orders, with_order).ok();
    }
    Ok(text)
}

fn model_table(out: &mut String, orders: &Orders, with_order: bool) -> std::fmt::Result {
    let id = orders.id();
    let short = id.as_str().get(..SHORT_ID).unwrap_or(id.as_str());
    let size = orders.size();
    writeln!(out, "{short}  {}  {} files, {}", printable(&orders.source), orders.files.len(), Bytes(size))?;
    let width = orders.commands.keys().map(|name| name.chars().count()).max().unwrap_or(0).max(7);
    writeln!(out, "  {:width$}  RUNS  LAST              TOUCHED", "COMMAND")?;
    for (name, runs) in &orders.commands {
        let Some(last) = runs.first() else { continue };
        let percent = last.bytes().saturating_mul(100).checked_div(size).unwrap_or(100);
        let (when, touched) = (time(last), Bytes(last.bytes()));
        writeln!(out, "  {name:width$}  {:4}  {when}  {touched} ({percent} %)", runs.len())?;
    }
    if with_order {
        for (name, runs) in &orders.commands {
            writeln!(out, "\n  order of {name}")?;
            for (key, start, end) in merged(orders, runs) {
                writeln!(out, "  {start:>15} .. {end:<15}  {}", printable(key))?;
            }
        }
    }
    Ok(())
}

fn model_json(orders: &Orders, with_order: bool) -> Value {
    let command = |(name, runs): (&String, &Vec<Run>)| {
        let mut entry = json!({
            "command": name,
            "runs": runs.len(),
            "last_started_ms": runs.first().map(|run| run.started_ms),
            "touched_bytes": runs.first().map(Run::bytes),
        });
        if with_order {
            let order = merged(orders, runs);
            let order =
                order.into_iter().map(|(key, start, end)| json!({"key": key, "start": start, "end": end}));
            entry["order"] = order.collect();
        }
        entry
    };
    json!({
        "id": orders.id().as_str(),
        "source": orders.source,
        "files": orders.files.len(),
        "bytes": orders.size(),
        "commands": orders.commands.iter().map(command).collect::<Vec<_>>(),
    })
}

/// The order of the version last loaded: key, and the bytes from start to end.
fn merged<'a>(orders: &'a Orders, runs: &[Run]) -> Vec<(&'a str, u64, u64)> {
    let block_size = BlockSize::for_model(orders.size());
    let layouts: Option<Vec<_>> =
        orders.files.iter().map(|(_, size)| Layout::new(*size, block_size)).collect();
    let newest = runs.first().map(|run| &run.version);
    let runs: Vec<&[Step]> =
        runs.iter().filter(|run| Some(&run.version) == newest).map(|run| run.steps.as_slice()).collect();
    let plan = order::merge(&layouts.unwrap_or_default(), &runs).into_iter();
    let named = plan.filter_map(|(file, range)| {
        let (key, _) = orders.files.get(file.index())?;
        Some((key.as_str(), range.start(), range.end()))
    });
    named.collect()
}

fn time(run: &Run) -> String {
    let time = i64::try_from(run.started_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| "?".to_owned(), |time| time.strftime("%Y-%m-%d %H:%M").to_string())
}

/// Without characters that would confuse a terminal: keys and places may come from a file somebody gave.
fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

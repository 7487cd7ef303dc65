//! The results in docs/kernel-support.md: what was seen on each kernel. The text around them is written by hand.
//!
//! `cargo xtask vm` writes them after a run in which everything was as expected. `cargo xtask lint` checks that there is
//! a row for each kernel and file system and no other; what stands in a row only a run can tell.

use std::fs;

use anyhow::{Context, Result};

use super::report::{Line, Seen};
use super::{Choice, expect};
use crate::cmd;

/// Its path below the root.
pub(crate) const PATH: &str = "docs/kernel-support.md";

const BEGIN: &str = "<!-- results -->\n";
const END: &str = "<!-- /results -->\n";
const HEAD: &str = "| kernel | file system | version | readers wait in | readers of a load | held at open(2) | reads | \
     page faults | probes missing |\n|---|---|---|---|---|---|---|---|---|\n";
/// Columns behind kernel and file system.
const COLUMNS: usize = 7;

/// Puts the results in their place.
pub(crate) fn write(results: &[(Choice, Vec<Line>)]) -> Result<()> {
    let path = cmd::root().join(PATH);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let (before, _, after) = split(&text).with_context(|| format!("{PATH} has no {BEGIN}...{END}"))?;
    let text = format!("{before}{BEGIN}{}{END}{after}", table(results));
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("vm: wrote {PATH}");
    Ok(())
}

/// What is wrong with the form of the results in this text.
pub(crate) fn check_form(text: &str) -> Result<(), String> {
    let (_, found, _) = split(text).ok_or("the comments around the results are gone")?;
    let wanted = table(&Choice::ALL.map(|choice| (choice, Vec::new())));
    let Some(rows) = found.strip_prefix(HEAD) else {
        return Err(format!("the results should begin with {HEAD}"));
    };
    let names = |line: &str| line.split('|').take(3).map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let wanted: Vec<_> = wanted.lines().skip(2).map(names).collect();
    if rows.lines().map(names).collect::<Vec<_>>() != wanted {
        return Err(format!("the rows should be {wanted:?}"));
    }
    match rows.lines().find(|row| row.split('|').skip(3).take(COLUMNS).any(|cell| cell.trim().is_empty())) {
        Some(row) => Err(format!("nothing was seen in {row}")),
        None => Ok(()),
    }
}

/// What stands before, between and behind the comments.
fn split(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (between, after) = rest.split_once(END)?;
    Some((before, between, after))
}

fn table(results: &[(Choice, Vec<Line>)]) -> String {
    let mut text = HEAD.to_owned();
    for (choice, lines) in results {
        for file_system in expect::FILE_SYSTEMS {
            let cells = Row::of(lines, file_system).cells().join(" | ");
            text.push_str(&format!("| {} | {file_system} | {cells} |\n", choice.name()));
        }
    }
    text
}

/// What was seen on one kernel and file system.
#[derive(Debug, Default)]
struct Row {
    version: String,
    gate: String,
    readers: String,
    at_open: String,
    reads: String,
    faults: String,
    missing: String,
}

impl Row {
    fn of(lines: &[Line], on: &str) -> Self {
        let version = expect::version(lines).unwrap_or_default().to_owned();
        let at_open = if lines.is_empty() { String::new() } else { "not tried".to_owned() };
        let mut row = Self { version, at_open, ..Self::default() };
        for line in lines {
            match line {
                Line::Readers(readers) if readers.file_system == on && readers.gate == expect::OPEN => {
                    row.at_open = format!("{} wrong", readers.not_right.len());
                }
                Line::Readers(readers) if readers.file_system == on => {
                    row.gate.clone_from(&readers.gate);
                    row.readers = format!("{} kinds, {} wrong", readers.kinds.len(), readers.not_right.len());
                    if !readers.refused.is_empty() {
                        row.readers.push_str(&format!("; refused: {}", readers.refused.join(", ")));
                    }
                }
                Line::Trace(trace) if trace.file_system == on => match trace.pattern.as_str() {
                    expect::FAULTS => row.faults = seen(trace.seen),
                    expect::READS => row.reads = seen(trace.seen),
                    _ => {}
                },
                Line::Probes(probes) if probes.file_system == on => {
                    let none = probes.missing.is_empty();
                    row.missing = if none { "none".to_owned() } else { probes.missing.join(", ") };
                }
                _ => {}
            }
        }
        row
    }

    fn cells(self) -> [String; COLUMNS] {
        [self.version, self.gate, self.readers, self.at_open, self.reads, self.faults, self.missing]
    }
}

fn seen(seen: Seen) -> String {
    match seen {
        Seen::Exact => "to the byte",
        Seen::Pages => "to the page",
        Seen::Windows => "with the pages mapped along",
        Seen::Nothing => "no",
        Seen::Wrong => "wrong",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_that_of_the_kernels_that_are_checked() {
        let rows = table(&Choice::ALL.map(|choice| (choice, Vec::new())))
            .replace(" |  |", " | x |")
            .replace(" |  |", " | x |");
        let text = format!("# Kernels\n{BEGIN}{rows}{END}More.\n");
        assert_eq!(check_form(&text), Ok(()));
        let row = rows.lines().last().unwrap();
        for wrong in [
            text.replace(&format!("{row}\n"), ""),
            text.replace(row, &format!("{row}\n{row}")),
            text.replace("| 6.1 | ext4 | x |", "| 6.1 | ext4 | |"),
            text.replace("| 6.1 |", "| 5.10 |"),
            text.replace("page faults", "faults"),
            text.replace(END, ""),
        ] {
            assert_ne!(wrong, text);
            assert!(check_form(&wrong).is_err(), "{wrong}");
        }
    }
}

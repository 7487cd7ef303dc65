//! The documents against the command line: every flag of a load stands in docs/configuration.md, every flag that a table
//! there names exists, and every `ossc-agent` command that any document shows is one that the program takes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Command;
use clap::error::ErrorKind;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(name: &str) -> anyhow::Result<String> {
    fs::read_to_string(root().join(name)).with_context(|| name.to_owned())
}

/// The README and all documents for users.
fn documents() -> anyhow::Result<Vec<(String, String)>> {
    let mut names = vec!["README.md".to_owned(), "README.zh-CN.md".to_owned()];
    for entry in fs::read_dir(root().join("docs"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".md") {
            names.push(format!("docs/{name}"));
        }
    }
    names.into_iter().map(|name| Ok((name.clone(), read(&name)?))).collect()
}

/// Long flags of a command and of those below it.
fn flags(command: &Command) -> BTreeSet<String> {
    let own =
        command.get_arguments().filter_map(|argument| argument.get_long()).map(|flag| format!("--{flag}"));
    own.chain(command.get_subcommands().flat_map(flags)).collect()
}

/// `--words` in a text.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    words
        .filter(|word| {
            word.len() > 2 && word.starts_with("--") && !word.starts_with("---") && !word.ends_with('-')
        })
        .map(str::to_owned)
        .collect()
}

#[test]
fn name_every_flag_of_a_load_and_none_that_is_not() -> anyhow::Result<()> {
    let command = ossc_agent::cli::command();
    let mut load = flags(&Command::new("load").args(command.get_arguments().cloned()));
    let text = format!("{}\n{}", read("docs/configuration.md")?, read("docs/peers.md")?);
    // Those of `cargo xtask` are another program's.
    let named = named(&text.lines().filter(|line| !line.contains("cargo ")).collect::<Vec<_>>().join("\n"));
    for standard in ["--help", "--version"] {
        load.remove(standard);
    }
    let missing: Vec<_> = load.difference(&named).collect();
    assert!(missing.is_empty(), "in no table: {missing:?}");
    let mut all = flags(&command);
    // clap adds these when it builds.
    all.extend(["--help", "--version"].map(String::from));
    let unknown: Vec<_> = named.difference(&all).collect();
    assert!(unknown.is_empty(), "no such flags: {unknown:?}");
    Ok(())
}

/// Arguments of the `ossc-agent` commands in a document's code: without what is before the program, and what is a
/// program's of the user.
fn commands(text: &str) -> Vec<Vec<String>> {
    let (mut prose, mut blocks) = (String::new(), vec![String::new()]);
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            blocks.push(String::new());
        } else if let (true, Some(block)) = (fenced, blocks.last_mut()) {
            block.extend([line, "\n"]);
        } else {
            prose.extend([line, " "]);
        }
    }
    // Pictures are no commands.
    blocks.retain(|block| !block.contains('─'));
    let code = blocks.concat().replace("\\\n", " ");
    let spans = prose.split('`').skip(1).step_by(2);
    let words = |line: &str| -> Vec<String> {
        let words = line.split_whitespace().skip_while(|word| !is_program(word));
        words.take_while(|word| !["&", "|", "#", ">"].contains(word)).map(str::to_owned).collect()
    };
    let lines = code.lines().chain(spans);
    // What cargo makes or runs of the package is no command of the program.
    let lines = lines.filter(|line| !line.trim_start().starts_with("cargo "));
    lines.filter(|line| line.split_whitespace().take(4).any(is_program)).map(words).collect()
}

fn is_program(word: &str) -> bool {
    word == "ossc-agent" || word.ends_with("/ossc-agent")
}

/// A word in place of one that stands for something.
fn filled_in(word: &str) -> Option<&str> {
    match word {
        "..." | "…" => None,
        "N" | "SECONDS" => Some("1"),
        word => Some(word),
    }
}

#[test]
fn show_commands_that_the_program_takes() -> anyhow::Result<()> {
    let mut tried = 0;
    for (name, text) in documents()? {
        for words in commands(&text) {
            // Brackets, angles and bars are about the form of a command, and no command.
            if words.iter().any(|word| word.contains(['[', '<', '|'])) {
                continue;
            }
            let line = words.iter().filter_map(|word| filled_in(word));
            match ossc_agent::cli::command().try_get_matches_from(line) {
                Ok(_) => tried += 1,
                // The name of a task in a text, without what it needs.
                Err(error) if words.len() <= 3 && is_incomplete(error.kind()) => {}
                Err(error) => panic!("{name}: {}: {error}", words.join(" ")),
            }
        }
    }
    assert!(tried > 20, "only {tried} commands were found in all documents");
    Ok(())
}

fn is_incomplete(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::MissingRequiredArgument
            | ErrorKind::MissingSubcommand
            | ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    )
}

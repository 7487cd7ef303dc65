//! The floors of the agent: each part uses only parts of lower floors, tests included. Rust allows
//! module cycles, so nothing else keeps the architecture from melting. The table here is the one
//! that docs/architecture.md draws and `ossc-agent/src/lib.rs` lists its modules by.
//!
//! Every path that starts at the crate's root is looked at: `crate::x`, a `super::` chain that
//! climbs that far, and `ossc_agent::x` in `main.rs`, which is a crate of its own.

use super::Finding;
use super::tokens::{Tokens, is_word};
use super::tree::Tree;

/// Each part with its floor. Parts of one floor do not know each other.
const FLOORS: [(&str, u8); 22] = [
    ("base", 0),
    ("sys", 1),
    ("metrics", 1),
    ("spans", 1),
    ("systemd", 1),
    ("store", 2),
    ("oss", 2),
    ("bpf", 2),
    ("order", 2),
    ("keeper", 3),
    ("peer", 3),
    ("fetch", 4),
    ("gate", 5),
    ("config", 6),
    ("status", 6),
    ("trace", 6),
    ("agent", 7),
    ("doctor", 7),
    ("cli", 8),
    // The door has a sill: main.rs only calls cli, and nothing can call main.
    ("main", 9),
    // Only lists the modules.
    ("lib", 9),
    // Only lists the parts' own fuzzing functions.
    ("fuzzing", 9),
];

/// Where the floors are.
const AGENT: &str = "ossc-agent/src/";

fn floor_of(part: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == part).map(|(_, floor)| *floor)
}

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.ending_in(".rs") {
        let Some(inside) = path.strip_prefix(AGENT) else { continue };
        let part = inside.split(['/', '.']).next().unwrap_or(inside);
        let mut report =
            |line, advice| findings.push(Finding { path: path.to_owned(), line, rule: "floors", advice });
        let Some(floor) = floor_of(part) else {
            report(
                1,
                format!(
                    "`{part}` has no floor; add it to FLOORS in xtask/src/tidy/floors.rs and to docs/architecture.md"
                ),
            );
            continue;
        };
        let tokens = Tokens::of(text);
        for (offset, used) in uses(&tokens, inside) {
            let line = tokens.line_of(offset);
            match floor_of(&used) {
                _ if used == part => {}
                None => report(
                    line,
                    format!("`{used}` is no part of FLOORS; name a part by its path from `crate::`"),
                ),
                Some(below) if below < floor => {}
                Some(other) => report(
                    line,
                    format!(
                        "`{part}` (floor {floor}) may not use `{used}` (floor {other}): move what both need to a lower floor, or \
                         let a higher floor connect them"
                    ),
                ),
            }
        }
    }
    findings
}

/// Each use of a part, with its place.
fn uses(tokens: &Tokens, inside: &str) -> Vec<(usize, String)> {
    let code = tokens.code();
    let mut found = Vec::new();
    for root in ["crate", "ossc_agent"] {
        for offset in tokens.words(root) {
            found.extend(first_names(code, offset + root.len()).into_iter().map(|name| (offset, name)));
        }
    }
    let file_depth = inside.trim_end_matches(".rs").split('/').count();
    for offset in tokens.words("super") {
        let chain_start = !code[..offset].trim_end().ends_with("::");
        let links = chain_start.then(|| super_chain(code, offset));
        if let Some((length, end)) = links
            && length == file_depth + tokens.module_depth(offset)
        {
            found.extend(first_names(code, end).into_iter().map(|name| (offset, name)));
        }
    }
    found
}

/// Number of `super` in the chain at `offset`, and where it ends.
fn super_chain(code: &str, offset: usize) -> (usize, usize) {
    let (mut length, mut end) = (1, offset + "super".len());
    while code[end..].starts_with("::super") {
        length += 1;
        end += "::super".len();
    }
    (length, end)
}

/// What follows a root: the name after `::`, or each first name of a `::{...}` list; `*` for a glob.
/// Nothing when no path follows, as in `pub(crate)`.
fn first_names(code: &str, after: usize) -> Vec<String> {
    let Some(rest) = code[after..].trim_start().strip_prefix("::").map(str::trim_start) else {
        return Vec::new();
    };
    let Some(list) = rest.strip_prefix('{') else {
        return vec![first_name(rest)];
    };
    let (mut names, mut depth, mut start) = (Vec::new(), 0_usize, 0);
    for (at, character) in list.char_indices() {
        match character {
            '{' => depth += 1,
            '}' | ',' if depth == 0 => {
                names.push(first_name(list[start..at].trim()));
                start = at + 1;
                if character == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn first_name(path: &str) -> String {
    if path.starts_with('*') {
        return "*".to_owned();
    }
    let end = path.bytes().position(|byte| !is_word(byte)).unwrap_or(path.len());
    path[..end].to_owned()
}

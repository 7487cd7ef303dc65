//! Rules about Rust files as wholes: a `//!` header that says what the file is for, a size one can
//! read in one go, and folders whose facade shows in the listing (`x.rs` beside `x/`, no `mod.rs`).

use super::Finding;
use super::tree::Tree;

/// Longest file, in lines. Above about 300 a file usually holds two ideas; above this it does.
const MAX_LINES: usize = 500;

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.ending_in(".rs") {
        let mut report =
            |line, rule, advice| findings.push(Finding { path: path.to_owned(), line, rule, advice });
        if !text.starts_with("//!") {
            report(
                1,
                "header",
                "open the file with a `//!` header: what for, who drives it, what happens on failure"
                    .to_owned(),
            );
        }
        let lines = text.lines().count();
        if lines > MAX_LINES {
            report(
                MAX_LINES + 1,
                "size",
                format!("{lines} lines; split the file so that each part has at most {MAX_LINES}"),
            );
        }
        if path.ends_with("/mod.rs") {
            report(1, "mod-rs", "move it to `x.rs` beside the folder `x/`".to_owned());
        }
    }
    findings
}

//! Each dependency of the workspace stands under a comment that says why it is there. Entries that
//! serve one purpose may share a comment; crates of this workspace need none, as their own manifest
//! describes them.

use super::Finding;
use super::tree::Tree;

/// How many entries one comment may stand for. More than three are rarely for one purpose.
const MAX_SHARED: usize = 3;

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let text = tree.text("Cargo.toml").unwrap_or_default();
    let mut in_table = false;
    // Entries that the last comment may still stand for.
    let mut covered = 0;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            in_table = line == "[workspace.dependencies]";
            covered = 0;
        } else if line.starts_with('#') {
            covered = MAX_SHARED;
        } else if line.is_empty() {
            covered = 0;
        } else if in_table && let Some((name, value)) = line.split_once('=') {
            if value.contains("path =") {
                covered = 0;
            } else if covered == 0 {
                findings.push(Finding {
                    path: "Cargo.toml".to_owned(),
                    line: index + 1,
                    rule: "dependency",
                    advice: format!(
                        "say in a comment line above why `{}` is needed (one comment may stand for {MAX_SHARED} entries)",
                        name.trim()
                    ),
                });
            } else {
                covered -= 1;
            }
        }
    }
    findings
}

//! The project's own rules about its source tree, checked by a machine so that no review has to:
//! the floors of the agent, file headers and sizes, where `unsafe` may stand, panics, dependency
//! reasons, links of the documentation. `cargo xtask lint` drives it.
//!
//! Every check reads a [`Tree`] in memory and gives [`Finding`]s, so that each rule is tested on trees
//! of a few lines. One list of findings is printed; nothing stops at the first.

mod files;
mod floors;
mod kernels;
mod links;
mod manifest;
mod source;
mod tokens;
mod tree;

use std::fmt;
use std::path::Path;

use anyhow::{Result, bail};

use tree::Tree;

/// A broken rule: shown as `path:line: rule: what to do`.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    /// Path below the workspace's root.
    path: String,
    /// Counted from 1.
    line: usize,
    /// Name of the rule, one word.
    rule: &'static str,
    /// What is wrong and what to do.
    advice: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path, self.line, self.rule, self.advice)
    }
}

/// Checks the tree under `root`; prints every finding and fails if there is one.
pub(crate) fn tidy(root: &Path) -> Result<()> {
    eprintln!("$ tidy");
    let findings = check(&Tree::read(root)?);
    for finding in &findings {
        eprintln!("{finding}");
    }
    if !findings.is_empty() {
        bail!("tidy: {} finding(s)", findings.len());
    }
    Ok(())
}

/// All findings, ordered by path and line.
fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(files::check(tree));
    findings.extend(floors::check(tree));
    findings.extend(source::check(tree));
    findings.extend(manifest::check(tree));
    findings.extend(links::check(tree));
    findings.extend(kernels::check(tree));
    findings.sort();
    findings
}

#[cfg(test)]
mod tests;

//! docs/kernel-support.md is written by `cargo xtask vm`, which takes minutes; this rule finds in no time when it has
//! rows for other kernels than that command checks, or none.

use super::Finding;
use super::tree::Tree;
use crate::vm::document;

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    // Trees of the other rules' tests have none; that it is there, the README's link ensures.
    let Some(text) = tree.text(document::PATH) else { return Vec::new() };
    let Err(why) = document::check_form(text) else { return Vec::new() };
    let advice = format!("{why}; write it with `cargo xtask vm`");
    vec![Finding { path: document::PATH.to_owned(), line: 1, rule: "kernels", advice }]
}

//! Rules about what Rust code may say where: `unsafe` only in the files that exist for it, and no
//! `.unwrap()` outside tests, since a panic in the agent leaves readers held. In the value of a constant
//! it is allowed: there it fails the build.

use super::Finding;
use super::tokens::Tokens;
use super::tree::Tree;

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.ending_in(".rs") {
        let tokens = Tokens::of(text);
        let mut report = |offset, rule, advice: &str| {
            let line = tokens.line_of(offset);
            findings.push(Finding { path: path.to_owned(), line, rule, advice: advice.to_owned() });
        };
        if !may_be_unsafe(path) {
            for offset in tokens.words("unsafe") {
                report(
                    offset,
                    "unsafe",
                    "move it to ossc-agent/src/sys (of a test crate: its sys.rs) behind a safe function",
                );
            }
        }
        if !is_test_file(path) {
            for (offset, _) in tokens.code().match_indices(".unwrap()") {
                if !tokens.in_test(offset) && !tokens.in_constant(offset) {
                    report(
                        offset,
                        "unwrap",
                        "return an error that says what failed, or make the case impossible by type",
                    );
                }
            }
        }
    }
    findings
}

/// The agent's `sys` part, the kernel side and the records it shares (aya's `Pod` markers), and the
/// `sys.rs` of a test crate.
fn may_be_unsafe(path: &str) -> bool {
    path == "ossc-agent/src/sys.rs"
        || ["ossc-agent/src/sys/", "ossc-ebpf/", "ossc-common/"].iter().any(|folder| path.starts_with(folder))
        || (path.starts_with("tests/") && path.ends_with("/sys.rs"))
}

/// Files that cargo compiles for tests only. The crates below `tests/` are programs and libraries
/// themselves, so their `src` is not meant.
fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

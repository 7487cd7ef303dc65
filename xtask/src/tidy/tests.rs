//! Each rule on a tree of a few lines: once broken, so that it is shown to fail, and once kept.

use super::tokens::Tokens;
use super::tree::Tree;
use super::{Finding, check};

/// The findings as `path:line: rule`.
fn places<const N: usize>(files: [(&str, &str); N]) -> Vec<String> {
    let place = |finding: &Finding| format!("{}:{}: {}", finding.path, finding.line, finding.rule);
    check(&Tree::from(files)).iter().map(place).collect()
}

/// Findings of one Rust file under a proper header.
fn in_file(path: &str, code: &str) -> Vec<String> {
    let text = format!("//! Header.\n{code}");
    places([(path, text.as_str())])
}

#[test]
fn a_file_has_a_header() {
    assert_eq!(places([("xtask/src/a.rs", "fn a() {}\n")]), ["xtask/src/a.rs:1: header"]);
    assert_eq!(places([("xtask/src/a.rs", "//! Says why.\nfn a() {}\n")]), [""; 0]);
}

#[test]
fn a_file_has_at_most_500_lines() {
    assert_eq!(in_file("xtask/src/a.rs", &"\n".repeat(499)), [""; 0]);
    assert_eq!(in_file("xtask/src/a.rs", &"\n".repeat(500)), ["xtask/src/a.rs:501: size"]);
}

#[test]
fn a_facade_stands_beside_its_folder() {
    assert_eq!(in_file("ossc-agent/src/oss/mod.rs", ""), ["ossc-agent/src/oss/mod.rs:1: mod-rs"]);
}

#[test]
fn unsafe_stands_where_it_may() {
    let cases = [
        ("ossc-agent/src/store.rs", false),
        ("ossc-agent/src/sys.rs", true),
        ("ossc-agent/src/sys/file.rs", true),
        ("ossc-agent/src/system.rs", false),
        ("ossc-agent/src/store/sys.rs", false),
        ("ossc-ebpf/src/main.rs", true),
        ("ossc-common/src/lib.rs", true),
        ("tests/e2e/src/sys.rs", true),
        ("tests/e2e/src/reader.rs", false),
        ("xtask/src/sys.rs", false),
    ];
    for (path, allowed) in cases {
        let found = in_file(path, "fn f() {\n    unsafe { g() }\n}\n");
        let flagged = found.contains(&format!("{path}:3: unsafe"));
        assert_eq!(flagged, !allowed, "{path}: {found:?}");
    }
    assert_eq!(
        in_file("xtask/src/a.rs", "#![deny(unsafe_code)] // unsafe\nconst A: &str = \"unsafe\";\n"),
        [""; 0]
    );
}

#[test]
fn only_tests_unwrap() {
    let cases = [
        ("xtask/src/a.rs", "fn f() { g().unwrap() }", true),
        ("xtask/src/a.rs", "#[cfg(test)]\nmod tests {\n fn f() { g().unwrap() }\n}", false),
        ("xtask/src/a.rs", "#[cfg(test)]\nmod tests;\nfn f() { g().unwrap() }", true),
        ("xtask/src/a.rs", "#[cfg(test)]\nmod tests { fn f() {} }\nfn f() { g().unwrap() }", true),
        ("xtask/src/a.rs", "fn f() { g().unwrap_or(0) /* .unwrap() */; }", false),
        ("xtask/src/a.rs", "const A: [u8; 2] = g().unwrap();", false),
        ("xtask/src/a.rs", "pub(crate) static A: u8 = g().unwrap();\nfn f() { g().unwrap() }", true),
        ("xtask/src/a.rs", "const fn f() -> u8 { g().unwrap() }", true),
        ("xtask/src/a.rs", "fn f(a: *const u8) { let b = [0; 2]; g().unwrap(); }", true),
        ("xtask/src/a/tests.rs", "fn f() { g().unwrap() }", false),
        ("tests/e2e/tests/main.rs", "fn f() { g().unwrap() }", false),
        ("tests/oss-server/src/lib.rs", "fn f() { g().unwrap() }", true),
    ];
    for (path, code, flagged) in cases {
        assert_eq!(
            in_file(path, code).iter().any(|finding| finding.ends_with("unwrap")),
            flagged,
            "{path}: {code}"
        );
    }
}

#[test]
fn a_part_uses_lower_floors_only() {
    let cases = [
        ("store.rs", "use crate::base::Block;", true),
        ("store.rs", "use crate::store::ready::Map;", true),
        ("store/ready.rs", "use crate::store::File;", true),
        ("store.rs", "use crate::fetch::Fetcher;", false),
        ("store.rs", "use crate::oss::Client;", false),
        ("sys.rs", "use crate::metrics::Counter;", false),
        ("config.rs", "use crate::{base, oss::Config, store::{self, File}};", true),
        ("config.rs", "use crate::{base, status::View};", false),
        ("config.rs", "use crate::{store::{self, status}, base};", true),
        ("base/range.rs", "fn f() { crate::sys::now(); }", false),
        ("base/range.rs", "use super::blocks::Layout;", true),
        ("base/range.rs", "use super::super::sys::now;", false),
        ("base/range.rs", "use super::super::base::Bytes;", true),
        ("base.rs", "use super::sys::now;", false),
        ("base.rs", "mod tests {\n use super::Range;\n}", true),
        ("base.rs", "mod tests {\n use super::super::sys::now;\n}", false),
        ("base.rs", "#[cfg(test)]\nmod tests {\n use crate::oss::Client;\n}", false),
        ("base.rs", "use crate::*;", false),
        ("base.rs", "use crate::util::Thing;", false),
        ("base.rs", "pub(crate) fn f() {} // crate::oss", true),
        ("main.rs", "use ossc_agent::cli;", true),
        ("cli.rs", "use crate::main;", false),
        ("helpers.rs", "", false),
    ];
    for (file, code, kept) in cases {
        let found = in_file(&format!("ossc-agent/src/{file}"), code);
        assert_eq!(found.is_empty(), kept, "{file}: {code}: {found:?}");
    }
    assert_eq!(in_file("tests/e2e/src/lib.rs", "use crate::fetch;"), [""; 0]);
    let told = check(&Tree::from([("ossc-agent/src/oss.rs", "//! H.\n\nuse crate::gate;\n")]));
    assert_eq!(
        told[0].to_string(),
        "ossc-agent/src/oss.rs:3: floors: `oss` (floor 2) may not use `gate` (floor 5): move what both need to a lower \
         floor, or let a higher floor connect them"
    );
}

#[test]
fn a_dependency_has_its_reason() {
    let cases = [
        ("# Why.\na = \"1\"\n", &[][..]),
        ("a = \"1\"\n", &[2][..]),
        ("# Why.\na = \"1\"\nb = \"1\"\nc = \"1\"\nd = \"1\"\n", &[6][..]),
        ("# Why.\na = \"1\"\n\nb = \"1\"\n", &[5][..]),
        ("ours = { path = \"ours\" }\na = \"1\"\n", &[3][..]),
        ("# Why.\na = \"1\"\n[profile.dev]\nopt-level = 1\n", &[][..]),
    ];
    for (table, lines) in cases {
        let expected: Vec<String> =
            lines.iter().map(|line| format!("Cargo.toml:{line}: dependency")).collect();
        assert_eq!(
            places([("Cargo.toml", &format!("[workspace.dependencies]\n{table}"))]),
            expected,
            "{table}"
        );
    }
}

#[test]
fn a_link_leads_to_a_file() {
    let cases = [
        ("[a](b.md)", true),
        ("[a](b.md#part)", true),
        ("[a](../README.md \"title\")", true),
        ("[a](/docs/b.md), [c](gone.md)", false),
        ("[a](../xtask/src/)", true),
        ("[a](../xtask/gone/)", false),
        ("[a](../../README.md)", false),
        ("[a]: gone.md", false),
        ("[a](https://example.com/x), [b](#part), [c](mailto:a@example.com)", true),
        ("`[a](gone.md)`", true),
        ("```\n[a](gone.md)\n```", true),
        ("```\ncode\n```\n[a](gone.md)", false),
    ];
    for (text, kept) in cases {
        let found = places([
            ("README.md", ""),
            ("docs/a.md", text),
            ("docs/b.md", ""),
            ("xtask/src/main.rs", "//! Header.\n"),
        ]);
        assert_eq!(found.is_empty(), kept, "{text}: {found:?}");
    }
}

#[test]
fn comments_and_literals_are_no_code() {
    let cases = [
        ("a // b\nc", "a     \nc"),
        ("a /* b /* c */ d */ e", "a                   e"),
        (r#"a "b \" c" d"#, "a          d"),
        (r##"a r#"b " c"# d"##, "a            d"),
        ("a b\"c\" d", "a b    d"),
        ("for\"a\" b", "for    b"),
        ("a '\\'' b", "a      b"),
        ("a '{' b 'c d", "a     b 'c d"),
        ("a 'ö' b", "a      b"),
        ("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}"),
        ("\"open", "     "),
    ];
    for (text, code) in cases {
        assert_eq!(Tokens::of(text).code(), code, "{text}");
    }
}

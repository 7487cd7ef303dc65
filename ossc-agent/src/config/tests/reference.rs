//! docs/configuration.md and docs/peers.md against what is read: every key of the JSON file and every variable of the
//! environment stands there, and every key and variable that a table there names is read.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::base::Nic;
use crate::config::raw::{self, Raw};

const CONFIGURATION: &str = include_str!("../../../../docs/configuration.md");
const PEERS: &str = include_str!("../../../../docs/peers.md");
/// Where variables are read.
const READERS: [&str; 3] =
    [include_str!("../credentials.rs"), include_str!("../resolve.rs"), include_str!("../peers.rs")];
/// Of the service manager, of the shell, and of the OSS Connector, which are remarked on.
const NOT_SETTINGS: [&str; 4] = ["CREDENTIALS_DIRECTORY", "HOME", "LD_PRELOAD", "ENABLE_CONNECTOR"];

impl Serialize for Nic {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Keys that are read, `section.key` below a section.
fn keys() -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    let all = serde_json::to_value(Raw::default()).unwrap();
    for (key, value) in all.as_object().unwrap() {
        match value.as_object() {
            Some(section) => keys.extend(section.keys().map(|below| format!("{key}.{below}"))),
            None => drop(keys.insert(key.clone())),
        }
    }
    keys
}

/// What stands in backticks in one column of a document's tables whose head there has this word.
pub(super) fn column(document: &str, word: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut at = None;
    for line in document.lines() {
        let cells: Vec<&str> = line.split(" |").collect();
        if !line.starts_with('|') {
            at = None;
        } else if at.is_none() {
            at = cells.iter().position(|cell| cell.contains(word)).or(Some(usize::MAX));
        } else if let Some(cell) = at.and_then(|at| cells.get(at)) {
            found.extend(cell.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

#[test]
fn names_every_key_and_none_that_is_not() {
    let keys = keys();
    assert!(keys.len() > 30 && keys.contains("peers.pskFile") && keys.contains("logLevel"), "{keys:?}");
    let mut named = column(CONFIGURATION, "JSON key");
    assert!(named.remove("peers.*"), "the tables are not read");
    named.extend(column(PEERS, "JSON (").iter().map(|key| format!("peers.{key}")));
    let unknown: Vec<_> = named.difference(&keys).collect();
    assert!(unknown.is_empty(), "no such keys: {unknown:?}");
    let silent = keys.difference(&named).filter(|key| !CONFIGURATION.contains(&format!("`{key}`")));
    let silent: Vec<_> = silent.collect();
    assert!(silent.is_empty(), "in no document: {silent:?}");
    for key in &named {
        let (section, below) = key.split_once('.').unwrap_or(("", key));
        let object = |inner: &str| {
            if section.is_empty() { inner.to_owned() } else { format!("{{\"{section}\": {inner}}}") }
        };
        // A key that is known and of another type is an error, or is taken; only one that is not known is kept.
        if let Ok(raw) = raw::parse(&object(&format!("{{\"{below}\": null}}"))) {
            let unknown = [&raw.unknown, &raw.prefetch.unknown, &raw.peers.unknown];
            assert!(unknown.iter().all(|keys| keys.is_empty()), "{key}");
        }
    }
}

#[test]
fn names_every_variable_and_none_that_is_not() {
    let is_variable = |word: &&str| {
        word.len() > 3
            && word.contains('_')
            && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    };
    let mut read: BTreeSet<&str> =
        READERS.iter().flat_map(|code| code.split('"').skip(1).step_by(2)).filter(is_variable).collect();
    for other in NOT_SETTINGS {
        read.remove(other);
    }
    // Switches of tests, which no release build has.
    read.retain(|name| !name.starts_with("OSSC_TEST_"));
    assert!(read.contains("OSS_ACCESS_KEY_SECRET") && read.contains("OSSC_PEERS"), "{read:?}");
    let documents = [CONFIGURATION, PEERS].concat();
    let code = documents.split('`').skip(1).step_by(2);
    let words = code.flat_map(|code| code.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')));
    let named: BTreeSet<&str> = words
        .filter(|word| {
            ["OSS_", "OSSC_", "ALIBABA_", "HTTP_", "MODEL_"].iter().any(|start| word.starts_with(start))
        })
        .filter(is_variable)
        .collect();
    // `OSSC_PEERS*` stands for those of the other document; MODEL_DIR and the like in texts are the setting's name.
    let of_texts = ["MODEL_DIR", "OSSC_PEERS"];
    let unknown: Vec<_> = named.difference(&read).filter(|name| !of_texts.contains(name)).collect();
    assert!(unknown.is_empty(), "nobody reads: {unknown:?}");
    let silent: Vec<_> = read.difference(&named).collect();
    assert!(silent.is_empty(), "in no document: {silent:?}");
}

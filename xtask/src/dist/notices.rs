//! The licences of the crates inside the agent, which ask to be named with every copy: each crate with its version
//! and licence, then each licence text once, with the crates that have it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::cmd;

/// Beginnings of the names of files that hold a licence or what it wants kept.
const NAMES: [&str; 4] = ["LICENSE", "LICENCE", "COPYING", "NOTICE"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    manifest_path: PathBuf,
    /// None for members of this workspace.
    source: Option<String>,
}

/// The whole text.
pub(super) fn text() -> Result<String> {
    let metadata = cmd::output(&mut cmd::cargo(&["metadata", "--format-version=1", "--locked"]))?;
    let metadata: Metadata = serde_json::from_str(&metadata).context("cargo metadata is not what it was")?;
    // The ones that end up in the program or in its eBPF object: not those that only tests and builds need.
    let tree = ["tree", "--locked", "--edges=normal", "--prefix=none", "--format={p}"];
    let tree = cmd::output(&mut cmd::cargo(&[&tree[..], &["-p=ossc-agent", "-p=ossc-ebpf"]].concat()))?;
    let inside: BTreeSet<(&str, &str)> = tree.lines().filter_map(name_and_version).collect();
    let is_inside = |package: &&Package| {
        package.source.is_some() && inside.contains(&(package.name.as_str(), package.version.as_str()))
    };
    let mut list =
        String::from("ossc-agent contains these Rust crates; the texts of their licences are below.\n\n");
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in metadata.packages.iter().filter(is_inside) {
        let crate_name = format!("{} {}", package.name, package.version);
        list.push_str(&format!("{crate_name}: {}\n", package.license.as_deref().unwrap_or("see its text")));
        for text in licences(package.manifest_path.parent().context("a manifest without a folder")?)? {
            texts.entry(text).or_default().push(crate_name.clone());
        }
    }
    for (text, crates) in texts {
        list.push_str(&format!("\n{}\n{}\n\n{}\n", "=".repeat(80), crates.join(", "), text.trim_end()));
    }
    Ok(list)
}

/// `NAME vVERSION`, maybe with more behind it.
fn name_and_version(line: &str) -> Option<(&str, &str)> {
    let mut words = line.split(' ');
    Some((words.next()?, words.next()?.strip_prefix('v')?))
}

fn licences(folder: &Path) -> Result<Vec<String>> {
    let mut texts = BTreeSet::new();
    for file in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = file.with_context(|| format!("cannot list {}", folder.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        if path.is_file() && NAMES.iter().any(|known| name.starts_with(known)) {
            let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            texts.insert(String::from_utf8_lossy(&bytes).into_owned());
        }
    }
    Ok(texts.into_iter().collect())
}

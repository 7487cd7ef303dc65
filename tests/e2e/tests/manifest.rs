//! Signed manifests: keys, making, checking, and what they are for: a peer's block that somebody made up does not arrive.

use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::process::Command;

use anyhow::{Context, ensure};
use e2e::agent::{ALL_COMPLETE, Build, exit};
use e2e::cluster::Cluster;
use e2e::evil::{Evil, Sums};
use e2e::origin::shards;
use e2e::scratch::Scratch;
use e2e::turn;
use oss_server::{ACCESS_KEY_ID, ACCESS_KEY_SECRET};
use serde_json::Value;

use crate::MIB;
use crate::peers::{WHERE_FROM, origin};

/// Runs `ossc-agent manifest ...` as a node would, and says how it ended.
fn manifest(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let server = cluster.origin().server();
    let mut command = Command::new(Build::UnderTest.binary()?);
    command
        .env("OSS_ENDPOINT", server.endpoint())
        .env("OSS_REGION", "cn-hangzhou")
        .env("OSS_ACCESS_KEY_ID", ACCESS_KEY_ID)
        .env("OSS_ACCESS_KEY_SECRET", ACCESS_KEY_SECRET)
        .env("OSS_PATH", cluster.origin().path());
    let output = command.arg("manifest").args(arguments).output().context("run ossc-agent manifest")?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&text).into_owned()))
}

#[test]
fn a_manifest_proves_each_block_of_a_peer() -> anyhow::Result<()> {
    let _turn = turn::take();
    let cluster = Cluster::new(3, origin(), shards(2, 64 * MIB + 9))?;
    let keys = Scratch::directory()?;
    let path = |name: &str| keys.path().join(name).display().to_string();
    let first = cluster.start(0).option("--block-size", "2M").start()?;
    first.wait_for(ALL_COMPLETE)?;
    let expect = |arguments: &[&str], status: i32, words: &str| {
        let (code, text) = manifest(&cluster, arguments)?;
        ensure!(code == Some(status) && text.contains(words), "{arguments:?}: {code:?} {text}");
        anyhow::Ok(())
    };
    let model_dir = cluster.model_dir(0).display().to_string();
    let [public, private] =
        ["manifest-public.pem", "manifest-key.pem"].map(|name| path(&format!("keys/{name}")));
    expect(&["new-key", "--dir", &path("keys")], 0, "")?;
    expect(&["new-key", "--dir", &path("other")], 0, "")?;
    let mode = std::fs::metadata(&private)?.permissions().mode();
    ensure!(mode & 0o077 == 0, "others may read the private key: {mode:o}");
    let create = ["create", "--key", &private, "--model-dir", &model_dir];
    let make = |size, out: &str| {
        expect(&[&create[..], &["--block-size", size, "--out", out]].concat(), 0, "of 2 files")
    };
    make("2M", &path("manifest"))?;
    make("4M", &path("coarse"))?;
    let out = path("manifest");
    expect(&[&create[..], &["--out", &out]].concat(), exit::USAGE, "File exists")?;
    let verify = |manifest: &str, key: &str, status, words| {
        let arguments =
            ["verify", "--manifest", manifest, "--public-key", key, "--model-dir", model_dir.as_str()];
        expect(&arguments, status, words)
    };
    verify(&path("manifest"), &public, 0, "2 of 2 files")?;
    verify(&path("manifest"), &path("other/manifest-public.pem"), exit::USAGE, "was not signed with")?;
    // The sizes of the blocks must be the nodes'.
    let start = |node, manifest: &str| {
        let start = cluster.start(node).option("--block-size", "2M").option("--peers-discovery", "list");
        start.option("--peers-manifest", path(manifest)).option("--peers-manifest-key", &public)
    };
    let ended = start(2, "coarse").run()?;
    ended.expect(exit::USAGE)?;
    ensure!(ended.text().contains("says nothing of"), "{}", ended.text());

    // A peer that sends zeros, with a checksum that fits: none of them arrives, so nothing is read again.
    let before = cluster.origin().sent();
    let evil = Evil::start(cluster.address(1), cluster.address(2), Sums::Fitting)?;
    let second = start(2, "manifest").start()?;
    second.wait_for(ALL_COMPLETE)?;
    let ended = second.stop()?;
    ended.expect(exit::OK)?;
    let text = ended.text();
    ensure!(evil.sent() > 0, "the peer was never asked: {text}");
    ensure!(!text.contains("CRC-64 is wrong"), "a block that was made up was taken: {text}");
    let counts = ended.log.iter().find(|event| event.message() == WHERE_FROM).context("no counts")?;
    ensure!(counts.field("corrupt").and_then(Value::as_u64) > Some(0), "{}", counts.line());
    ensure!(counts.field("peers").and_then(Value::as_u64) > Some(0), "the honest one: {}", counts.line());
    cluster.check(2)?;
    let (sent, size) = (cluster.origin().sent() - before, cluster.origin().size());
    ensure!(sent < size, "{sent} bytes of {size} were sent though a peer had all");
    first.stop()?.expect(exit::OK)?;

    // A byte that somebody changed on the disk.
    let target = cluster.origin().targets(&cluster.model_dir(0)).swap_remove(1);
    let file = std::fs::File::options().write(true).open(target.path())?;
    file.write_all_at(&[0xa5, 0x5a, 0xa5, 0x5a, 0xa5, 0x5a, 0xa5, 0x5a], 5 * MIB)?;
    verify(&path("manifest"), &public, 7, "bytes 4194304..6291456 are not those of the manifest")?;
    let out = path("never");
    expect(&[&create[..], &["--out", &out]].concat(), exit::LOCAL, "OSS says")
}

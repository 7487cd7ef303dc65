//! `ossc-agent verify` tells what is complete, what is not, and what is wrong, beside an agent and without one.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::{Command, Output};

use anyhow::{Context, ensure};
use e2e::agent::{ALL_COMPLETE, Build, FILES_VISIBLE, PATIENCE, exit};
use e2e::origin::{PREFIX, shards};
use e2e::scratch::FileSystem;
use e2e::site::Site;
use oss_server::{ACCESS_KEY_ID, ACCESS_KEY_SECRET, Config, Object};
use serde_json::Value;

use crate::MIB;
use crate::keeper::no_keeper_left;

const SHARD: u64 = 24 * MIB + 99;
/// Bytes a second: time to look at a load under way.
const RATE: u64 = 20_000_000;
const DIFFERENT: i32 = 7;
const INCOMPLETE: i32 = 8;

fn verify(site: &Site, arguments: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new(Build::UnderTest.binary()?);
    command
        .env_clear()
        .env("OSS_ENDPOINT", site.origin().server().endpoint())
        .env("OSS_REGION", "cn-hangzhou")
        .env("OSS_ACCESS_KEY_ID", ACCESS_KEY_ID)
        .env("OSS_ACCESS_KEY_SECRET", ACCESS_KEY_SECRET)
        .env("OSS_PATH", site.origin().path())
        .env("MODEL_DIR", site.model_dir());
    command.arg("verify").args(arguments).output().context("run ossc-agent verify")
}

/// Both forms and both depths agree on the status; gives the text of the table.
fn expect(site: &Site, status: i32, deep_status: i32) -> anyhow::Result<String> {
    let mut text = String::new();
    for (arguments, status) in [(&["--json"] as &[_], status), (&[], status), (&["--deep"], deep_status)] {
        let output = verify(site, arguments)?;
        text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(status), "{arguments:?}: {}\n{text}{errors}", output.status);
    }
    Ok(text)
}

fn says(text: &str, parts: &[&str]) -> anyhow::Result<()> {
    let missing: Vec<_> = parts.iter().filter(|part| !text.contains(**part)).collect();
    ensure!(missing.is_empty(), "no {missing:?} in\n{text}");
    Ok(())
}

/// A site whose model was loaded by an agent that has ended.
fn loaded() -> anyhow::Result<Site> {
    let site = Site::new(FileSystem::Ext4, Config::default(), shards(3, SHARD))?;
    site.start().argument("--exit-when-complete").run()?.expect(exit::OK)?;
    no_keeper_left(&site)?;
    expect(&site, 0, 0)?;
    Ok(site)
}

#[test]
fn follows_a_load_from_nothing_to_complete() -> anyhow::Result<()> {
    let site = Site::new(FileSystem::Ext4, Config { rate: RATE, ..Config::default() }, shards(3, SHARD))?;
    let output = verify(&site, &["--json"])?;
    ensure!(output.status.code() == Some(INCOMPLETE), "{output:?}");
    says(&String::from_utf8_lossy(&output.stdout), &["never loaded"])?;

    let agent = site.start().start()?;
    agent.wait_for(FILES_VISIBLE)?;
    site.wait_percent(40, PATIENCE)?;
    let output = verify(&site, &["--json", "--deep"])?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(output.status.code() == Some(INCOMPLETE), "{report:#}");
    let files = report["files"].as_array().context("files")?;
    let ready: u64 = files.iter().filter_map(|file| file["ready"].as_u64()).sum();
    ensure!(files.len() == 3 && ready > 0 && report["status"] == "incomplete", "{report:#}");

    // Stopped on the way: what is there is hidden, and still right.
    agent.stop()?.expect(exit::OK)?;
    no_keeper_left(&site)?;
    says(&expect(&site, INCOMPLETE, INCOMPLETE)?, &["bytes are there", "let ossc-agent go on"])?;

    site.origin().server().set_rate(0);
    let agent = site.start().start()?;
    agent.wait_for(ALL_COMPLETE)?;
    let text = expect(&site, 0, 0)?;
    says(&text, &["3 of 3 files", "agrees", "every byte was read again"])?;
    agent.stop()?.expect(exit::OK)?;
    expect(&site, 0, 0)?;
    site.check_files()
}

#[test]
fn finds_a_flipped_byte_on_the_disk() -> anyhow::Result<()> {
    let site = loaded()?;
    let target = site.targets().swap_remove(1);
    let file = File::options().read(true).write(true).open(target.path())?;
    let modified = file.metadata()?.modified()?;
    let (place, mut byte) = (5 * MIB, [0]);
    file.read_exact_at(&mut byte, place)?;
    file.write_all_at(&[!byte[0]], place)?;
    // As a disk does it, which tells nobody.
    file.set_modified(modified)?;
    file.sync_all()?;
    let text = expect(&site, 0, DIFFERENT)?;
    says(
        &text,
        &["00002", "bytes 4194304..6291456 are not those that were loaded", "remove the file", "2 of 3"],
    )?;

    // The advice helps.
    fs::remove_file(target.path())?;
    says(&expect(&site, INCOMPLETE, INCOMPLETE)?, &["its file is gone"])?;
    site.start().argument("--exit-when-complete").run()?.expect(exit::OK)?;
    expect(&site, 0, 0)?;
    site.check_files()
}

#[test]
fn finds_what_is_not_as_it_was_loaded() -> anyhow::Result<()> {
    let site = loaded()?;
    let paths: Vec<_> = site.targets().iter().map(|target| target.path().to_owned()).collect();
    let [written, cut, copied] = &paths[..] else { anyhow::bail!("three files") };
    File::options().write(true).open(written)?.write_all_at(b"x", 0)?;
    File::options().write(true).open(cut)?.set_len(SHARD - 1)?;
    let copy = copied.with_extension("copy");
    fs::copy(copied, &copy)?;
    fs::rename(copy, copied)?;
    let text = expect(&site, DIFFERENT, DIFFERENT)?;
    says(&text, &["somebody has written", "bytes, not 25165923", "did not make", "0 of 3"])?;

    // The next load makes it good, but for what it must not touch.
    fs::remove_file(copied)?;
    site.start().argument("--exit-when-complete").run()?.expect(exit::OK)?;
    expect(&site, 0, 0)?;
    site.check_files()
}

#[test]
fn finds_what_changed_in_oss() -> anyhow::Result<()> {
    let site = loaded()?;
    let server = site.origin().server();
    let keys: Vec<_> = site.origin().files().iter().map(e2e::origin::ModelFile::key).collect();
    server.put(&keys[0], Object::synthetic(77, SHARD));
    server.delete(&keys[1]);
    server.put(&format!("{PREFIX}new.bin"), Object::synthetic(78, MIB));
    let text = expect(&site, DIFFERENT, DIFFERENT)?;
    says(&text, &["OSS has version", "not in OSS any more", "never loaded", "1 of 4"])
}

#[test]
fn finds_ready_files_that_say_nothing() -> anyhow::Result<()> {
    let site = loaded()?;
    for entry in fs::read_dir(site.model_dir().join(".ossc/ready"))? {
        let path = entry?.path();
        let mut bytes = fs::read(&path)?;
        bytes[10] ^= 1;
        fs::write(&path, bytes)?;
    }
    let text = expect(&site, INCOMPLETE, INCOMPLETE)?;
    says(&text, &["cannot be used: its checksum is wrong", "0 of 3"])
}

#[test]
fn takes_the_way_to_oss_that_a_load_takes() -> anyhow::Result<()> {
    let site = loaded()?;
    site.origin().server().log().clear();
    let output = verify(&site, &["--source", "127.0.0.9"])?;
    ensure!(output.status.code() == Some(0), "{output:?}");
    let requests = site.origin().server().log().select(|_| true);
    ensure!(!requests.is_empty(), "nothing was asked for");
    for request in requests {
        ensure!(request.peer.ip().to_string() == "127.0.0.9", "from another NIC: {request:#?}");
    }
    // Nobody listens at the discard port of an address of our own.
    let output = verify(&site, &["--origin-proxy", "http://127.0.0.9:9"])?;
    says(&String::from_utf8_lossy(&output.stderr), &["proxy 127.0.0.9:9"])?;
    ensure!(output.status.code() == Some(exit::NETWORK), "{output:?}");
    Ok(())
}

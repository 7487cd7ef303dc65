//! No secret is told: not in a log at any level, not to programs that the agent starts, not in /proc, not on disk. Tried
//! with every way to get credentials, each of which must load a model.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use e2e::agent::{FILES_VISIBLE, Start, exit};
use e2e::forward::{Forward, PASSWORD};
use e2e::origin::shards;
use e2e::scratch::FileSystem;
use e2e::site::Site;
use e2e::turn;
use oss_server::{ACCESS_KEY_ID, ACCESS_KEY_SECRET, Config, MetadataConfig, Operation};

use crate::MIB;
use crate::keeper::{keepers, no_keeper_left};

/// A temporary key.
const STS: [&str; 3] = ["STS.TESTKEY0002", "STSTESTSECRET0002", "CAIStest/Token+two=="];
/// Presented for a role; must not be told either.
const OIDC_TOKEN: &str = "test-oidc-token";
/// What the server's stand-ins issue, in the forms in which it travels.
const ISSUED: [&str; 5] =
    ["issued-secret-", "/issued+token==", "%2Fissued%2Btoken", "session-token-", OIDC_TOKEN];
/// User and password of a proxy as they travel (RFC 7617).
const BASIC: &str = "bW9kZWw6b3Blbi1zZXNhbWUtNw==";
/// Bytes a second: the agent lives for a second or two and can be looked at.
const RATE: u64 = 6_000_000;
/// Every small request comes from here, too.
const SOURCE: &str = "127.0.0.9";

struct Kind {
    name: &'static str,
    arrange: fn(&Site, Start) -> anyhow::Result<Start>,
    /// Through a proxy with a password.
    by_proxy: bool,
    /// A request that shows that it was this way.
    proof: Option<Operation>,
}

const KINDS: [Kind; 6] = [
    Kind { name: "environment", arrange: |_, start| Ok(start), by_proxy: false, proof: None },
    Kind { name: "password of a proxy", arrange: |_, start| Ok(start), by_proxy: true, proof: None },
    Kind {
        name: "temporary key in the environment, signature V1",
        arrange: |site, start| {
            let [id, secret, token] = STS;
            site.origin().server().keys().add_temporary(id, secret, token, None);
            Ok(start
                .without("OSS_REGION")
                .variable("OSS_ACCESS_KEY_ID", id)
                .variable("OSS_ACCESS_KEY_SECRET", secret)
                .variable("OSS_SESSION_TOKEN", token))
        },
        by_proxy: false,
        proof: None,
    },
    Kind {
        name: "file",
        arrange: |site, start| {
            let file = site.copies().join("credentials");
            let text = format!(
                "{{\"AccessKeyId\": \"{ACCESS_KEY_ID}\", \"AccessKeySecret\": \"{ACCESS_KEY_SECRET}\"}}"
            );
            fs::write(&file, text)?;
            Ok(without_key(start).option("--credentials", "file").option("--credentials-file", file))
        },
        by_proxy: false,
        proof: None,
    },
    Kind {
        name: "role of the instance",
        arrange: |site, start| {
            let start = start.variable("OSSC_ECS_METADATA_ENDPOINT", site.origin().server().endpoint());
            Ok(without_key(start).option("--credentials", "ecs"))
        },
        by_proxy: false,
        proof: Some(Operation::Metadata),
    },
    Kind {
        name: "OIDC",
        arrange: |site, start| {
            let file = site.copies().join("token");
            fs::write(&file, OIDC_TOKEN)?;
            let config = MetadataConfig::default();
            Ok(without_key(start)
                .variable("ALIBABA_CLOUD_ROLE_ARN", config.role_arn)
                .variable("ALIBABA_CLOUD_OIDC_PROVIDER_ARN", config.oidc_provider_arn)
                .variable("ALIBABA_CLOUD_OIDC_TOKEN_FILE", file)
                .variable("OSSC_STS_ENDPOINT", site.origin().server().endpoint()))
        },
        by_proxy: false,
        proof: Some(Operation::Sts),
    },
];

fn without_key(start: Start) -> Start {
    start.without("OSS_ACCESS_KEY_ID").without("OSS_ACCESS_KEY_SECRET")
}

#[test]
fn of_every_kind_are_told_nowhere() -> anyhow::Result<()> {
    let _turn = turn::take();
    let proxy = Forward::start()?;
    for kind in &KINDS {
        load(kind, &proxy).context(kind.name)?;
    }
    Ok(())
}

fn load(kind: &Kind, proxy: &Forward) -> anyhow::Result<()> {
    let config = Config { rate: RATE, metadata: Some(MetadataConfig::default()), ..Config::default() };
    let site = Site::new(FileSystem::Ext4, config, shards(2, 4 * MIB))?;
    let log = site.copies().join("log");
    let mut start =
        (kind.arrange)(&site, site.start())?.option("--log-level", "trace").option("--source", SOURCE);
    if kind.by_proxy {
        start = start.variable("OSSC_ORIGIN_PROXY", proxy.url());
    }
    // The command tells its environment, and lives as long as the load.
    let command = ["sh", "-c", "tr '\\0' '\\n' < /proc/self/environ; cat \"$MODEL_DIR\"/* > /dev/null"];
    let mut agent = start.clone().command(command).start()?;
    agent.wait_for(FILES_VISIBLE)?;
    let [keeper] = keepers(&site.model_dir())?[..] else { bail!("not one keeper") };
    for pid in [agent.process().pid()?, keeper] {
        for file in ["cmdline", "environ"] {
            let path = format!("/proc/{pid}/{file}");
            check(&path, &fs::read(&path)?)?;
        }
        let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
        let core =
            limits.lines().find(|line| line.starts_with("Max core file size")).context("core limit")?;
        ensure!(core.split_whitespace().nth(4) == Some("0"), "{core}");
    }
    let ended = agent.finish()?;
    ended.expect(exit::OK)?;
    ensure!(ended.output.contains("MODEL_DIR="), "the command told nothing: {}", ended.output);
    check("the log", ended.text().as_bytes())?;
    check("the output", ended.output.as_bytes())?;
    site.check_files()?;
    // Once more to a file, with a key that OSS refuses, and the reply that shows what was signed.
    site.origin().server().keys().remove(ACCESS_KEY_ID);
    site.origin().server().keys().add(ACCESS_KEY_ID, "another secret");
    let refused = start.option("--log-path", &log).argument("--exit-when-complete").run()?;
    check("the error", format!("{}{}", refused.text(), refused.output).as_bytes())?;
    check_tree(site.state_dir())?;
    check_tree(&site.model_dir().join(".ossc"))?;
    check(&log.display().to_string(), &fs::read(&log)?)?;
    let entries = site.origin().server().log().entries();
    if let Some(proof) = kind.proof {
        ensure!(entries.iter().any(|entry| entry.operation == proof), "no {proof:?} request");
    }
    let elsewhere: Vec<_> =
        entries.iter().filter(|entry| (entry.peer.ip().to_string() != SOURCE) != kind.by_proxy).collect();
    ensure!(elsewhere.is_empty(), "not the way of {}: {elsewhere:#?}", kind.name);
    no_keeper_left(&site)
}

fn check(place: &str, bytes: &[u8]) -> anyhow::Result<()> {
    let secrets = [ACCESS_KEY_SECRET, STS[1], STS[2], "CAIStest%2FToken", "another secret", PASSWORD, BASIC];
    for secret in secrets.into_iter().chain(ISSUED) {
        if let Some(at) = bytes.windows(secret.len()).position(|window| window == secret.as_bytes()) {
            let from = at.saturating_sub(200);
            let excerpt = bytes.get(from..(at + 80).min(bytes.len())).unwrap_or_default();
            bail!("{place} tells {secret:?}: {}", String::from_utf8_lossy(excerpt));
        }
    }
    Ok(())
}

fn check_tree(directory: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))? {
        let path = entry?.path();
        let about = fs::symlink_metadata(&path)?;
        if about.is_dir() {
            check_tree(&path)?;
        } else if about.is_file() {
            check(&path.display().to_string(), &fs::read(&path)?)?;
        }
    }
    Ok(())
}

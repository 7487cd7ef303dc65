//! Every foreseeable mistake has its message and its exit status, and leaves the model directory as it was.
//!
//! One table, one row a mistake; each is tried alone on a fresh site.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::{Context, ensure};
use e2e::agent::{Start, exit};
use e2e::origin::{PREFIX, shards};
use e2e::scratch::{FileSystem, Scratch};
use e2e::site::Site;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, socket};
use oss_server::{ACCESS_KEY_SECRET, Config, Fault, Object, Operation, Rule};

use crate::MIB;

/// A secret that must not be told.
const WRONG_SECRET: &str = "SKWRONGSECRET000001";

/// One mistake.
struct Mistake {
    /// What is wrong.
    name: &'static str,
    /// Makes it wrong.
    arrange: fn(&Site, Start) -> anyhow::Result<Start>,
    /// The exit status.
    status: i32,
    /// Parts of the message.
    says: &'static [&'static str],
}

const MISTAKES: &[Mistake] = &[
    Mistake {
        name: "prefix matches nothing",
        arrange: |_, start| Ok(start.variable("OSS_PATH", "oss://test-bucket/models/none/")),
        status: exit::REFUSED,
        says: &["oss://test-bucket/models/none/", "matches no object"],
    },
    Mistake {
        name: "no permission to list",
        arrange: |site, start| {
            let fault = Fault::Error { status: 403, code: "AccessDenied".to_owned() };
            site.origin().server().faults().add(Rule::new(fault).operation(Operation::List));
            Ok(start)
        },
        status: exit::REFUSED,
        says: &["AccessDenied", "oss://test-bucket/", "oss:ListObjects"],
    },
    Mistake {
        name: "wrong secret",
        arrange: |_, start| Ok(start.variable("OSS_ACCESS_KEY_SECRET", WRONG_SECRET)),
        status: exit::REFUSED,
        says: &["SignatureDoesNotMatch"],
    },
    Mistake {
        name: "unknown key",
        arrange: |_, start| Ok(start.variable("OSS_ACCESS_KEY_ID", "AKIDUNKNOWN00000001")),
        status: exit::REFUSED,
        says: &["InvalidAccessKeyId"],
    },
    Mistake {
        name: "no such bucket",
        arrange: |_, start| Ok(start.variable("OSS_PATH", "oss://other-bucket/models/test/")),
        status: exit::REFUSED,
        says: &["NoSuchBucket", "other-bucket"],
    },
    Mistake {
        name: "no space",
        arrange: |site, start| {
            site.origin().server().put(&format!("{PREFIX}huge.bin"), Object::tiled(1, 64 << 30));
            Ok(start)
        },
        status: exit::LOCAL,
        says: &["not enough space", "/model"],
    },
    Mistake {
        name: "a directory in the way of a file",
        arrange: |site, start| {
            fs::create_dir(first_file(site)?)?;
            Ok(start)
        },
        status: exit::LOCAL,
        says: &["in the way", "model-00001-of-00002.bin"],
    },
    Mistake {
        name: "a file in the way of a file",
        arrange: |site, start| {
            fs::write(first_file(site)?, "not made by the agent")?;
            Ok(start)
        },
        status: exit::LOCAL,
        says: &["in the way", "model-00001-of-00002.bin"],
    },
    Mistake {
        name: "a file in the way of a directory",
        arrange: |site, start| {
            site.origin().server().put(&format!("{PREFIX}nested/a.bin"), Object::synthetic(1, MIB));
            fs::write(site.model_dir().join("nested"), "not made by the agent")?;
            Ok(start)
        },
        status: exit::LOCAL,
        says: &["in the way", "nested"],
    },
    Mistake {
        name: "a key that would leave the model directory",
        arrange: |site, start| {
            site.origin().server().put(&format!("{PREFIX}../../outside.bin"), Object::synthetic(1, MIB));
            Ok(start)
        },
        status: exit::LOCAL,
        says: &["../../outside.bin"],
    },
    Mistake {
        name: "model directory on proc",
        arrange: |_, start| Ok(start.variable("MODEL_DIR", "/proc/sys")),
        status: exit::LOCAL,
        says: &["/proc/sys", "ext4, xfs, btrfs"],
    },
    Mistake {
        name: "model directory is a file",
        arrange: |site, start| {
            let file = site.copies().join("file");
            fs::write(&file, "")?;
            Ok(start.variable("MODEL_DIR", file))
        },
        status: exit::LOCAL,
        says: &["/file"],
    },
    Mistake {
        name: "configuration is no JSON",
        arrange: |site, start| with_config(site, start, "{\"logLevel\": "),
        status: exit::USAGE,
        says: &["config.json"],
    },
    Mistake {
        name: "configuration with a value of the wrong type",
        arrange: |site, start| with_config(site, start, "{\"prefetch\": {\"vcpus\": \"many\"}}"),
        status: exit::USAGE,
        says: &["config.json", "many", "line 1"],
    },
    Mistake {
        name: "configuration file missing",
        arrange: |_, start| Ok(start.option("--config", "/nonexistent/config.json")),
        status: exit::USAGE,
        says: &["/nonexistent/config.json"],
    },
    Mistake {
        name: "unknown flag",
        arrange: |_, start| Ok(start.argument("--no-such-flag")),
        status: exit::USAGE,
        says: &["--no-such-flag"],
    },
    Mistake {
        name: "no OSS_PATH",
        arrange: |_, start| Ok(start.without("OSS_PATH")),
        status: exit::USAGE,
        says: &["OSS_PATH"],
    },
    Mistake {
        name: "OSS_PATH of another scheme",
        arrange: |_, start| Ok(start.variable("OSS_PATH", "s3://test-bucket/models/")),
        status: exit::USAGE,
        says: &["s3://test-bucket/models/"],
    },
    Mistake {
        name: "no MODEL_DIR",
        arrange: |_, start| Ok(start.without("MODEL_DIR")),
        status: exit::USAGE,
        says: &["MODEL_DIR"],
    },
    Mistake {
        name: "no OSS_ENDPOINT",
        arrange: |_, start| Ok(start.without("OSS_ENDPOINT")),
        status: exit::USAGE,
        says: &["OSS_ENDPOINT"],
    },
    Mistake {
        name: "key without a secret",
        arrange: |_, start| Ok(start.without("OSS_ACCESS_KEY_SECRET")),
        status: exit::USAGE,
        says: &["OSS_ACCESS_KEY_SECRET"],
    },
];

#[test]
fn are_told_and_leave_nothing() -> anyhow::Result<()> {
    let wrong: Vec<_> = MISTAKES
        .iter()
        .filter_map(|mistake| {
            let site = Site::new(FileSystem::Ext4, Config::default(), shards(2, 4 * MIB));
            let result = site.and_then(|site| {
                let start = (mistake.arrange)(&site, site.start()).context("arrange the mistake")?;
                fails(&site, &start, mistake.status, mistake.says)
            });
            result.err().map(|error| format!("{}: {error:#}", mistake.name))
        })
        .collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    Ok(())
}

#[test]
fn of_an_endpoint_where_nobody_listens_is_told() -> anyhow::Result<()> {
    // Bound, but not listening: nobody else can get the port, and connecting to it is refused.
    let bound = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(bound.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0))?;
    let address: SockaddrIn = getsockname(bound.as_raw_fd())?;
    let endpoint = format!("http://{address}");
    let site = Site::new(FileSystem::Ext4, Config::default(), shards(2, 4 * MIB))?;
    fails(
        &site,
        &site.start().variable("OSS_ENDPOINT", endpoint),
        exit::NETWORK,
        &["refused", &address.to_string()],
    )
}

#[test]
fn of_an_unsupported_file_system_is_told() -> anyhow::Result<()> {
    let disk = Scratch::mounted(FileSystem::Ramfs, 64 * MIB)?;
    let site = Site::on(disk, Config::default(), shards(2, 4 * MIB))?;
    fails(&site, &site.start(), exit::LOCAL, &["ramfs", "ext4, xfs, btrfs"])
}

#[test]
fn of_an_untrusted_certificate_is_told() -> anyhow::Result<()> {
    let config = Config { tls: true, ..Config::default() };
    let site = Site::new(FileSystem::Ext4, config, shards(2, 4 * MIB))?;
    fails(&site, &site.start(), exit::NETWORK, &["certificate"])
}

/// Starts an agent that must fail, with this status and a message of these parts.
fn fails(site: &Site, start: &Start, status: i32, says: &[&str]) -> anyhow::Result<()> {
    let before = tree(&site.model_dir())?;
    let ended = start.clone().argument("--exit-when-complete").run()?;
    ended.expect(status)?;
    let text = ended.text();
    for part in says {
        ensure!(text.contains(part), "no {part:?} in the message:\n{text}");
    }
    for secret in [ACCESS_KEY_SECRET, WRONG_SECRET] {
        ensure!(!text.contains(secret), "a secret is in the message:\n{text}");
    }
    ensure!(!text.contains("panicked"), "{text}");
    let after = tree(&site.model_dir())?;
    ensure!(before == after, "the model directory was {before:?} and is {after:?}");
    Ok(())
}

/// Path, kind and size of everything below a directory, sorted.
fn tree(directory: &Path) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))? {
        let path = entry?.path();
        let about = fs::symlink_metadata(&path)?;
        let (kind, size) = if about.is_dir() { ("directory", 0) } else { ("file", about.len()) };
        found.push(format!("{} {kind} {size}", path.display()));
        if about.is_dir() {
            found.extend(tree(&path)?);
        }
    }
    found.sort();
    Ok(found)
}

fn first_file(site: &Site) -> anyhow::Result<std::path::PathBuf> {
    let targets = site.targets();
    Ok(targets.first().context("the first file")?.path().to_owned())
}

fn with_config(site: &Site, start: Start, text: &str) -> anyhow::Result<Start> {
    let file = site.copies().join("config.json");
    fs::write(&file, text)?;
    Ok(start.option("--config", file))
}

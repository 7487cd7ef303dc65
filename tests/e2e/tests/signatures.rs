//! Every way to prove who asks: signature V4 and V1, with a permanent key or a temporary one and its token, and
//! none at all for a public bucket.
//!
//! The server verifies by its own code and notes the form of each request; a model must load whole with each.

use anyhow::ensure;
use e2e::agent::exit;
use e2e::origin::shards;
use e2e::scratch::FileSystem;
use e2e::site::Site;
use oss_server::{Authorization, Config};

use crate::MIB;

/// A temporary key that the server gets to know.
const STS: (&str, &str, &str) = ("STS.TESTKEY0001", "STSTESTSECRET0001", "CAIStest/Token+value==");

#[test]
fn of_every_kind_load_a_model() -> anyhow::Result<()> {
    for (region, temporary, expected) in [
        (Some("cn-hangzhou"), false, Authorization::V4Header),
        (Some("cn-hangzhou"), true, Authorization::V4Header),
        // The server's address names no region, and without one there is no V4.
        (None, false, Authorization::V1Header),
        (None, true, Authorization::V1Header),
    ] {
        let site = Site::new(FileSystem::Ext4, Config::default(), shards(2, 3 * MIB))?;
        let mut start = match region {
            Some(region) => site.start().variable("OSS_REGION", region),
            None => site.start().without("OSS_REGION"),
        };
        if temporary {
            let (id, secret, token) = STS;
            site.origin().server().keys().add_temporary(id, secret, token, None);
            start = start
                .variable("OSS_ACCESS_KEY_ID", id)
                .variable("OSS_ACCESS_KEY_SECRET", secret)
                .variable("OSS_SESSION_TOKEN", token);
        }
        load(&site, &start, expected)?;
    }
    Ok(())
}

#[test]
fn are_left_out_without_a_key() -> anyhow::Result<()> {
    let config = Config { public: true, ..Config::default() };
    let site = Site::new(FileSystem::Ext4, config, shards(2, 3 * MIB))?;
    let start = site.start().variable("OSS_ACCESS_KEY_ID", "").variable("OSS_ACCESS_KEY_SECRET", "");
    load(&site, &start, Authorization::Anonymous)
}

fn load(site: &Site, start: &e2e::agent::Start, expected: Authorization) -> anyhow::Result<()> {
    start.clone().argument("--exit-when-complete").run()?.expect(exit::OK)?;
    site.check_files()?;
    let others = site.origin().server().log().select(|entry| entry.authorization != expected);
    ensure!(others.is_empty(), "all requests should be signed as {expected:?}: {others:#?}");
    Ok(())
}

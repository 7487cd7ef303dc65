//! The way to OSS through an HTTP proxy that somebody else wrote: with http it reads the requests, with https it carries a
//! tunnel. The server must see nothing but the proxy, and nobody the password.

use anyhow::{Context, ensure};
use e2e::agent::{Start, exit};
use e2e::forward::{Forward, PASSWORD, USER};
use e2e::origin::shards;
use e2e::scratch::FileSystem;
use e2e::site::Site;
use oss_server::{Authorization, Config};

use crate::MIB;

/// The agent's own connections come from here; those of the proxy do not.
const SOURCE: &str = "127.0.0.9";

fn site(tls: bool) -> anyhow::Result<(Site, Start)> {
    let config = Config { tls, ..Config::default() };
    let site = Site::new(FileSystem::Ext4, config, shards(2, 6 * MIB + 5))?;
    let mut start = site.start().variable("HTTP_SOURCE_IP", SOURCE).argument("--exit-when-complete");
    if tls {
        let authority = site.copies().join("authority.pem");
        std::fs::write(&authority, site.origin().server().ca_pem().context("the server's authority")?)?;
        start = start.option("--ca-file", &authority);
    }
    Ok((site, start.option("--log-level", "trace")))
}

#[test]
fn carries_a_whole_load() -> anyhow::Result<()> {
    let proxy = Forward::start()?;
    for tls in [false, true] {
        let (site, start) = site(tls)?;
        let ended = start.variable("OSSC_ORIGIN_PROXY", proxy.url()).run()?;
        ended.expect(exit::OK)?;
        site.check_files()?;
        ensure!(!ended.text().contains(PASSWORD), "the password is in the log:\n{}", ended.text());
        let requests = site.origin().server().log().select(|_| true);
        ensure!(requests.len() > 2, "a listing and objects were asked for: {requests:#?}");
        for request in requests {
            ensure!(request.peer.ip().to_string() != SOURCE, "not by the proxy: {request:#?}");
            ensure!(request.authorization == Authorization::V4Header, "signed as before: {request:#?}");
        }
    }
    Ok(())
}

#[test]
fn that_refuses_or_is_not_there_is_named() -> anyhow::Result<()> {
    let proxy = Forward::start()?;
    let address = proxy.address().to_string();
    for tls in [false, true] {
        let (site, start) = site(tls)?;
        let wrong = format!("http://{USER}:{PASSWORD}x@{address}");
        let ended = start.clone().variable("OSSC_ORIGIN_PROXY", wrong).run()?;
        let text = ended.text();
        ensure!(text.contains(&format!("proxy {address} answered 407")), "{text}");
        ensure!(!text.contains(PASSWORD), "the password is in the log:\n{text}");
        ensure!(site.origin().server().log().select(|_| true).is_empty(), "nothing may pass");
        ended.expect(exit::NETWORK)?;
    }
    drop(proxy);
    let (_site, start) = site(false)?;
    let agent = start.variable("OSSC_ORIGIN_PROXY", format!("http://{address}")).start()?;
    let failed = agent.wait_for("request to OSS failed; trying again")?;
    ensure!(failed.line().contains(&format!("proxy {address}")), "{}", failed.line());
    agent.interrupt()?;
    Ok(())
}

#[test]
fn with_a_certificate_of_another_authority_is_refused() -> anyhow::Result<()> {
    let proxy = Forward::start()?;
    let (site, (other, _)) = (site(true)?.0, site(true)?);
    let authority = site.copies().join("other.pem");
    std::fs::write(&authority, other.origin().server().ca_pem().context("another authority")?)?;
    let start = site.start().option("--ca-file", &authority).variable("OSSC_ORIGIN_PROXY", proxy.url());
    let agent = start.start()?;
    let failed = agent.wait_for("request to OSS failed; trying again")?;
    ensure!(failed.line().contains("certificate"), "{}", failed.line());
    agent.interrupt()?;
    ensure!(site.origin().server().log().select(|_| true).is_empty(), "nothing may be sent");
    Ok(())
}

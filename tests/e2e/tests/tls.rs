//! https, with the certificate authority given as a file.
//!
//! The server makes an authority and a certificate of its own at each start. That an authority which is not given is
//! refused is left to `errors`.

use anyhow::Context;
use e2e::agent::exit;
use e2e::origin::shards;
use e2e::scratch::FileSystem;
use e2e::site::Site;
use oss_server::Config;

use crate::MIB;

#[test]
fn with_a_given_authority_loads_a_model() -> anyhow::Result<()> {
    let config = Config { tls: true, ..Config::default() };
    let site = Site::new(FileSystem::Ext4, config, shards(2, 16 * MIB + 5))?;
    let authority = site.copies().join("authority.pem");
    std::fs::write(&authority, site.origin().server().ca_pem().context("the server's authority")?)?;
    let start = site.start().option("--ca-file", &authority).argument("--exit-when-complete");
    start.run()?.expect(exit::OK)?;
    site.check_files()
}

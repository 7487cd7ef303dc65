//! Symlinks planted in the model directory, before and during a load, lead nowhere. Hostile keys, listings and
//! headers are rows of `faults`; what the store does with each is in its own tests.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::ensure;
use e2e::agent::{ALL_COMPLETE, FILES_VISIBLE, PATIENCE, exit};
use e2e::origin::{ModelFile, shards};
use e2e::scratch::FileSystem;
use e2e::site::Site;
use oss_server::Config;

use crate::MIB;
use crate::keeper::no_keeper_left;

/// Bytes a second: a load of a second or two.
const RATE: u64 = 30_000_000;

fn site() -> anyhow::Result<Site> {
    let mut files = shards(2, 16 * MIB + 3);
    files.push(ModelFile::synthetic("nested/deep/c.bin", 8 * MIB));
    Site::new(FileSystem::Ext4, Config { rate: RATE, ..Config::default() }, files)
}

#[test]
fn links_that_are_there_before_are_refused() -> anyhow::Result<()> {
    for name in ["model-00001-of-00002.bin", "nested", ".ossc"] {
        let site = site()?;
        let outside = site.copies().join("outside");
        fs::create_dir(&outside)?;
        symlink(&outside, site.model_dir().join(name))?;
        let ended = site.start().argument("--exit-when-complete").run()?;
        ended.expect(exit::LOCAL)?;
        ensure!(ended.text().contains(name), "{name} is not named:\n{}", ended.text());
        ensure!(fs::read_dir(&outside)?.count() == 0, "{name}: something was written through the link");
    }
    Ok(())
}

#[test]
fn links_planted_during_a_load_lead_nowhere() -> anyhow::Result<()> {
    let site = site()?;
    let outside = site.copies().join("outside");
    fs::create_dir(&outside)?;
    let precious = outside.join("precious");
    fs::write(&precious, "precious")?;
    let agent = site.start().start()?;
    agent.wait_for(FILES_VISIBLE)?;
    site.wait_percent(30, PATIENCE)?;
    // In the place of a file, of a directory above one, and of the agent's own state.
    let (file, nested, state) = (
        site.targets()[0].path().to_owned(),
        site.model_dir().join("nested"),
        site.model_dir().join(".ossc"),
    );
    for (place, target) in [(&file, &precious), (&nested, &outside), (&state, &outside)] {
        fs::rename(place, place.with_extension("moved"))?;
        symlink(target, place)?;
    }
    agent.wait_for(ALL_COMPLETE)?;
    let ended = agent.stop()?;
    ensure!(!ended.text().contains("panicked"), "{}", ended.text());
    ensure!(fs::read(&precious)? == b"precious", "a file was written through a link");
    ensure!(fs::read_dir(&outside)?.count() == 1, "something was made through a link");
    // With the links gone, the next load makes everything good.
    for place in [&file, &nested, &state] {
        fs::remove_file(place)?;
        fs::rename(place.with_extension("moved"), place)?;
    }
    no_keeper_left(&site)?;
    site.start().argument("--exit-when-complete").run()?.expect(exit::OK)?;
    site.check_files()
}

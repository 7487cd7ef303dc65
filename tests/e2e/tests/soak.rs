//! A short soak, the same at every run: see `e2e::soak` for what it does and asserts. `cargo xtask soak` runs a long one.

use std::time::Duration;

use e2e::soak::{Config, run};
use e2e::turn;

use crate::READER;

/// No step begins after this.
const TIME: Duration = Duration::from_secs(30);
const SEED: u64 = 1;

#[test]
fn of_half_a_minute_finds_nothing() -> anyhow::Result<()> {
    let _turn = turn::take();
    let config = Config { seed: SEED, time: TIME, step: None, alone: false, reader: READER.into() };
    let figures = run(&config, |line| println!("{line}"))?;
    println!("{figures}");
    Ok(())
}

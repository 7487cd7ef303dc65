//! `ossc-agent doctor` on a site, and its report.
//!
//! Driven by the tests of the doctor and by `ossc-kernel-check`, which runs it on other kernels.

use std::process::{Command, ExitStatus};

use anyhow::Context;
use oss_server::{ACCESS_KEY_ID, ACCESS_KEY_SECRET};
use serde_json::Value;

use crate::agent::Build;
use crate::site::Site;

/// What it said, and how it ended.
#[derive(Debug)]
pub struct Report {
    /// The whole document.
    pub json: Value,
    /// 0 unless a check failed.
    pub status: ExitStatus,
}

/// The command for the model of this site, with these arguments behind `doctor`.
pub fn command(site: &Site, arguments: &[&str]) -> anyhow::Result<Command> {
    let server = site.origin().server();
    let mut command = Command::new(Build::UnderTest.binary()?);
    command.arg("doctor").args(arguments).env_clear();
    command.env("OSS_ENDPOINT", server.endpoint()).env("OSS_REGION", "cn-hangzhou");
    command.env("OSS_ACCESS_KEY_ID", ACCESS_KEY_ID).env("OSS_ACCESS_KEY_SECRET", ACCESS_KEY_SECRET);
    command.env("OSS_PATH", site.origin().path()).env("MODEL_DIR", site.model_dir());
    Ok(command)
}

impl Report {
    /// Of the model of this site, without measuring throughput.
    pub fn of(site: &Site, arguments: &[&str]) -> anyhow::Result<Self> {
        Self::by(command(site, &["--json", "--measure=0"])?.args(arguments))
    }

    /// Of this command, which asks for JSON.
    pub fn by(command: &mut Command) -> anyhow::Result<Self> {
        let output = command.output().context("run the doctor")?;
        let json = serde_json::from_slice(&output.stdout).with_context(|| format!("no JSON: {output:?}"))?;
        Ok(Self { json, status: output.status })
    }

    /// All checks.
    pub fn checks(&self) -> anyhow::Result<&[Value]> {
        Ok(self.json["checks"].as_array().context("no list of checks")?)
    }

    /// The check of this name.
    pub fn check(&self, name: &str) -> anyhow::Result<&Value> {
        let mut checks = self.checks()?.iter();
        checks.find(|check| check["name"] == name).with_context(|| format!("no {name} in {:#}", self.json))
    }
}

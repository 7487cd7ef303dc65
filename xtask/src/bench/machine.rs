//! What a reader of the figures must know of the machine: processor, memory, kernel, file system, date,
//! and how busy it was with other work. Nothing that names the machine, its user or its directories.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result};
use jiff::Timestamp;

use crate::cmd;

/// A Markdown list; `directory` is where the files will be written. To be called before the first run.
pub(super) fn describe(directory: &Path) -> Result<String> {
    let processor = field("/proc/cpuinfo", "model name")?;
    let threads = thread::available_parallelism().context("cannot count processors")?;
    let memory = field("/proc/meminfo", "MemTotal")?;
    let kernel =
        fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's version")?;
    let load = fs::read_to_string("/proc/loadavg").context("cannot read the load average")?;
    let load = load.split(' ').next().unwrap_or("unknown");
    let file_system = cmd::output(Command::new("findmnt").args(["-no", "FSTYPE", "-T"]).arg(directory))?;
    Ok(format!(
        "- processor: {processor}, {threads} hardware threads\n- memory: {memory}\n- kernel: Linux {}\n- file system: {}\n\
         - load average before the first run: {load} (near 0 on an idle machine; other work disturbs every figure)\n\
         - date: {}\n",
        kernel.trim(),
        file_system.trim(),
        Timestamp::now().strftime("%Y-%m-%d"),
    ))
}

/// The first `name: value` of a file in /proc.
fn field(path: &str, name: &str) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let value = text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name);
    Ok(value.map_or("unknown", |(_, value)| value.trim()).to_owned())
}

//! Where the tools are that the other commands use: the eBPF toolchain, as ossc-agent's build script finds it,
//! and the Python environment that `setup` fills.

#[path = "../../ossc-agent/build/toolchain.rs"]
#[expect(dead_code, reason = "the build script compiles with it; here it is only looked for")]
mod ebpf;

pub(crate) use ebpf::{Compiler, Toolchain, cache_dir, tools_dir};

use std::path::PathBuf;

use anyhow::{Result, ensure};

/// The Python environment with the packages of tests/requirements.txt.
pub(crate) fn venv() -> PathBuf {
    cache_dir().join("venv")
}

/// The interpreter of that environment; an error before `setup` has made it.
pub(crate) fn venv_python() -> Result<PathBuf> {
    let python = venv().join("bin/python3");
    ensure!(python.is_file(), "{} is missing; run `cargo xtask setup`", python.display());
    Ok(python)
}

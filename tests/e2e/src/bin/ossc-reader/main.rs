//! `ossc-reader`: reads files in one of the ways that programs read model files, at seeded random offsets, and
//! verifies every byte.
//!
//! Driven by the end-to-end tests, which start many of them while the files are still being filled. It knows
//! what the bytes must be without asking anyone: `FILE=synthetic:SEED` computes them, `FILE=like:REFERENCE`
//! compares with another file. The exit status says how it went: 0 all bytes right, 1 a wrong byte, 2 an errno,
//! 3 the reader itself could not work. The first finding is told on standard error.

mod kind;
mod mapped;
mod pick;
mod plain;
mod programs;
mod ring;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::Context;
use clap::Parser;
use e2e::content::{Mismatch, Target};
use nix::errno::Errno;

use crate::kind::Kind;
use crate::pick::Pick;

/// Reads files in one particular way and verifies every byte.
#[derive(Debug, Parser)]
struct Arguments {
    /// How to read.
    #[arg(long, value_enum)]
    kind: Kind,
    /// Decides offsets, lengths and files; the same seed reads the same ranges.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Reads of each thread.
    #[arg(long, default_value_t = 100)]
    ops: u64,
    /// Threads that read at the same time.
    #[arg(long, default_value_t = 1)]
    threads: u64,
    /// Whether a read may end with an errno.
    #[arg(long, value_enum, default_value_t = ExpectErrno::Ok)]
    expect_errno: ExpectErrno,
    /// Reads this range of every file instead of random ones: OFFSET+LENGTH, or -LENGTH for the end.
    #[arg(long, allow_hyphen_values = true)]
    range: Option<Pick>,
    /// A directory for copies; on the files' own file system where copy_file_range(2) is to be tried.
    #[arg(long)]
    scratch: Option<PathBuf>,
    /// FILE=synthetic:SEED or FILE=like:REFERENCE.
    #[arg(required = true)]
    files: Vec<Target>,
}

/// What an errno means to the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ExpectErrno {
    /// None may occur.
    Ok,
    /// Errnos are counted and passed over; only wrong bytes count.
    Any,
}

/// Why one read was not right.
#[derive(Debug)]
pub(crate) enum Finding {
    /// A byte that the object does not have there, or a file that ends too early.
    Wrong(Mismatch),
    /// The system call (or the program's) failed.
    Errno(Errno),
    /// The reader could not do its work.
    Broken(anyhow::Error),
}

impl From<Errno> for Finding {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<std::io::Error> for Finding {
    fn from(error: std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(raw) => Self::Errno(Errno::from_raw(raw)),
            None => Self::Broken(error.into()),
        }
    }
}

impl From<Mismatch> for Finding {
    fn from(mismatch: Mismatch) -> Self {
        Self::Wrong(mismatch)
    }
}

impl From<anyhow::Error> for Finding {
    fn from(error: anyhow::Error) -> Self {
        Self::Broken(error)
    }
}

impl Finding {
    fn exit_status(&self) -> u8 {
        match self {
            Self::Wrong(_) => 1,
            Self::Errno(_) => 2,
            Self::Broken(_) => 3,
        }
    }

    fn tell(&self, kind: Kind, path: &std::path::Path) {
        let (kind, path) = (kind.name(), path.display());
        match self {
            Self::Wrong(mismatch) => eprintln!("wrong byte: kind={kind} file={path} {mismatch}"),
            Self::Errno(errno) => eprintln!("errno: kind={kind} file={path} {errno:?}"),
            Self::Broken(error) => eprintln!("reader failed: kind={kind} file={path} {error:#}"),
        }
    }
}

/// Sums over all threads.
#[derive(Debug, Default)]
struct Totals {
    reads: AtomicU64,
    errnos: AtomicU64,
    stop: AtomicBool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let totals = Totals::default();
    let worst = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..arguments.threads.max(1))
            .map(|thread| {
                scope.spawn({
                    let (arguments, totals) = (&arguments, &totals);
                    move || read_all(arguments, thread, totals)
                })
            })
            .collect();
        // The lowest status is the gravest: a wrong byte outweighs an errno.
        threads.into_iter().filter_map(|thread| thread.join().unwrap_or(Some(3))).min()
    });
    let (reads, errnos) = (totals.reads.into_inner(), totals.errnos.into_inner());
    println!("kind={} reads={reads} errnos={errnos}", arguments.kind.name());
    ExitCode::from(worst.unwrap_or(0))
}

/// One thread's reads; the exit status of its first finding.
fn read_all(arguments: &Arguments, thread: u64, totals: &Totals) -> Option<u8> {
    // Any odd constant keeps the threads' sequences apart; this one is 2^64 over the golden ratio.
    let seed = arguments.seed.wrapping_add(thread.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut rng = fastrand::Rng::with_seed(seed);
    let scratch = arguments.scratch.clone().unwrap_or_else(std::env::temp_dir);
    for op in 0..arguments.ops {
        if totals.stop.load(Ordering::Relaxed) {
            return None;
        }
        // A given range is read from one file after the other, a random one from any.
        let index = match arguments.range {
            Some(_) => usize::try_from(op).unwrap_or(0) % arguments.files.len(),
            None => rng.usize(..arguments.files.len()),
        };
        let target = arguments.files.get(index)?;
        let result = read_once(arguments, target, &mut rng, &scratch);
        totals.reads.fetch_add(1, Ordering::Relaxed);
        match result {
            Ok(()) => {}
            Err(Finding::Errno(_)) if arguments.expect_errno == ExpectErrno::Any => {
                totals.errnos.fetch_add(1, Ordering::Relaxed);
            }
            Err(finding) => {
                totals.stop.store(true, Ordering::Relaxed);
                finding.tell(arguments.kind, target.path());
                return Some(finding.exit_status());
            }
        }
    }
    None
}

/// One read of the chosen kind.
fn read_once(
    arguments: &Arguments,
    target: &Target,
    rng: &mut fastrand::Rng,
    scratch: &std::path::Path,
) -> Result<(), Finding> {
    let size = std::fs::metadata(target.path())?.len();
    let range = match arguments.range {
        Some(pick) => pick.resolve(size),
        None => pick::random(rng, size),
    };
    let scratch = tempfile::tempdir_in(scratch).context("make a scratch directory")?;
    arguments.kind.read(target, size, range, rng, scratch.path())
}

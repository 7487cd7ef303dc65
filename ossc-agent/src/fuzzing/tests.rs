//! Fuzzing without a fuzzer's tools, as part of every test run: each target on its whole corpus, then on as many
//! random changes of it as a second or two allow. The seed is fixed; `OSSC_FUZZ_SEED` and `OSSC_FUZZ_RUNS` give another
//! one, and more of them. A failure prints the bytes, to be kept in the corpus.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::{TARGETS, Target};

/// Changed inputs for each target.
const RUNS: u64 = 4_000;
/// Longest input, in bytes: long enough for every seed.
const LONGEST: usize = 4096;
/// Changes to one input at most.
const CHANGES: usize = 6;
/// What parsers count with, near the ends of their types.
const NUMBERS: [u64; 10] = [0, 1, 23, 24, 255, 65_535, 1 << 31, u32::MAX as u64, i64::MAX as u64, u64::MAX];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz").join(name)
}

/// The kept inputs of a target, in the order of their names.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = folder("corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths: BTreeSet<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    let inputs: Vec<_> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(!inputs.is_empty(), "no corpus in {}", folder.display());
    inputs
}

fn check(name: &str, target: Target, bytes: &[u8], what: &str) {
    let outcome = catch_unwind(AssertUnwindSafe(|| target(bytes)));
    assert!(outcome.is_ok(), "target {name}, {what}: \"{}\"", bytes.escape_ascii());
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn every_target_has_its_program_and_nothing_else() {
    let names = |folder: PathBuf| -> BTreeSet<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    };
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(folder("fuzz_targets")), targets);
    assert_eq!(names(folder("corpus")), targets);
    let manifest = fs::read_to_string(folder("Cargo.toml")).unwrap();
    for name in targets {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
    }
}

#[test]
fn the_corpus_finds_no_fault() {
    for (name, target) in TARGETS {
        for input in corpus(name) {
            check(name, target, &input, "of the corpus");
        }
    }
}

#[test]
fn changed_inputs_find_no_fault() {
    let (seed, runs) = (number("OSSC_FUZZ_SEED", 1), number("OSSC_FUZZ_RUNS", RUNS));
    for (name, target) in TARGETS {
        let corpus = corpus(name);
        let mut rng = fastrand::Rng::with_seed(seed);
        for run in 0..runs {
            let mut input = rng.choice(&corpus).unwrap().clone();
            for _ in 0..rng.usize(1..=CHANGES) {
                change(&mut input, &corpus, &mut rng);
            }
            input.truncate(LONGEST);
            check(name, target, &input, &format!("seed {seed}, run {run}"));
        }
    }
}

/// One of the changes that fuzzers make.
fn change(input: &mut Vec<u8>, corpus: &[Vec<u8>], rng: &mut fastrand::Rng) {
    let at = rng.usize(..=input.len());
    let end = (at + rng.usize(..=16)).min(input.len());
    match rng.u8(..8) {
        0 if at < input.len() => input[at] ^= 1 << rng.u8(..8),
        1 if at < input.len() => input[at] = rng.u8(..),
        2 => input.insert(at, rng.u8(..)),
        3 => drop(input.drain(at..end)),
        4 => {
            let repeated = input[at..end].to_vec();
            input.splice(at..at, repeated);
        }
        5 => {
            let number = rng.choice(NUMBERS).unwrap_or(0).to_le_bytes();
            let len = rng.choice([1, 2, 4, 8]).unwrap_or(8).min(input.len() - at);
            input[at..at + len].copy_from_slice(&number[..len]);
        }
        6 => {
            let text = rng.choice(NUMBERS).unwrap_or(0).to_string();
            input.splice(at..end, text.bytes());
        }
        _ => {
            let other = rng.choice(corpus).unwrap();
            let from = rng.usize(..=other.len());
            let to = (from + rng.usize(..=64)).min(other.len());
            input.splice(at..end, other[from..to].iter().copied());
        }
    }
}

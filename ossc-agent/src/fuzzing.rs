//! Every parser of bytes from outside as a function that panics when it breaks its promise: the targets of
//! `cargo xtask fuzz` (the programs in `tests/fuzz`) and of the tests below, which run the same functions on the
//! same corpus without a fuzzer's tools. Each part has its own functions beside its parsers; here is their list.
//! A new one needs a line here, a file in `tests/fuzz/fuzz_targets` and a folder in `tests/fuzz/corpus`.

use crate::{bpf, config, keeper, order, oss, peer, store, sys};

/// Looks at some bytes; panics on a fault of the parser.
pub type Target = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: [(&str, Target); 16] = [
    ("access", bpf::fuzzing::access),
    ("config", config::fuzzing::configuration),
    ("credentials", oss::fuzzing::credentials),
    ("endpoint", oss::fuzzing::endpoint),
    ("error", oss::fuzzing::error),
    ("fanotify", sys::fanotify::fuzzing::records),
    ("head", order::fuzzing::heads),
    ("keeper_message", keeper::fuzzing::message),
    ("keeper_record", keeper::fuzzing::record),
    ("listing", oss::fuzzing::listing),
    ("manifest", peer::fuzzing::manifest),
    ("names", store::fuzzing::object_names),
    ("orders", order::fuzzing::orders),
    ("peer_message", peer::fuzzing::message),
    ("ready", store::fuzzing::ready_file),
    ("reply", oss::fuzzing::reply_head),
];

/// Runs one target.
///
/// # Panics
/// When there is no target of this name, and when the parser has a fault.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, target) = target.unwrap_or_else(|| panic!("no fuzz target is called {name}"));
    target(bytes);
}

#[cfg(test)]
mod tests;

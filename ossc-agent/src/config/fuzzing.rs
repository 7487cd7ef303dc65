//! Configuration files and environments, as a function of bytes for fuzzers. Driven by `crate::fuzzing`. A panic
//! means that a [`Config`] was built that other parts must not get, or that a message shows a secret.

use super::resolve::merged;
use super::{Environment, Flags, raw};

/// Between the JSON and the environment's lines.
const MARK: &str = "\n---\n";
/// Variables whose values nobody may see.
const SECRETS: [&str; 5] = [
    "OSS_ACCESS_KEY_SECRET",
    "OSS_SESSION_TOKEN",
    "ALIBABA_CLOUD_ACCESS_KEY_SECRET",
    "ALIBABA_CLOUD_SECURITY_TOKEN",
    "OSSC_ORIGIN_PROXY",
];
/// What the environment's secrets are in the corpus.
const SECRET: &str = "wJalrXUtnFEMIK7MDENGbPxRfiCY";

/// The JSON of a configuration file, a line `---`, and environment variables `NAME=VALUE`, one a line.
pub(crate) fn configuration(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (json, lines) = text.split_once(MARK).unwrap_or((&text, ""));
    let env: Environment = lines.split('\n').filter_map(|line| line.split_once('=')).collect();
    let Ok(raw) = raw::parse(json) else { return };
    let secrets = SECRETS.iter().filter(|name| env.get(name) == Some(SECRET)).count();
    let shows = |shown: String| shown.contains(SECRET) && secrets == text.matches(SECRET).count();
    match merged(&Flags::default(), &env, &raw) {
        Ok(config) => {
            assert!((3..=63).contains(&config.oss.bucket.len()) && !config.oss.prefix.starts_with('/'));
            assert!(!shows(format!("{config:?}")), "a secret is shown");
        }
        Err(error) => assert!(!shows(error.to_string()), "a secret is shown: {error}"),
    }
}

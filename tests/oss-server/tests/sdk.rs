//! The official SDKs for Python as clients of the server: what they accept, a real client accepts.
//!
//! Runs `sdk/check.py` with the interpreter named by `OSSC_TEST_PYTHON`, by default `python3`. The SDKs must be there:
//! a machine without them has not been set up, and the test fails.

use std::collections::BTreeMap;
use std::env;
use std::process::Command;
use std::time::Duration;

use oss_server::{ACCESS_KEY_ID, ACCESS_KEY_SECRET, Authorization, Config, End, Object, Server, synthetic};

const PYTHON: &str = "OSSC_TEST_PYTHON";
const STS: [&str; 3] = ["STS.sdk", "sts-secret", "CAISsdk/token+value=="];

#[test]
fn the_official_sdks_work() {
    let server = Server::start(Config::default()).unwrap();
    server.keys().add_temporary(STS[0], STS[1], STS[2], None);
    let mut objects = BTreeMap::new();
    for key in ["sdk/empty.bin", "sdk/one.bin", "sdk/dir a/模型+v1 (q4_k_m)~!*'&%.bin", "sdk/dir b/c/d.bin"]
    {
        objects.insert(key.to_owned(), objects.len() * 3001 * objects.len());
    }
    for number in 0..20 {
        objects.insert(format!("sdk/page/{number:02}"), 10);
    }
    let mut command = Command::new(env::var(PYTHON).unwrap_or_else(|_| "python3".to_owned()));
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/sdk/check.py"));
    for (key, size) in &objects {
        server.put(key, Object::synthetic(synthetic::seed_of(key), u64::try_from(*size).unwrap()));
        command.args(["--object", &format!("{key}={size}")]);
    }
    let port = server.address().port().to_string();
    let output = command
        .args(["--port", &port, "--bucket", server.bucket(), "--region", "cn-hangzhou", "--prefix", "sdk/"])
        .args(["--ak", ACCESS_KEY_ID, "--sk", ACCESS_KEY_SECRET])
        .args(["--sts-ak", STS[0], "--sts-sk", STS[1], "--sts-token", STS[2]])
        .output()
        .unwrap_or_else(|error| panic!("{PYTHON} cannot be run, `cargo xtask setup` makes it: {error}"));
    let text = String::from_utf8_lossy(&output.stdout);
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "the SDK checks failed; if packages are missing, run `cargo xtask setup` and set {PYTHON}\n{text}{problem}"
    );
    // 2 SDKs, 2 signature versions, 2 kinds of key, 2 addressing styles, 5 checks.
    assert!(text.trim_end().ends_with("80 passed, 0 failed"), "{text}");

    assert!(server.log().wait_idle(Duration::from_secs(20)));
    for form in [Authorization::V4Header, Authorization::V1Header] {
        assert!(server.log().count(|entry| entry.authorization == form) > 0, "{form:?} was not used");
    }
    assert_eq!(server.log().count(|entry| entry.authorization == Authorization::Anonymous), 0);
    assert_eq!(server.log().count(|entry| entry.end != End::Complete), 0);
}

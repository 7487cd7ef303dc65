//! The settings of Alibaba's OSS Connector, one by one: each that docs/moving.md names is honoured, or differs as told there.

use std::collections::BTreeSet;

use super::reference::column;
use super::*;
use crate::base::Nic;
use crate::oss::{Credentials, Secret};

const MOVING: &str = include_str!("../../../../docs/moving.md");
/// What the tests below look at.
const SETTINGS: [&str; 21] = [
    "OSS_ACCESS_KEY_ID",
    "OSS_ACCESS_KEY_SECRET",
    "OSS_SESSION_TOKEN",
    "OSS_ENDPOINT",
    "OSS_REGION",
    "OSS_PATH",
    "MODEL_DIR",
    "HTTP_SOURCE_IP",
    "LD_PRELOAD",
    "ENABLE_CONNECTOR",
    "logLevel",
    "logPath",
    "auditPath",
    "expireTimeSec",
    "prefetch.vcpus",
    "prefetch.workers",
    "fastList.*",
    "datasetConfig",
    "checkpointConfig",
    "/etc/oss-connector/config.json",
    "~/.alibabacloud/credentials",
];

/// The remarks on a file with this content, beside nothing else worth one.
fn remarks(json: &str, env: &Environment) -> Vec<String> {
    with_file(json, Flags::default(), env).unwrap().remarks
}

#[test]
fn the_table_names_what_is_tested_here_and_nothing_else() {
    assert_eq!(
        column(MOVING, "OSS Connector"),
        SETTINGS.map(str::to_owned).into_iter().collect::<BTreeSet<_>>()
    );
    assert_eq!(DEFAULT_FILE, "/etc/oss-connector/config.json");
}

#[test]
fn the_environment_is_honoured() {
    let env = Environment::from([
        ("OSS_ACCESS_KEY_ID", "id"),
        ("OSS_ACCESS_KEY_SECRET", "secret"),
        ("OSS_SESSION_TOKEN", "token"),
        ("OSS_ENDPOINT", "oss-cn-beijing-internal.aliyuncs.com"),
        ("OSS_REGION", "cn-beijing"),
        ("OSS_PATH", "oss://models/qwen/"),
        ("MODEL_DIR", "/models/qwen"),
        ("HTTP_SOURCE_IP", "10.0.0.1,10.0.0.2"),
    ]);
    let config = with_file("{}", Flags::default(), &env).unwrap();
    match &config.oss.credentials {
        CredentialSource::Static(keys) => {
            let (access_key_secret, token) = (Secret::new("secret"), Some(Secret::new("token")));
            let access_key_id = "id".to_owned();
            let wanted =
                Credentials { access_key_id, access_key_secret, security_token: token, expiration: None };
            assert_eq!(*keys, wanted);
        }
        other => panic!("{other:?}"),
    }
    // Which scheme an endpoint without one gets: `oss/endpoint.rs`.
    assert_eq!(config.oss.endpoint, "oss-cn-beijing-internal.aliyuncs.com");
    assert_eq!(config.oss.region.as_deref(), Some("cn-beijing"));
    assert_eq!((config.oss.bucket.as_str(), config.oss.prefix.as_str()), ("models", "qwen/"));
    assert_eq!(config.store.model_dir, Path::new("/models/qwen"));
    let nics: Vec<Nic> = ["10.0.0.1", "10.0.0.2"].map(|nic| nic.parse().unwrap()).into();
    assert_eq!(config.fetch.sources, nics);
    assert_eq!(config.remarks, [""; 0]);
}

#[test]
fn the_file_is_honoured() {
    let json = r#"{"logLevel": 2, "logPath": "/var/log/c.log", "auditPath": "/var/log/a.log", "expireTimeSec": 120,
        "prefetch": {"vcpus": 4, "workers": 32}}"#;
    let config = with_file(json, Flags::default(), &Environment::from(base_env())).unwrap();
    assert_eq!(config.log.level, LogLevel::Warn);
    assert_eq!(config.log.path, Some("/var/log/c.log".into()));
    assert_eq!(config.audit_path, Some("/var/log/a.log".into()));
    assert_eq!(config.room, Room { expire: Some(Duration::from_secs(120)), budget: None });
    assert_eq!((config.fetch.threads.get(), config.fetch.connections_per_thread.get()), (4, 32));
    assert_eq!(config.remarks, [""; 0]);
}

#[test]
fn what_is_empty_or_left_out_is_off() {
    let env = Environment::from(base_env()).with("HTTP_SOURCE_IP", "").with("OSS_REGION", "");
    for json in ["{}", r#"{"logPath": "", "auditPath": "", "expireTimeSec": 0}"#] {
        let config = with_file(json, Flags::default(), &env).unwrap();
        assert_eq!((config.log.path, config.audit_path), (None, None), "{json}");
        assert_eq!((config.log.level, config.room), (LogLevel::Info, Room::default()), "{json}");
        assert_eq!((config.oss.region, config.fetch.sources), (None, Vec::new()), "{json}");
    }
}

#[test]
fn what_has_no_effect_is_remarked_on() {
    let env = Environment::from(base_env());
    for (json, word) in [
        (r#"{"fastList": {"vcpus": 1, "workers": 16}}"#, "fastList"),
        (r#"{"datasetConfig": {"prefetchConcurrency": 24}}"#, "'datasetConfig'"),
        (r#"{"checkpointConfig": {}}"#, "'checkpointConfig'"),
        (r#"{"prefetch": {"novel": 1}}"#, "'prefetch.novel'"),
    ] {
        let remarks = remarks(json, &env);
        assert!(remarks.len() == 1 && remarks[0].contains(word), "{json}: {remarks:?}");
    }
    for (name, value) in [("ENABLE_CONNECTOR", "1"), ("LD_PRELOAD", "/usr/local/lib/libossc_preload.so")] {
        let remarks = remarks("{}", &env.clone().with(name, value));
        assert!(remarks.len() == 1 && remarks[0].contains(name), "{name}: {remarks:?}");
    }
    assert_eq!(remarks("{}", &env.with("LD_PRELOAD", "/usr/lib/libjemalloc.so")), [""; 0]);
}

#[test]
fn a_credentials_file_of_the_user_is_taken() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(".alibabacloud/credentials");
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "").unwrap();
    let env = Environment::from(base_env()).with("HOME", home.path().to_str().unwrap());
    match resolve(&Flags::default(), &env).unwrap().oss.credentials {
        CredentialSource::File(found) => assert_eq!(found, path),
        other => panic!("{other:?}"),
    }
}

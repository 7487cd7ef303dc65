//! Precedence, defaults and refusals of the configuration.

mod connector;
mod reference;

use std::path::Path;

use super::*;
use crate::oss::CredentialSource;

fn base_env() -> [(&'static str, &'static str); 3] {
    [("OSS_PATH", "oss://models/r1/"), ("OSS_ENDPOINT", "oss-cn-hangzhou.aliyuncs.com"), ("MODEL_DIR", "/m")]
}

fn with_file(json: &str, mut flags: Flags, env: &Environment) -> Result<Config, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    std::fs::write(&path, json).unwrap();
    flags.config = Some(path);
    resolve(&flags, env)
}

#[test]
fn flags_beat_environment_beats_file() {
    let json =
        r#"{"ossPath": "oss://file/x/", "endpoint": "file.example", "modelDir": "/file", "region": "file"}"#;
    let from_file = with_file(json, Flags::default(), &Environment::default()).unwrap();
    assert_eq!((from_file.oss.bucket.as_str(), from_file.oss.prefix.as_str()), ("file", "x/"));
    let env = Environment::from([("OSS_PATH", "oss://env/"), ("OSS_REGION", "env"), ("MODEL_DIR", "/env")]);
    let from_env = with_file(json, Flags::default(), &env).unwrap();
    assert_eq!(from_env.oss.bucket, "env");
    assert_eq!(from_env.oss.endpoint, "file.example");
    let flags =
        Flags { oss_path: Some("oss://flag/".into()), oss_region: Some("flag".into()), ..Flags::default() };
    let from_flags = with_file(json, flags, &env).unwrap();
    assert_eq!(from_flags.oss.bucket, "flag");
    assert_eq!(from_flags.oss.region.as_deref(), Some("flag"));
    assert_eq!(from_flags.store.model_dir, PathBuf::from("/env"));
}

#[test]
fn a_proxys_password_is_taken_from_where_nobody_sees_it() {
    let address = "http://u:hush@proxy.example:3128";
    let env = Environment::from(base_env());
    let file = format!("{{\"originProxy\": \"{address}\"}}");
    for (json, env) in [(file.as_str(), env.clone()), ("{}", env.clone().with("OSSC_ORIGIN_PROXY", address))]
    {
        let config = with_file(json, Flags::default(), &env).unwrap();
        assert_eq!(config.oss.proxy, Some(crate::oss::Secret::new(address)));
        assert!(!format!("{config:?}").contains("hush"));
    }
    let flag = |text: &str| Flags { origin_proxy: Some(text.to_owned()), ..Flags::default() };
    let error = with_file("{}", flag(address), &env).unwrap_err().to_string();
    assert!(error.contains("OSSC_ORIGIN_PROXY") && !error.contains("hush"), "{error}");
    let config = with_file(&file, flag("proxy.example:1"), &env).unwrap();
    assert_eq!(config.oss.proxy, Some(crate::oss::Secret::new("proxy.example:1")));
}

#[test]
fn spans_go_to_an_address_of_http() {
    let otlp = |json: &str, flag: Option<&str>| {
        let flags = Flags { otlp: flag.map(str::to_owned), ..Flags::default() };
        let config = with_file(json, flags, &Environment::from(base_env()));
        config.map(|config| config.otlp.map(|uri| uri.to_string()))
    };
    assert_eq!(otlp("{}", None).unwrap(), None);
    let json = r#"{"otlp": "http://a:4318/v1/traces"}"#;
    assert_eq!(otlp(json, None).unwrap().as_deref(), Some("http://a:4318/v1/traces"));
    assert_eq!(otlp(json, Some("http://b")).unwrap().as_deref(), Some("http://b/"));
    for refused in ["https://a:4318", "a:4318", "/", ""] {
        let error = otlp("{}", Some(refused)).unwrap_err().to_string();
        assert!(error.contains("otlp") && error.contains("http://127.0.0.1:4318"), "{error}");
    }
}

#[test]
fn the_state_is_served_to_other_machines_only_on_demand() {
    let http = |json: &str, env: &str| {
        let env = Environment::from(base_env()).with("OSSC_HTTP", env);
        with_file(json, Flags::default(), &env).map(|config| config.http)
    };
    assert_eq!(http("{}", "").unwrap(), None);
    assert_eq!(http(r#"{"http": "[::1]:7"}"#, "").unwrap(), Some("[::1]:7".parse().unwrap()));
    assert_eq!(http(r#"{"http": "[::1]:7"}"#, "127.0.0.2:8").unwrap(), Some("127.0.0.2:8".parse().unwrap()));
    for refused in ["0.0.0.0:7", "10.0.0.1:7", "[::]:7"] {
        assert!(http("{}", refused).unwrap_err().to_string().contains("--http-remote"), "{refused}");
        assert!(http(r#"{"httpRemote": true}"#, refused).unwrap().is_some(), "{refused}");
    }
    assert!(http("{}", "localhost").is_err());
}

#[test]
fn what_cannot_be_is_refused_with_the_name_of_the_setting() {
    let env = Environment::from(base_env());
    for (json, flags, words) in [
        ("{", Flags::default(), "not valid"),
        (r#"{"logLevel": 9}"#, Flags::default(), "logLevel"),
        (r#"{"prefetch": {"vcpus": 0}}"#, Flags::default(), "threads"),
        (r#"{"memoryBudget": "much"}"#, Flags::default(), "memory budget"),
        (r#"{"blockSize": "3M"}"#, Flags::default(), "block size"),
        (r#"{"credentials": "magic"}"#, Flags::default(), "credentials"),
        ("{}", Flags { oss_path: Some("s3://x".into()), ..Flags::default() }, "oss://"),
    ] {
        let error = with_file(json, flags, &env).unwrap_err().to_string();
        assert!(error.contains(words), "{json}: {error}");
    }
    let error = resolve(&Flags::default(), &Environment::default()).unwrap_err().to_string();
    assert!(error.contains("--oss-path") && error.contains("OSS_PATH"), "{error}");
}

#[test]
fn credentials_follow_what_the_environment_offers() {
    let with = |pairs: &[(&'static str, &'static str)]| {
        let mut all: Vec<_> = base_env().to_vec();
        all.extend_from_slice(pairs);
        let env = all.into_iter().fold(Environment::default(), |env, (k, v)| env.with(k, v));
        resolve(&Flags::default(), &env).map(|config| config.oss.credentials)
    };
    assert!(matches!(with(&[]), Ok(CredentialSource::Anonymous)));
    assert!(matches!(
        with(&[("OSS_ACCESS_KEY_ID", ""), ("OSS_ACCESS_KEY_SECRET", "")]),
        Ok(CredentialSource::Anonymous)
    ));
    assert!(matches!(
        with(&[("OSS_ACCESS_KEY_ID", "id"), ("OSS_ACCESS_KEY_SECRET", "secret")]),
        Ok(CredentialSource::Static(_))
    ));
    assert!(matches!(with(&[("OSS_ACCESS_KEY_ID", "id")]), Err(Error::HalfKey { .. })));
    assert!(matches!(with(&[("ALIBABA_CLOUD_ECS_METADATA", "role")]), Ok(CredentialSource::EcsRamRole(_))));
    assert!(matches!(
        with(&[
            ("ALIBABA_CLOUD_ROLE_ARN", "a"),
            ("ALIBABA_CLOUD_OIDC_PROVIDER_ARN", "b"),
            ("ALIBABA_CLOUD_OIDC_TOKEN_FILE", "/c")
        ]),
        Ok(CredentialSource::Oidc(_))
    ));
}

#[test]
fn a_credentials_file_is_named_by_flag_environment_file_or_unit() {
    let dir = tempfile::tempdir().unwrap();
    let of_unit = dir.path().join("ossc");
    std::fs::write(&of_unit, "").unwrap();
    let unit = Environment::from(base_env()).with("CREDENTIALS_DIRECTORY", dir.path().to_str().unwrap());
    let both = unit.clone().with("ALIBABA_CLOUD_CREDENTIALS_FILE", "/env");
    let json = r#"{"credentialsFile": "/json"}"#;
    let flag = Flags { credentials_file: Some("/flag".into()), ..Flags::default() };
    for (json, flags, env, wanted) in [
        (json, flag, &both, Path::new("/flag")),
        (json, Flags::default(), &both, Path::new("/env")),
        (json, Flags::default(), &unit, Path::new("/json")),
        ("{}", Flags::default(), &unit, &of_unit),
        (r#"{"credentials": "file"}"#, Flags::default(), &unit, &of_unit),
    ] {
        match with_file(json, flags, env).unwrap().oss.credentials {
            CredentialSource::File(path) => assert_eq!(path, wanted),
            other => panic!("{wanted:?}: {other:?}"),
        }
    }
    // A unit without a credential of this name is no reason to look no further.
    let empty = tempfile::tempdir().unwrap();
    let env = Environment::from(base_env()).with("CREDENTIALS_DIRECTORY", empty.path().to_str().unwrap());
    let config = with_file(r#"{"ecsRole": "json"}"#, Flags::default(), &env).unwrap();
    assert!(
        matches!(config.oss.credentials, CredentialSource::EcsRamRole(role) if role.role.as_deref() == Some("json"))
    );
    let env = env.with("ALIBABA_CLOUD_ECS_METADATA", "env");
    let config = with_file(r#"{"ecsRole": "json"}"#, Flags::default(), &env).unwrap();
    assert!(
        matches!(config.oss.credentials, CredentialSource::EcsRamRole(role) if role.role.as_deref() == Some("env"))
    );
}

#[test]
fn log_levels_are_the_connectors_numbers_or_words() {
    let env = Environment::from(base_env());
    let level = |json: &str| {
        with_file(&format!(r#"{{"logLevel": {json}}}"#), Flags::default(), &env)
            .map(|config| config.log.level)
    };
    let levels = [LogLevel::Debug, LogLevel::Info, LogLevel::Warn, LogLevel::Error];
    for (number, wanted) in levels.into_iter().enumerate() {
        assert_eq!(level(&number.to_string()).unwrap(), wanted);
    }
    for (word, wanted) in [("debug", LogLevel::Debug), ("INFO", LogLevel::Info), ("trace", LogLevel::Trace)] {
        assert_eq!(level(&format!("\"{word}\"")).unwrap(), wanted);
    }
    for wrong in ["4", "-1", "1.5", "\"loud\"", "[]"] {
        assert!(level(wrong).is_err(), "{wrong}");
    }
    let flags = Flags { log_level: Some(LogLevel::Error), ..Flags::default() };
    assert_eq!(with_file(r#"{"logLevel": 0}"#, flags, &env).unwrap().log.level, LogLevel::Error);
}

#[test]
fn source_addresses_are_read_from_the_connector_variable() {
    let env = Environment::from(base_env()).with("HTTP_SOURCE_IP", "10.0.0.1, 10.0.0.2");
    assert_eq!(resolve(&Flags::default(), &env).unwrap().fetch.sources.len(), 2);
    let env = Environment::from(base_env()).with("HTTP_SOURCE_IP", "10.0.0.1,eth7");
    assert_eq!(
        resolve(&Flags::default(), &env).unwrap().fetch.sources[1],
        crate::base::Nic::Interface("eth7".into())
    );
    let env = Environment::from(base_env()).with("HTTP_SOURCE_IP", "10.0.0.1,10.0.0.256");
    assert!(resolve(&Flags::default(), &env).unwrap_err().to_string().contains("10.0.0.256"));
}

#[test]
fn a_file_that_others_may_change_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    std::fs::write(&path, "{}").unwrap();
    let flags = Flags { config: Some(path.clone()), ..Flags::default() };
    let outcome = || resolve(&flags, &Environment::from(base_env()));
    outcome().unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    assert!(matches!(outcome(), Err(Error::Untrusted { .. })), "writable by everybody");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
    assert!(matches!(outcome(), Err(Error::Untrusted { .. })), "of another user");
}

#[test]
fn peers_are_off_unless_asked_for_and_then_secured() {
    let env = Environment::from(base_env());
    let of = |json: &str| with_file(json, Flags::default(), &env);
    assert!(of("{}").unwrap().peers.is_none());
    let listen = r#""listen": "10.0.0.1:7600""#;
    let error = of(&format!(r#"{{"peers": {{{listen}}}}}"#)).unwrap_err();
    assert!(matches!(error, Error::InsecurePeers { .. }), "{error}");
    let psk =
        of(&format!(r#"{{"peers": {{{listen}, "pskFile": "/k", "seeds": ["n:1"], "odd": 1}}}}"#)).unwrap();
    let peers = psk.peers.unwrap();
    assert!(matches!(peers.security, crate::peer::Security::Psk(file) if file == Path::new("/k")));
    assert_eq!((peers.seeds, peers.cluster.as_str()), (vec!["n:1".to_owned()], "ossc"));
    assert!(psk.remarks.iter().any(|remark| remark.contains("'peers.odd'")), "{:?}", psk.remarks);
    for wrong in [
        r#""pskFile": "/k", "insecure": true"#,
        r#""ca": "/c", "cert": "/d""#,
        r#""ca": "/c", "cert": "/d", "key": "/e", "pskFile": "/k""#,
        r#""insecure": true, "seeds": ["n"]"#,
        r#""insecure": true, "cluster": "Blue""#,
        r#""insecure": true, "gbps": 0"#,
        r#""insecure": true, "serveRate": "fast""#,
    ] {
        assert!(of(&format!(r#"{{"peers": {{{listen}, {wrong}}}}}"#)).is_err(), "{wrong}");
    }
}

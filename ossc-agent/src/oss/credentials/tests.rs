//! Credential sources against a small server that plays the metadata service or STS, and the cache: when it
//! renews, who asks, what a failure means. Time passes by moving the client's clock, as the `Date` of a reply
//! would; nothing sleeps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;
use crate::oss::clock::Clock;
use crate::oss::tests::server::{Answer, Seen, Server};

fn ok(body: &str) -> Answer {
    status(200, body)
}

fn status(status: u16, body: &str) -> Answer {
    Answer::Send(format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes())
}

fn document(id: &str, expiration: &str) -> String {
    format!(
        "{{\"AccessKeyId\":\"{id}\",\"AccessKeySecret\":\"sec\",\"SecurityToken\":\"tok\",\
         \"Expiration\":\"{expiration}\",\"LastUpdated\":\"2026-01-02T03:04:05Z\",\"Code\":\"Success\"}}"
    )
}

/// An RFC 3339 time this far ahead.
fn ahead(duration: Duration) -> String {
    jiff::Timestamp::try_from(SystemTime::now() + duration)
        .unwrap()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}

fn ecs(server: &Server) -> EcsRamRole {
    EcsRamRole { base_url: server.url.clone(), ..EcsRamRole::default() }
}

async fn fetch(source: CredentialSource) -> Result<Credentials, CredentialsError> {
    source.fetch(&Dialer::new(None, Vec::new(), Arc::default())).await.map(Option::unwrap)
}

fn request_line(seen: &Seen) -> &str {
    seen.head.lines().next().and_then(|line| line.strip_suffix(" HTTP/1.1")).unwrap()
}

#[tokio::test]
async fn ecs_role_by_version_2_of_the_metadata_service() {
    let server = Server::start(|seen| match request_line(seen) {
        "PUT /latest/api/token" if seen.head.contains("x-aliyun-ecs-metadata-token-ttl-seconds: 21600") => {
            ok("TOK\n")
        }
        _ if !seen.head.contains("x-aliyun-ecs-metadata-token: TOK\r\n") => status(403, ""),
        "GET /latest/meta-data/ram/security-credentials/" => ok("my-role\n"),
        "GET /latest/meta-data/ram/security-credentials/my-role" => {
            ok(&document("STS.1", "2026-01-02T09:04:05Z"))
        }
        _ => status(404, ""),
    });
    let keys = fetch(CredentialSource::EcsRamRole(ecs(&server))).await.unwrap();
    assert_eq!(keys.access_key_id, "STS.1");
    assert_eq!(keys.access_key_secret.expose(), "sec");
    assert_eq!(keys.security_token.as_ref().map(Secret::expose), Some("tok"));
    assert_eq!(
        keys.expiration.map(httpdate::fmt_http_date).as_deref(),
        Some("Fri, 02 Jan 2026 09:04:05 GMT")
    );
}

#[tokio::test]
async fn ecs_role_falls_back_to_version_1_unless_forbidden() {
    let server = Server::start(|seen| match request_line(seen) {
        "GET /latest/meta-data/ram/security-credentials/named" => ok(&document("STS.1", "")),
        _ => status(404, ""),
    });
    let role = EcsRamRole { role: Some("named".to_owned()), ..ecs(&server) };
    let keys = fetch(CredentialSource::EcsRamRole(role.clone())).await.unwrap();
    assert_eq!((keys.access_key_id.as_str(), keys.expiration), ("STS.1", None));
    let strict = EcsRamRole { allow_v1: false, ..role };
    fetch(CredentialSource::EcsRamRole(strict)).await.unwrap_err();
}

#[tokio::test]
async fn ecs_failures_are_told() {
    let cases = [
        (status(404, ""), "no credentials from ECS RAM role: the metadata service knows no such role", false),
        (ok(" \n"), "no credentials from ECS RAM role: the instance has no RAM role", false),
        (status(500, ""), "no credentials from ECS RAM role: metadata service answered 500", true),
    ];
    for (answer, message, retryable) in cases {
        let answer = std::sync::Mutex::new(Some(answer));
        let server = Server::start(move |seen| match seen.head.starts_with("PUT") {
            true => status(404, ""),
            false => answer.lock().unwrap().take().unwrap(),
        });
        let error = fetch(CredentialSource::EcsRamRole(ecs(&server))).await.unwrap_err();
        assert!(error.to_string().starts_with(message), "{error}");
        assert_eq!(error.is_retryable(), retryable, "{error}");
    }
    for body in ["{\"Code\":\"Failed\"}", "<html>", "{\"Code\":\"Success\"}"] {
        let server = Server::start(move |_| ok(body));
        let role = EcsRamRole { role: Some("r".to_owned()), ..ecs(&server) };
        fetch(CredentialSource::EcsRamRole(role)).await.unwrap_err();
    }
}

#[tokio::test]
async fn oidc_assumes_the_role_with_the_token_of_the_moment() {
    let folder = tempfile::tempdir().unwrap();
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, "ey/+=\n").unwrap();
    let server = Server::start(|seen| {
        let right = "DurationSeconds=3600&OIDCProviderArn=acs%3Aram%3A%3A1%3Aoidc-provider%2Fp&OIDCToken=ey%2F%2B%3D&\
                     RoleArn=acs%3Aram%3A%3A1%3Arole%2Fr&RoleSessionName=ossc-agent";
        let target =
            request_line(seen).starts_with("POST /?Action=AssumeRoleWithOIDC&Format=JSON&Timestamp=20");
        match target && seen.body == right {
            true => ok(&format!(
                "{{\"RequestId\":\"1\",\"Credentials\":{}}}",
                document("STS.2", "2026-01-02T09:04:05Z")
            )),
            false => {
                status(400, "{\"Code\":\"AuthenticationFail.OIDCToken.Expired\",\"Message\":\"expired\"}")
            }
        }
    });
    let oidc = Oidc {
        role_arn: "acs:ram::1:role/r".to_owned(),
        provider_arn: "acs:ram::1:oidc-provider/p".to_owned(),
        token_file: token_file.clone(),
        sts_url: server.url.clone(),
        ..Oidc::default()
    };
    let source = CredentialSource::Oidc(oidc);
    assert_eq!(fetch(source.clone()).await.unwrap().access_key_id, "STS.2");
    std::fs::write(&token_file, "old").unwrap();
    assert_eq!(
        fetch(source.clone()).await.unwrap_err().to_string(),
        "no credentials from OIDC role acs:ram::1:role/r: \
         STS answered 400 AuthenticationFail.OIDCToken.Expired: expired"
    );
    std::fs::remove_file(&token_file).unwrap();
    assert!(fetch(source).await.unwrap_err().to_string().contains("token file"));
}

#[test]
fn files_of_both_formats() {
    let good = [
        ("{\"AccessKeyId\":\"A\",\"AccessKeySecret\":\"S\"}", None),
        (
            "\n {\"AccessKeyId\":\"A\",\"AccessKeySecret\":\"S\",\"SecurityToken\":\"T\",\"Expiration\":\"2026-01-02T03:04:05Z\"}",
            Some("T"),
        ),
        ("[default]\naccess_key_id = A\naccess_key_secret=S\n", None),
        (
            "# x\n[other]\naccess_key_id=B\n[default]\ntype = access_key\naccess_key_id = A\naccess_key_secret = S\n[z]\naccess_key_id=C",
            None,
        ),
    ];
    for (text, token) in good {
        let keys = file::parse(text).unwrap();
        assert_eq!((keys.access_key_id.as_str(), keys.access_key_secret.expose()), ("A", "S"), "{text}");
        assert_eq!(keys.security_token.as_ref().map(Secret::expose), token);
    }
    for text in [
        "",
        "{\"AccessKeyId\":\"A\"}",
        "{\"AccessKeyId\":\"A\",\"AccessKeySecret\":\"SECRET\",\"Expiration\":\"soon\"}",
        "{\"AccessKeyId\":\"A\",\"AccessKeySecret\":\"SECRET\"",
        "{\"AccessKeySecret\":[\"SECRET\"]}",
        "[default]\naccess_key_id = A",
        "[default]\ntype = ram_role_arn\naccess_key_id = A\naccess_key_secret = SECRET",
        "access_key_id = A\naccess_key_secret = SECRET",
    ] {
        let reason = file::parse(text).unwrap_err();
        assert!(!reason.contains("SECRET"), "{reason}");
    }
}

#[tokio::test]
async fn keys_that_would_break_a_header_are_refused() {
    for (id, secret, token) in
        [("", "s", None), ("a", "", None), ("a\r\nb", "s", None), ("a", "s", Some("t\nu"))]
    {
        let keys = Credentials {
            access_key_id: id.to_owned(),
            access_key_secret: Secret::new(secret),
            security_token: token.map(Secret::new),
            expiration: None,
        };
        let error = fetch(CredentialSource::Static(keys)).await.unwrap_err();
        assert!(!error.is_retryable(), "{error}");
    }
}

/// A metadata service that numbers the keys it gives, each good for an hour, until it is told to fail.
fn numbered(fails: &Arc<AtomicBool>) -> Server {
    let fails = Arc::clone(fails);
    let count = std::sync::atomic::AtomicU32::new(0);
    Server::start(move |seen| match seen.head.starts_with("PUT") || fails.load(Ordering::SeqCst) {
        true => status(500, ""),
        false => {
            let number = count.fetch_add(1, Ordering::SeqCst);
            ok(&document(&format!("STS.{number}"), &ahead(Duration::from_secs(3600))))
        }
    })
}

fn cache(server: &Server) -> (CredentialCache, Clock) {
    let clock = Clock::default();
    let role = EcsRamRole { role: Some("r".to_owned()), ..ecs(server) };
    (CredentialCache::new(CredentialSource::EcsRamRole(role), clock.clone()), clock)
}

/// Makes the clock say that this much time has passed.
fn pass(clock: &Clock, seconds: u64) {
    assert!(clock.correct(&httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(seconds))));
}

async fn id(cache: &CredentialCache) -> Result<String, CredentialsError> {
    cache
        .get(&Dialer::new(None, Vec::new(), Arc::default()))
        .await
        .map(|key| key.unwrap().access_key_id.clone())
}

#[tokio::test]
async fn keys_are_renewed_ahead_of_their_end() {
    let fails = Arc::default();
    let server = numbered(&fails);
    let (cache, clock) = cache(&server);
    for (seconds, expected) in [(0, "STS.0"), (2800, "STS.0"), (2900, "STS.1"), (2905, "STS.1")] {
        pass(&clock, seconds);
        assert_eq!(id(&cache).await.unwrap(), expected, "after {seconds} s");
    }
}

#[tokio::test]
async fn a_failed_renewal_matters_only_once_the_keys_are_over() {
    let fails = Arc::new(AtomicBool::new(false));
    let server = numbered(&fails);
    let (cache, clock) = cache(&server);
    assert_eq!(id(&cache).await.unwrap(), "STS.0");
    fails.store(true, Ordering::SeqCst);
    pass(&clock, 3000);
    assert_eq!(id(&cache).await.unwrap(), "STS.0");
    let asked = server.seen().len();
    assert_eq!(id(&cache).await.unwrap(), "STS.0");
    assert_eq!(server.seen().len(), asked, "not asked again at once");
    pass(&clock, 3700);
    assert!(id(&cache).await.unwrap_err().is_retryable());
    fails.store(false, Ordering::SeqCst);
    assert_eq!(id(&cache).await.unwrap(), "STS.1");
}

#[tokio::test]
async fn many_callers_ask_the_source_once() {
    let fails = Arc::default();
    let server = numbered(&fails);
    let (cache, clock) = cache(&server);
    let cache = Arc::new(cache);
    for (seconds, expected) in [(0, "STS.0"), (7200, "STS.1")] {
        pass(&clock, seconds);
        let callers: Vec<_> = (0..20)
            .map(|_| {
                let cache = Arc::clone(&cache);
                tokio::spawn(async move { id(&cache).await })
            })
            .collect();
        for caller in callers {
            assert_eq!(caller.await.unwrap().unwrap(), expected);
        }
    }
}

#[tokio::test]
async fn one_failure_answers_all_who_wait() {
    let fails = Arc::new(AtomicBool::new(true));
    let server = numbered(&fails);
    let (cache, _) = cache(&server);
    let cache = Arc::new(cache);
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let cache = Arc::clone(&cache);
            tokio::spawn(async move { id(&cache).await })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap().unwrap_err();
    }
    assert_eq!(server.seen().len(), 2, "one PUT and one GET");
}

#[tokio::test]
async fn rejected_keys_are_replaced_once_for_all() {
    let fails = Arc::default();
    let server = numbered(&fails);
    let (cache, _) = cache(&server);
    let dialer = Dialer::new(None, Vec::new(), Arc::default());
    let old = cache.get(&dialer).await.unwrap().unwrap();
    let (first, second) = tokio::join!(cache.replace(&old, &dialer), cache.replace(&old, &dialer));
    assert!(first && second);
    assert_eq!(id(&cache).await.unwrap(), "STS.1");
}

/// Does not compile for a text that stays in memory when it is dropped.
#[test]
fn secrets_are_wiped_when_dropped() {
    fn is_wiped(_: &impl zeroize::ZeroizeOnDrop) {}
    is_wiped(&Secret::new("secret").0);
}

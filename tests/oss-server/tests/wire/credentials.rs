//! The credential services, and that what they issue is accepted until it expires.

use oss_server::{Config, Fault, MetadataConfig, Object, Operation, Rule, Server};
use serde_json::Value;

use crate::client::{Client, sign_v1};

const ROLE: &str = "/latest/meta-data/ram/security-credentials/test-role";
const STS: &str =
    "/?Action=AssumeRoleWithOIDC&Version=2015-04-01&Format=JSON&Timestamp=2026-01-02T03%3A04%3A05Z";

fn server(config: MetadataConfig) -> Server {
    let server = Server::start(Config { metadata: Some(config), ..Config::default() }).unwrap();
    server.put("k", Object::bytes("content"));
    server
}

/// Reads the object with issued credentials; the status and error code, or "accepted".
fn read_with(server: &Server, credentials: &Value) -> String {
    let field = |name: &str| credentials[name].as_str().unwrap();
    let headers =
        sign_v1("/test-bucket/k", field("AccessKeyId"), field("AccessKeySecret"), field("SecurityToken"));
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let reply = Client::connect(server).request("GET", "/test-bucket/k", &headers);
    if reply.status() == 200 { "accepted".to_owned() } else { reply.code() }
}

#[test]
fn instance_metadata_issues_credentials() {
    let server = server(MetadataConfig::default());
    let mut client = Client::connect(&server);
    let role = client.get("/latest/meta-data/ram/security-credentials/");
    assert_eq!(role.text(), "test-role");
    let first: Value = serde_json::from_slice(&client.get(ROLE).body).unwrap();
    assert_eq!(first["Code"], "Success");
    assert_eq!(first["Expiration"].as_str().unwrap().len(), 20);
    assert_eq!(read_with(&server, &first), "accepted");
    assert_eq!(client.get("/latest/meta-data/ram/security-credentials/other").status(), 404);

    server.metadata().unwrap().set_lifetime(0);
    let second: Value = serde_json::from_slice(&client.get(ROLE).body).unwrap();
    assert_eq!(read_with(&server, &second), "SecurityTokenExpired");
    server.keys().expire(first["AccessKeyId"].as_str().unwrap());
    assert_eq!(read_with(&server, &first), "SecurityTokenExpired");
    assert_eq!(server.metadata().unwrap().issued(), 2);
    assert_eq!(server.log().count(|entry| entry.operation == Operation::Metadata), 4);
}

#[test]
fn metadata_may_want_a_session_token() {
    let server = server(MetadataConfig { require_token: true, ..MetadataConfig::default() });
    let mut client = Client::connect(&server);
    assert_eq!(client.get(ROLE).status(), 403);
    assert_eq!(client.request("PUT", "/latest/api/token", &[]).status(), 400);
    let ttl = [("X-aliyun-ecs-metadata-token-ttl-seconds", "21600")];
    let token = client.request("PUT", "/latest/api/token", &ttl);
    for (sent, status) in [(token.text(), 200), ("other", 403)] {
        assert_eq!(client.request("GET", ROLE, &[("X-aliyun-ecs-metadata-token", sent)]).status(), status);
    }
}

#[test]
fn a_role_is_assumed_with_the_right_token() {
    let server = server(MetadataConfig::default());
    let mut client = Client::connect(&server);
    let form = "RoleArn=acs%3Aram%3A%3A1000%3Arole%2Ftest-role\
        &OIDCProviderArn=acs%3Aram%3A%3A1000%3Aoidc-provider%2Ftest\
        &OIDCToken=test-oidc-token&RoleSessionName=s&DurationSeconds=3600";
    let reply = client.exchange("POST", STS, &[], form);
    let reply: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(read_with(&server, &reply["Credentials"]), "accepted");
    for (from, to, code) in [
        ("test-oidc-token", "another", "AuthenticationFail.OIDCToken.Invalid"),
        ("test-role", "other-role", "EntityNotExist.Role"),
        ("RoleSessionName=s", "", "MissingRoleSessionName"),
    ] {
        let reply = client.exchange("POST", STS, &[], &form.replace(from, to));
        assert_eq!(reply.status(), 400);
        assert_eq!(serde_json::from_slice::<Value>(&reply.body).unwrap()["Code"], code);
    }
    server.metadata().unwrap().set_oidc_token("another");
    let reply = client.exchange("POST", STS, &[], &form.replace("test-oidc-token", "another"));
    assert_eq!(reply.status(), 200);
    assert_eq!(server.metadata().unwrap().issued(), 2);
}

#[test]
fn the_services_can_fail_too() {
    let server = server(MetadataConfig::default());
    let fault = Fault::Error { status: 500, code: "InternalError".to_owned() };
    server.faults().add(Rule::new(fault).key("/latest/*").times(1));
    let mut client = Client::connect(&server);
    assert_eq!(client.get(ROLE).status(), 500);
    assert_eq!(client.get(ROLE).status(), 200);
}

#[test]
fn a_clock_that_is_off_is_refused_with_the_servers_date() {
    let server = server(MetadataConfig::default());
    let credentials: Value = serde_json::from_slice(&Client::connect(&server).get(ROLE).body).unwrap();
    for (offset, expected) in [(800, "accepted"), (-1000, "RequestTimeTooSkewed"), (0, "accepted")] {
        server.set_clock_offset(offset);
        assert_eq!(read_with(&server, &credentials), expected, "{offset}");
    }
}

//! Stand-ins for the places agents get credentials from: instance metadata and AssumeRoleWithOIDC.
//!
//! Both answer on the server's own port. Every successful request issues a new temporary key, which the server then
//! accepts until it expires. The JSON of a role's metadata has all fields of the "credentials URI" form as well, so
//! that URL serves for both.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::auth::Keys;
use crate::clock;
use crate::config::MetadataConfig;
use crate::request::{Request, parse_query};
use crate::response::Response;
use crate::sync::lock;

/// Path of the session token (IMDSv2).
const TOKEN_PATH: &str = "/latest/api/token";
/// Path of the role's name; with the name appended, of its credentials.
const CREDENTIALS_PATH: &str = "/latest/meta-data/ram/security-credentials/";
/// Longest life of a session token in seconds.
const MAX_TOKEN_LIFE: u64 = 21_600;

/// The credential services of one server.
#[derive(Debug)]
pub struct Metadata {
    config: MetadataConfig,
    oidc_token: Mutex<String>,
    lifetime: AtomicI64,
    issued: AtomicU64,
    sessions: Mutex<Vec<String>>,
}

impl Metadata {
    pub(crate) fn new(config: MetadataConfig) -> Self {
        Self {
            oidc_token: Mutex::new(config.oidc_token.clone()),
            lifetime: AtomicI64::new(config.lifetime),
            issued: AtomicU64::new(0),
            sessions: Mutex::default(),
            config,
        }
    }

    /// Sets the life in seconds of credentials issued from now on; zero or less issues expired ones.
    pub fn set_lifetime(&self, seconds: i64) {
        self.lifetime.store(seconds, Ordering::Relaxed);
    }

    /// Sets the OIDC token that must be presented from now on.
    pub fn set_oidc_token(&self, token: &str) {
        token.clone_into(&mut lock(&self.oidc_token));
    }

    /// Credentials issued so far. The `n`-th has the access key id `STS.issued<n>`.
    #[must_use]
    pub fn issued(&self) -> u64 {
        self.issued.load(Ordering::Relaxed)
    }

    /// Answers a request to either service.
    pub(crate) fn answer(&self, request: &Request, keys: &Keys, now: i64) -> Response {
        if request.method == "POST" {
            return self.assume_role(request, keys, now);
        }
        let path = request.path.as_str();
        if path == TOKEN_PATH {
            return self.session(request);
        }
        let session = request.header("x-aliyun-ecs-metadata-token");
        let known = session.is_some_and(|token| lock(&self.sessions).iter().any(|known| known == token));
        if (session.is_some() || self.config.require_token) && !known {
            return Response::text(403, "text/plain", "a valid metadata token is required");
        }
        match path.strip_prefix(CREDENTIALS_PATH) {
            Some("") => Response::text(200, "text/plain", self.config.role.as_str()),
            Some(role) if role == self.config.role => {
                let mut fields = self.issue(keys, now);
                fields["LastUpdated"] = clock::credential_date(now).into();
                fields["Code"] = "Success".into();
                Response::text(200, "application/json", fields.to_string())
            }
            _ => Response::text(404, "text/plain", "no such metadata"),
        }
    }

    fn session(&self, request: &Request) -> Response {
        let life =
            request.header("x-aliyun-ecs-metadata-token-ttl-seconds").and_then(|text| text.parse().ok());
        if request.method != "PUT" || !life.is_some_and(|life: u64| (1..=MAX_TOKEN_LIFE).contains(&life)) {
            return Response::text(400, "text/plain", "bad token request");
        }
        let mut sessions = lock(&self.sessions);
        let token = format!("session-token-{}", sessions.len() + 1);
        sessions.push(token.clone());
        Response::text(200, "text/plain", token)
    }

    fn assume_role(&self, request: &Request, keys: &Keys, now: i64) -> Response {
        let form = parse_query(&String::from_utf8_lossy(&request.body));
        let field =
            |name: &str| form.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.as_str());
        let duration = field("DurationSeconds");
        let checks = [
            (request.param("Action") == Some("AssumeRoleWithOIDC"), "InvalidAction.NotFound"),
            (request.param("Version") == Some("2015-04-01"), "InvalidVersion"),
            (request.param("Format") == Some("JSON"), "InvalidFormat"),
            (request.param("Timestamp").is_some(), "MissingTimestamp"),
            (field("RoleArn") == self.config.role_arn, "EntityNotExist.Role"),
            (field("OIDCProviderArn") == self.config.oidc_provider_arn, "EntityNotExist.OIDCProvider"),
            (field("OIDCToken") == lock(&self.oidc_token).as_str(), "AuthenticationFail.OIDCToken.Invalid"),
            (!field("RoleSessionName").is_empty(), "MissingRoleSessionName"),
            (duration.is_empty() || duration.parse::<u64>().is_ok(), "InvalidParameter.DurationSeconds"),
        ];
        if let Some((_, code)) = checks.into_iter().find(|(good, _)| !good) {
            let reply = json!({"Code": code, "Message": "The request was refused.", "RequestId": "0"});
            return Response::text(400, "application/json", reply.to_string());
        }
        let reply = json!({"RequestId": "0", "Credentials": self.issue(keys, now)});
        Response::text(200, "application/json", reply.to_string())
    }

    /// Makes a temporary key known to the server.
    fn issue(&self, keys: &Keys, now: i64) -> Value {
        let number = self.issued.fetch_add(1, Ordering::Relaxed) + 1;
        let expires = now.saturating_add(self.lifetime.load(Ordering::Relaxed));
        let (id, secret) = (format!("STS.issued{number}"), format!("issued-secret-{number}"));
        // Tokens hold the letters that must be encoded or signed with care.
        let token = format!("CAIS{number}/issued+token==");
        keys.add_issued(&id, &secret, &token, Some(expires));
        json!({
            "AccessKeyId": id,
            "AccessKeySecret": secret,
            "SecurityToken": token,
            "Expiration": clock::credential_date(expires),
        })
    }
}

//! Temporary keys of a RAM role assumed with an OIDC token: RRSA, the way of pods in ACK clusters. The token
//! file is read again at each refresh because Kubernetes rotates it. The request to STS is not signed; the
//! token is the proof. Protocol: help.aliyun.com "AssumeRoleWithOIDC", credentials-go `providers/oidc.go`.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hyper::Method;
use jiff::Timestamp;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::document::Document;
use super::{Credentials, CredentialsError};
use crate::oss::dial::Dialer;
use crate::oss::endpoint::Authority;
use crate::oss::error::printable;
use crate::oss::http::{self, Limits};
use crate::oss::uri;

/// STS of no certain region; a region or VPC has its own, `sts[-vpc].<region>.aliyuncs.com`.
const STS_URL: &str = "https://sts.aliyuncs.com";
/// How long the keys shall be good, seconds: the default maximum of a RAM role's session.
const DURATION_SECONDS: &str = "3600";
const LIMITS: Limits = Limits { time: Duration::from_secs(10), body_bytes: 64 << 10 };

/// A role to assume with an OIDC token.
#[derive(Debug, Clone)]
pub struct Oidc {
    /// `acs:ram::<account>:role/<name>`.
    pub role_arn: String,
    /// `acs:ram::<account>:oidc-provider/<name>`.
    pub provider_arn: String,
    /// File with the token.
    pub token_file: PathBuf,
    /// Name under which the session shows in audit logs.
    pub session_name: String,
    /// Address of STS, e.g. `https://sts-vpc.cn-hangzhou.aliyuncs.com`.
    pub sts_url: String,
}

impl Default for Oidc {
    fn default() -> Self {
        Self {
            role_arn: String::new(),
            provider_arn: String::new(),
            token_file: PathBuf::new(),
            session_name: "ossc-agent".to_owned(),
            sts_url: STS_URL.to_owned(),
        }
    }
}

/// The STS reply: keys, or `Code` and `Message`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    credentials: Option<Document>,
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Oidc {
    pub(super) fn name(&self) -> String {
        format!("OIDC role {}", self.role_arn)
    }

    pub(super) async fn fetch(&self, dialer: &Dialer) -> Result<Credentials, CredentialsError> {
        let lasting = |reason: String| CredentialsError::lasting(self.name(), reason);
        let passing = |reason: String| CredentialsError::passing(self.name(), reason);
        let sts = Authority::parse(&self.sts_url).map_err(|reason| lasting(reason.to_owned()))?;
        let token = tokio::fs::read_to_string(&self.token_file)
            .await
            .map(Zeroizing::new)
            .map_err(|error| passing(format!("token file {}: {error}", self.token_file.display())))?;
        let now = Timestamp::try_from(SystemTime::now()).map_err(|error| lasting(error.to_string()))?;
        let timestamp = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let query = uri::query(&[
            ("Action", "AssumeRoleWithOIDC"),
            ("Version", "2015-04-01"),
            ("Format", "JSON"),
            ("Timestamp", &timestamp),
        ]);
        let form = uri::query(&[
            ("RoleArn", &self.role_arn),
            ("OIDCProviderArn", &self.provider_arn),
            ("OIDCToken", token.trim()),
            ("RoleSessionName", &self.session_name),
            ("DurationSeconds", DURATION_SECONDS),
        ]);
        let request = http::Request {
            method: Method::POST,
            authority: &sts,
            target: &format!("/?{query}"),
            headers: &[("content-type", "application/x-www-form-urlencoded")],
            body: Bytes::from(form),
        };
        let reply = http::exchange(dialer, request, LIMITS)
            .await
            .map_err(|error| passing(format!("{} does not answer: {error}", self.sts_url)))?;
        read(reply.status, &reply.body).map_err(|refusal| {
            if refusal.passing { passing(refusal.reason) } else { lasting(refusal.reason) }
        })
    }
}

/// Why a reply of STS has no keys.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) reason: String,
    /// Whether asking again may help.
    passing: bool,
}

/// The keys in a reply of STS.
pub(super) fn read(status: u16, body: &[u8]) -> Result<Credentials, Refusal> {
    let passing = |reason| Refusal { reason, passing: true };
    let answer: Answer =
        serde_json::from_slice(body).map_err(|_| passing(format!("STS answered {status} without JSON")))?;
    match answer.credentials {
        Some(document) if status == 200 => {
            document.credentials().map_err(|reason| passing(reason.to_owned()))
        }
        _ => {
            let (code, message) = (printable(&answer.code), printable(&answer.message));
            let reason = format!("STS answered {status} {code}: {message}");
            Err(Refusal { reason, passing: status >= 500 })
        }
    }
}

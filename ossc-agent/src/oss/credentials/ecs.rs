//! Temporary keys of the RAM role bound to the ECS instance, from the metadata service. Version 2 of the
//! service wants a session token first; when it does not give one, version 1 is asked without, unless that is
//! forbidden. The address is link-local: no answer means this is no ECS instance, or the service is off.
//! Protocol: help.aliyun.com "instance metadata", credentials-go `providers/ecs_ram_role.go`.

use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use zeroize::Zeroizing;

use super::document::Document;
use super::{Credentials, CredentialsError};
use crate::oss::dial::Dialer;
use crate::oss::endpoint::Authority;
use crate::oss::error::printable;
use crate::oss::http::{self, Limits, Reply};
use crate::oss::uri;

/// Address of the metadata service, the same on all instances.
const METADATA_URL: &str = "http://100.100.100.200";
const TOKEN_PATH: &str = "/latest/api/token";
const ROLES_PATH: &str = "/latest/meta-data/ram/security-credentials/";
const TOKEN_TTL_HEADER: (&str, &str) = ("x-aliyun-ecs-metadata-token-ttl-seconds", "21600");
const TOKEN_HEADER: &str = "x-aliyun-ecs-metadata-token";
/// The service is on the same host; an answer takes milliseconds, and elsewhere nobody answers.
const LIMITS: Limits = Limits { time: Duration::from_secs(3), body_bytes: 64 << 10 };

/// The RAM role of the ECS instance this runs on.
#[derive(Debug, Clone)]
pub struct EcsRamRole {
    /// Address of the metadata service; only tests change it.
    pub base_url: String,
    /// Name of the role; None = asked from the service.
    pub role: Option<String>,
    /// Whether version 1 of the service may be used when version 2 gives no token.
    pub allow_v1: bool,
}

impl Default for EcsRamRole {
    fn default() -> Self {
        Self { base_url: METADATA_URL.to_owned(), role: None, allow_v1: true }
    }
}

impl EcsRamRole {
    pub(super) fn name(&self) -> String {
        match &self.role {
            Some(role) => format!("ECS RAM role {role}"),
            None => "ECS RAM role".to_owned(),
        }
    }

    pub(super) async fn fetch(&self, dialer: &Dialer) -> Result<Credentials, CredentialsError> {
        let service = Authority::parse(&self.base_url)
            .map_err(|reason| CredentialsError::lasting(self.name(), reason))?;
        let token = match self.request(dialer, &service, Method::PUT, TOKEN_PATH, &[TOKEN_TTL_HEADER]).await {
            Ok(reply) => Some(text(&reply)),
            Err(error) if self.allow_v1 => {
                tracing::debug!(%error, "metadata service gave no session token; asking it without");
                None
            }
            Err(error) => return Err(error),
        };
        let headers: Vec<(&str, &str)> = token.iter().map(|token| (TOKEN_HEADER, token.as_str())).collect();
        let role = match &self.role {
            Some(role) => role.clone(),
            None => {
                let reply = self.request(dialer, &service, Method::GET, ROLES_PATH, &headers).await?;
                text(&reply).lines().next().unwrap_or_default().to_owned()
            }
        };
        if role.is_empty() {
            return Err(CredentialsError::lasting(
                self.name(),
                "the instance has no RAM role; bind one to it",
            ));
        }
        let path = format!("{ROLES_PATH}{}", uri::component(&role));
        let reply = self.request(dialer, &service, Method::GET, &path, &headers).await?;
        read(&reply.body).map_err(|reason| CredentialsError::passing(self.name(), reason))
    }

    async fn request(
        &self,
        dialer: &Dialer,
        service: &Authority,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<Reply, CredentialsError> {
        let request = http::Request { method, authority: service, target, headers, body: Bytes::new() };
        let reply = http::exchange(dialer, request, LIMITS).await.map_err(|error| {
            let reason = format!("metadata service {} does not answer: {error}", self.base_url);
            CredentialsError::passing(self.name(), reason)
        })?;
        match reply.status {
            200 => Ok(reply),
            404 => Err(CredentialsError::lasting(
                self.name(),
                "the metadata service knows no such role; bind the role to the instance",
            )),
            status => {
                Err(CredentialsError::passing(self.name(), format!("metadata service answered {status}")))
            }
        }
    }
}

/// The keys in the service's reply, or why there are none.
pub(super) fn read(body: &[u8]) -> Result<Credentials, String> {
    let document: Document = serde_json::from_slice(body).map_err(|_| "reply is no JSON")?;
    match document.code.as_deref() {
        None | Some("Success") => Ok(document.credentials()?),
        Some(code) => Err(format!("metadata service answered {}", printable(code))),
    }
}

/// A reply that is one short text.
fn text(reply: &Reply) -> Zeroizing<String> {
    Zeroizing::new(String::from_utf8_lossy(&reply.body).trim().to_owned())
}

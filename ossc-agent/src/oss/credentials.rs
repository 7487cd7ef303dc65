//! Access keys: what they are and where they come from. `config` picks one source (it reads the environment,
//! this part does not); `cache` keeps its answer fresh for all connections of a client. A source that fails
//! says which one it is and what to check; secrets are wiped when dropped and never printed.

mod cache;
mod document;
mod ecs;
mod file;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;
mod oidc;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::time::SystemTime;

use zeroize::Zeroizing;

pub(super) use self::cache::CredentialCache;
pub use self::ecs::EcsRamRole;
pub use self::oidc::Oidc;
use super::dial::Dialer;

/// A text that is wiped from memory when dropped and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a copy; the caller's own is the caller's to wipe.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }

    /// The text, for signing and sending only.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// An access key, permanent or temporary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Public part.
    pub access_key_id: String,
    /// Signing key.
    pub access_key_secret: Secret,
    /// Token of temporary (STS) keys.
    pub security_token: Option<Secret>,
    /// When the key stops working, if it does.
    pub expiration: Option<SystemTime>,
}

impl Credentials {
    /// Refuses what cannot be sent in a header, so that no line of a request comes out of a key.
    fn check(&self) -> Result<(), &'static str> {
        let printable = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        let token = self.security_token.as_ref().is_none_or(|token| printable(token.expose()));
        if printable(&self.access_key_id) && printable(self.access_key_secret.expose()) && token {
            Ok(())
        } else {
            Err("the access key id, secret or token is empty or has spaces or control characters")
        }
    }
}

/// Where access keys come from.
#[derive(Debug, Clone)]
pub enum CredentialSource {
    /// Requests are not signed; for public buckets.
    Anonymous,
    /// Keys that `config` found in the environment or the settings.
    Static(Credentials),
    /// A file that something else keeps fresh: the connector's JSON, or an ini file with an access key.
    File(PathBuf),
    /// The RAM role of the ECS instance.
    EcsRamRole(EcsRamRole),
    /// A RAM role assumed with an OIDC token (RRSA in ACK pods).
    Oidc(Oidc),
}

impl CredentialSource {
    /// Asks the source. None = anonymous.
    async fn fetch(&self, dialer: &Dialer) -> Result<Option<Credentials>, CredentialsError> {
        let credentials = match self {
            Self::Anonymous => return Ok(None),
            Self::Static(credentials) => credentials.clone(),
            Self::File(path) => file::read(path).await?,
            Self::EcsRamRole(role) => role.fetch(dialer).await?,
            Self::Oidc(oidc) => oidc.fetch(dialer).await?,
        };
        credentials.check().map_err(|reason| CredentialsError::lasting(self.name(), reason))?;
        Ok(Some(credentials))
    }

    /// For messages.
    fn name(&self) -> String {
        match self {
            Self::Anonymous => "no credentials".to_owned(),
            Self::Static(_) => "settings or environment".to_owned(),
            Self::File(path) => format!("file {}", path.display()),
            Self::EcsRamRole(role) => role.name(),
            Self::Oidc(oidc) => oidc.name(),
        }
    }

    /// Whether the source may have an https address, so that TLS must be set up.
    pub(super) fn wants_tls(&self) -> bool {
        matches!(self, Self::Oidc(_))
    }
}

/// A source gave no usable keys. Cheap to clone: one failure answers all who wait for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no credentials from {origin}: {reason}")]
pub struct CredentialsError {
    origin: String,
    reason: String,
    retryable: bool,
}

impl CredentialsError {
    /// A failure that a person must mend.
    fn lasting(origin: String, reason: impl Into<String>) -> Self {
        Self { origin, reason: reason.into(), retryable: false }
    }

    /// A failure that may pass.
    fn passing(origin: String, reason: impl Into<String>) -> Self {
        Self { origin, reason: reason.into(), retryable: true }
    }

    /// Whether asking again may help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.retryable
    }
}

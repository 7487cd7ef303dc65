//! The access keys the server knows, permanent ones and temporary ones with a token.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::OssError;
use crate::sync::lock;

#[derive(Clone)]
struct Key {
    secret: String,
    token: Option<String>,
    /// Seconds since 1970 from which the key is refused.
    expires: Option<i64>,
}

/// A secret on its way to a verification; never shown.
pub(crate) struct Secret(String);

impl Secret {
    /// The secret itself, for the HMAC only.
    pub(crate) fn expose(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The access keys the server accepts; tests add, expire and remove them at run time.
#[derive(Default)]
pub struct Keys {
    known: Mutex<HashMap<String, Key>>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("count", &lock(&self.known).len()).finish()
    }
}

impl Keys {
    /// Adds or replaces a permanent key.
    pub fn add(&self, id: &str, secret: &str) {
        let key = Key { secret: secret.to_owned(), token: None, expires: None };
        lock(&self.known).insert(id.to_owned(), key);
    }

    /// Adds or replaces a temporary key: requests must carry the token, and are refused with `SecurityTokenExpired`
    /// from `expires` on; `None` never expires.
    pub fn add_temporary(&self, id: &str, secret: &str, token: &str, expires: Option<SystemTime>) {
        let expires = expires.map(|time| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
        let expires = expires.map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX));
        self.add_issued(id, secret, token, expires);
    }

    /// Refuses this temporary key as expired from now on.
    pub fn expire(&self, id: &str) {
        if let Some(key) = lock(&self.known).get_mut(id) {
            key.expires = Some(i64::MIN);
        }
    }

    /// Forgets a key: requests with it get `InvalidAccessKeyId`.
    pub fn remove(&self, id: &str) {
        lock(&self.known).remove(id);
    }

    /// [`Self::add_temporary`] with the expiry in seconds since 1970.
    pub(crate) fn add_issued(&self, id: &str, secret: &str, token: &str, expires: Option<i64>) {
        let key = Key { secret: secret.to_owned(), token: Some(token.to_owned()), expires };
        lock(&self.known).insert(id.to_owned(), key);
    }

    /// The secret of `id`, if the request's token is the one that belongs to it and holds at `now`.
    pub(crate) fn find(&self, id: &str, token: Option<&str>, now: i64) -> Result<Secret, OssError> {
        let known = lock(&self.known);
        let key =
            known.get(id).ok_or_else(|| OssError::of("InvalidAccessKeyId").detail("OSSAccessKeyId", id))?;
        let refusal = match (&key.token, token) {
            // OSS does not find the id of a temporary key among the permanent ones.
            (Some(_), None) => Some("InvalidAccessKeyId"),
            (None, Some(_)) => Some("AccessKeyIdAndSecurityTokenNotMatch"),
            (Some(own), Some(sent)) if own != sent => Some("InvalidSecurityToken"),
            _ if key.expires.is_some_and(|expires| expires <= now) => Some("SecurityTokenExpired"),
            _ => None,
        };
        match refusal {
            Some(code) => Err(OssError::of(code).detail("OSSAccessKeyId", id)),
            None => Ok(Secret(key.secret.clone())),
        }
    }
}

//! The JSON in which Alibaba Cloud hands out temporary keys: the metadata service, the STS reply and the
//! connector's credentials file have the same four fields. The error names the field that is wrong and never
//! quotes it, since it may be a secret.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use std::time::SystemTime;

use super::{Credentials, Secret};

/// `{"AccessKeyId", "AccessKeySecret", "SecurityToken", "Expiration"}`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Document {
    #[serde(default)]
    access_key_id: String,
    #[serde(default)]
    access_key_secret: Option<Secret>,
    #[serde(default)]
    security_token: Option<Secret>,
    #[serde(default)]
    expiration: Option<String>,
    /// Only in replies of the metadata service: `Success` or a reason.
    #[serde(default)]
    pub(super) code: Option<String>,
}

impl Document {
    /// The keys in it, or which field is wrong.
    pub(super) fn credentials(self) -> Result<Credentials, &'static str> {
        let access_key_secret = self.access_key_secret.ok_or("AccessKeySecret is missing")?;
        let expiration = match self.expiration.as_deref() {
            None | Some("") => None,
            Some(text) => {
                let time: Timestamp =
                    text.parse().map_err(|_| "Expiration is not a time like 2026-01-02T09:04:05Z")?;
                Some(SystemTime::from(time))
            }
        };
        let security_token = self.security_token.filter(|token| !token.expose().is_empty());
        Ok(Credentials { access_key_id: self.access_key_id, access_key_secret, security_token, expiration })
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(text.into()))
    }
}

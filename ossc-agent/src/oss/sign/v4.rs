//! Signature V4, header form (py SDK v2 `signer/v4.py`, go SDK v2 `signer/v4.go`). The steps are separate
//! pure functions (canonical request, string to sign, signature), so that the tests can hold each against the
//! values the official SDKs produce.

use std::time::SystemTime;

use hmac::Hmac;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{Header, Request, header_lines, mac};
use crate::oss::credentials::{Credentials, Secret};
use crate::oss::error::Error;
use crate::oss::uri;

/// Name of the scheme.
pub(super) const ALGORITHM: &str = "OSS4-HMAC-SHA256";
/// The only value used for `x-oss-content-sha256`: bodies are not hashed.
pub(super) const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";

/// The day, region and service a signature is good for.
#[derive(Debug)]
pub(super) struct Scope {
    /// `YYYYMMDDTHHMMSSZ`.
    pub(super) time: String,
    /// `YYYYMMDD`.
    date: String,
    region: String,
}

impl Scope {
    pub(super) fn new(now: SystemTime, region: &str) -> Result<Self, Error> {
        let now = Timestamp::try_from(now)
            .map_err(|_| Error::Signing { reason: "the clock of this machine is out of range" })?;
        Ok(Self {
            time: now.strftime("%Y%m%dT%H%M%SZ").to_string(),
            date: now.strftime("%Y%m%d").to_string(),
            region: region.to_owned(),
        })
    }

    /// `YYYYMMDD/<region>/oss/aliyun_v4_request`.
    pub(super) fn name(&self) -> String {
        format!("{}/{}/oss/aliyun_v4_request", self.date, self.region)
    }
}

pub(super) fn sign(
    request: &Request<'_>,
    region: &str,
    credentials: &Credentials,
    now: SystemTime,
) -> Result<Vec<Header>, Error> {
    let scope = Scope::new(now, region)?;
    let mut added: Vec<Header> = vec![
        ("x-oss-content-sha256", Zeroizing::new(UNSIGNED_PAYLOAD.to_owned())),
        ("x-oss-date", Zeroizing::new(scope.time.clone())),
    ];
    if let Some(token) = &credentials.security_token {
        added.push(("x-oss-security-token", Zeroizing::new(token.expose().to_owned())));
    }
    let mut headers = request.headers.to_vec();
    headers.extend(added.iter().map(|(name, value)| (*name, value.as_str())));
    let canonical = canonical_request(&Request { headers: &headers, ..*request }, &[]);
    let signature = signature(&scope, &credentials.access_key_secret, &string_to_sign(&scope, &canonical))?;
    let authorization = format!(
        "{ALGORITHM} Credential={}/{},Signature={signature}",
        credentials.access_key_id,
        scope.name()
    );
    added.push(("authorization", Zeroizing::new(authorization)));
    Ok(added)
}

/// The request in its one spelling. `additional` names signed headers beyond `x-oss-*`, `content-type` and
/// `content-md5`, in lower case; those that the request does not have, or that are signed anyway, are left
/// out. The agent itself asks for none.
pub(super) fn canonical_request(request: &Request<'_>, additional: &[&str]) -> Zeroizing<String> {
    let always = |name: &str| name.starts_with("x-oss-") || name == "content-type" || name == "content-md5";
    let present = |name: &str| request.headers.iter().any(|(header, _)| *header == name);
    let mut extra: Vec<&str> =
        additional.iter().copied().filter(|name| !always(name) && present(name)).collect();
    extra.sort_unstable();
    Zeroizing::new(format!(
        "{method}\n/{bucket}/{key}\n{query}\n{headers}\n{additional}\n{UNSIGNED_PAYLOAD}",
        method = request.method,
        bucket = request.bucket,
        key = uri::path(request.key),
        query = uri::query(request.query),
        headers = header_lines(request.headers, |name| always(name) || extra.contains(&name)),
        additional = extra.join(";"),
    ))
}

pub(super) fn string_to_sign(scope: &Scope, canonical: &str) -> String {
    let hash = hex(&Sha256::digest(canonical.as_bytes()));
    format!("{ALGORITHM}\n{}\n{}\n{hash}", scope.time, scope.name())
}

/// Lower-case hex of the string to sign under the key derived for the scope.
pub(super) fn signature(scope: &Scope, secret: &Secret, string_to_sign: &str) -> Result<String, Error> {
    let root = Zeroizing::new(format!("aliyun_v4{}", secret.expose()));
    let mut key = Zeroizing::new(root.as_bytes().to_vec());
    for part in [scope.date.as_str(), &scope.region, "oss", "aliyun_v4_request"] {
        key = mac::<Hmac<Sha256>>(&key, part.as_bytes())?;
    }
    Ok(hex(&mac::<Hmac<Sha256>>(&key, string_to_sign.as_bytes())?))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

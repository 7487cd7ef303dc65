//! Signature V1, header form (`oss2/auth.py`, go SDK v2 `signer/v1.go`): HMAC-SHA1 over a text that needs no
//! region. The resource in it is raw, not percent-encoded, and has only a fixed list of query parameters.
//! A token travels in `x-oss-security-token`, which is part of the text.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::Hmac;
use sha1::Sha1;
use zeroize::Zeroizing;

use super::{Header, Request, header_lines, mac};
use crate::oss::credentials::{Credentials, Secret};
use crate::oss::error::Error;

/// The query parameters that are signed, of those the agent sends (`oss2` `_subresource_key_set`, which has
/// neither `prefix` nor `max-keys`, `list-type` and `encoding-type`).
const SIGNED_PARAMETERS: [&str; 1] = ["continuation-token"];

pub(super) fn sign(
    request: &Request<'_>,
    credentials: &Credentials,
    now: SystemTime,
) -> Result<Vec<Header>, Error> {
    let date = httpdate::fmt_http_date(now);
    let mut added: Vec<Header> = vec![("date", Zeroizing::new(date.clone()))];
    if let Some(token) = &credentials.security_token {
        added.push(("x-oss-security-token", Zeroizing::new(token.expose().to_owned())));
    }
    let mut headers = request.headers.to_vec();
    headers.extend(added.iter().map(|(name, value)| (*name, value.as_str())));
    let text = string_to_sign(&Request { headers: &headers, ..*request }, &date);
    let signature = signature(&credentials.access_key_secret, &text)?;
    added.push(("authorization", Zeroizing::new(format!("OSS {}:{signature}", credentials.access_key_id))));
    Ok(added)
}

/// The text that is signed; `date` is the `Date` header.
pub(super) fn string_to_sign(request: &Request<'_>, date: &str) -> Zeroizing<String> {
    let header = |wanted: &str| {
        request.headers.iter().find(|(name, _)| *name == wanted).map_or("", |(_, value)| value.trim())
    };
    Zeroizing::new(format!(
        "{method}\n{md5}\n{content_type}\n{date}\n{headers}/{bucket}/{key}{parameters}",
        method = request.method,
        md5 = header("content-md5"),
        content_type = header("content-type"),
        headers = header_lines(request.headers, |name| name.starts_with("x-oss-")),
        bucket = request.bucket,
        key = request.key,
        parameters = signed_parameters(request.query),
    ))
}

/// Base64 of the HMAC-SHA1.
pub(super) fn signature(secret: &Secret, string_to_sign: &str) -> Result<String, Error> {
    let mac = mac::<Hmac<Sha1>>(secret.expose().as_bytes(), string_to_sign.as_bytes())?;
    Ok(STANDARD.encode(&*mac))
}

/// `?k=v&k` of the signed parameters, sorted, raw; empty when there are none.
fn signed_parameters(query: &[(&str, &str)]) -> String {
    let mut signed: Vec<&(&str, &str)> =
        query.iter().filter(|(key, _)| SIGNED_PARAMETERS.contains(key)).collect();
    signed.sort();
    let joined: Vec<String> = signed
        .into_iter()
        .map(|(key, value)| if value.is_empty() { (*key).to_owned() } else { format!("{key}={value}") })
        .collect();
    if joined.is_empty() { String::new() } else { format!("?{}", joined.join("&")) }
}

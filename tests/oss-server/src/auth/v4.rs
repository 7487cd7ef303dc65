//! Signature version 4: HMAC-SHA256 over a canonical request (OSS "Include a V4 signature in the header / URL").

use std::collections::BTreeSet;

use hmac::{Hmac, KeyInit as _, Mac as _};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest as _, Sha256};

use super::{Judge, malformed};
use crate::address::Address;
use crate::clock;
use crate::error::OssError;
use crate::hex;
use crate::request::Request;

/// First word of the `Authorization` header, and value of `x-oss-signature-version`.
pub(super) const ALGORITHM: &str = "OSS4-HMAC-SHA256";

const PRODUCT: &str = "oss";
const TERMINATOR: &str = "aliyun_v4_request";
/// The only value OSS clients give for the hash of the body.
const PAYLOAD: &str = "UNSIGNED-PAYLOAD";
/// Longest life of a signed URL in seconds: 7 days.
const MAX_EXPIRES: i64 = 7 * 24 * 3600;

/// Everything but letters, digits and `-._~`.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// As [`RESERVED`], but a path keeps its slashes.
const RESERVED_IN_PATH: &AsciiSet = &RESERVED.remove(b'/');

/// What the signer claims, wherever it was sent.
struct Claim<'a> {
    access_key: &'a str,
    /// `<day>/<region>/oss/aliyun_v4_request`.
    scope: &'a str,
    time: &'a str,
    token: Option<&'a str>,
    additional: BTreeSet<&'a str>,
    signature: &'a str,
}

/// Verifies a signature in the `Authorization` header.
pub(super) fn header(judge: &Judge<'_>, request: &Request, address: &Address) -> Result<(), OssError> {
    let value = request.header("authorization").unwrap_or_default();
    let fields = value.strip_prefix(ALGORITHM).and_then(|rest| rest.strip_prefix(' '));
    let fields = fields.ok_or_else(|| malformed("Authorization does not begin with the algorithm"))?;
    let (mut credential, mut additional, mut signature) = (None, None, None);
    for field in fields.split(',') {
        match field.trim().split_once('=') {
            Some(("Credential", value)) => credential = Some(value),
            Some(("AdditionalHeaders", value)) => additional = Some(value),
            Some(("Signature", value)) => signature = Some(value),
            _ => return Err(malformed(format!("Authorization has an unknown field {field:?}"))),
        }
    }
    let (access_key, scope) = split_credential(credential)?;
    if request.header("x-oss-content-sha256") != Some(PAYLOAD) {
        return Err(malformed("x-oss-content-sha256 is not UNSIGNED-PAYLOAD"));
    }
    let claim = Claim {
        access_key,
        scope,
        time: request.header("x-oss-date").ok_or_else(no_date)?,
        token: request.header("x-oss-security-token"),
        additional: additional_names(additional)?,
        signature: signature.ok_or_else(|| malformed("Authorization has no Signature"))?,
    };
    let signed = clock::parse_signing_date(claim.time).ok_or_else(no_date)?;
    judge.check_clock(signed)?;
    verify(judge, request, address, &claim)
}

/// Verifies a signed URL.
pub(super) fn query(judge: &Judge<'_>, request: &Request, address: &Address) -> Result<(), OssError> {
    if request.param("x-oss-signature-version") != Some(ALGORITHM) {
        return Err(malformed("x-oss-signature-version is unknown"));
    }
    let (access_key, scope) = split_credential(request.param("x-oss-credential"))?;
    let claim = Claim {
        access_key,
        scope,
        time: request.param("x-oss-date").ok_or_else(no_date)?,
        token: request.param("x-oss-security-token"),
        additional: additional_names(request.param("x-oss-additional-headers"))?,
        signature: request.param("x-oss-signature").ok_or_else(|| malformed("x-oss-signature is missing"))?,
    };
    let signed = clock::parse_signing_date(claim.time).ok_or_else(no_date)?;
    let expires = request.param("x-oss-expires").and_then(|value| value.parse::<i64>().ok());
    let expires = expires.filter(|seconds| (1..=MAX_EXPIRES).contains(seconds));
    let expires =
        expires.ok_or_else(|| malformed("x-oss-expires is not a number of seconds up to 604800"))?;
    if judge.now > signed + expires {
        return Err(OssError::of("AccessDenied").because("Request has expired."));
    }
    if judge.now < signed {
        judge.check_clock(signed)?;
    }
    verify(judge, request, address, &claim)
}

fn verify(
    judge: &Judge<'_>,
    request: &Request,
    address: &Address,
    claim: &Claim<'_>,
) -> Result<(), OssError> {
    let day = claim.time.get(..8).unwrap_or_default();
    let expected_scope = format!("{day}/{}/{PRODUCT}/{TERMINATOR}", judge.region);
    if claim.scope != expected_scope {
        let said = format!("Credential scope is {:?}, expected {expected_scope:?}", claim.scope);
        return Err(malformed(said));
    }
    let secret = judge.secret(claim.access_key, claim.token)?;
    let canonical = canonical_request(request, address, &claim.additional);
    let hash = hex::lower(&Sha256::digest(&canonical));
    let to_sign = format!("{ALGORITHM}\n{}\n{}\n{hash}", claim.time, claim.scope);
    let key = [day.as_bytes(), judge.region.as_bytes(), PRODUCT.as_bytes(), TERMINATOR.as_bytes()]
        .into_iter()
        .fold([b"aliyun_v4", secret.expose()].concat(), |key, part| hmac(&key, part));
    if hex::lower(&hmac(&key, to_sign.as_bytes())) == claim.signature {
        return Ok(());
    }
    Err(OssError::of("SignatureDoesNotMatch")
        .detail("OSSAccessKeyId", claim.access_key)
        .detail("SignatureProvided", claim.signature)
        .detail("StringToSignBytes", spaced_hex(to_sign.as_bytes()))
        .detail("StringToSign", to_sign)
        .detail("CanonicalRequest", canonical))
}

/// The six lines every byte of which is signed.
fn canonical_request(request: &Request, address: &Address, additional: &BTreeSet<&str>) -> String {
    let path = match (address.bucket.as_str(), address.key.as_str()) {
        ("", _) => "/".to_owned(),
        (bucket, key) => format!("/{bucket}/{key}"),
    };
    let mut query: Vec<(String, String)> = request
        .query
        .iter()
        .filter(|(name, _)| name != "x-oss-signature")
        .map(|(name, value)| (encode(name), encode(value)))
        .collect();
    query.sort();
    let query: Vec<String> = query
        .into_iter()
        .map(|(name, value)| if value.is_empty() { name } else { format!("{name}={value}") })
        .collect();
    let mut headers: Vec<&(String, String)> = request
        .headers
        .iter()
        .filter(|(name, _)| is_signed_by_default(name) || additional.contains(name.as_str()))
        .collect();
    headers.sort();
    let headers: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let names: Vec<&str> = additional.iter().copied().collect();
    format!(
        "{}\n{}\n{}\n{headers}\n{}\n{PAYLOAD}",
        request.method,
        utf8_percent_encode(&path, RESERVED_IN_PATH),
        query.join("&"),
        names.join(";"),
    )
}

/// Whether a header is part of every signature.
fn is_signed_by_default(name: &str) -> bool {
    name.starts_with("x-oss-") || name == "content-type" || name == "content-md5"
}

/// The names of the headers signed besides the default ones.
fn additional_names(field: Option<&str>) -> Result<BTreeSet<&str>, OssError> {
    let Some(names) = field else { return Ok(BTreeSet::new()) };
    if names.is_empty() {
        return Err(OssError { ec: "0002-00000209", ..malformed("AdditionalHeaders is empty") });
    }
    let list: Vec<&str> = names.split(';').collect();
    if list.contains(&"") {
        return Err(OssError { ec: "0002-00000210", ..malformed("AdditionalHeaders has an empty element") });
    }
    if !list.is_sorted() || names.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(malformed("AdditionalHeaders is not sorted lower case"));
    }
    Ok(list.into_iter().filter(|name| !is_signed_by_default(name)).collect())
}

fn split_credential(credential: Option<&str>) -> Result<(&str, &str), OssError> {
    credential
        .and_then(|value| value.split_once('/'))
        .ok_or_else(|| malformed("Credential is not <access key>/<scope>"))
}

fn no_date() -> OssError {
    OssError::of("AccessDenied").because("x-oss-date is missing or not of the form 20260102T030405Z.")
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

fn spaced_hex(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|&byte| hex::upper(&[byte])).collect();
    digits.join(" ")
}

fn hmac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return Vec::new() };
    mac.update(data);
    mac.finalize().into_bytes().to_vec()
}

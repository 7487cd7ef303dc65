//! An error reply of OSS: an XML document in the body, or base64 in the `x-oss-err` header where a reply has
//! no body (HEAD). Programs branch on `Code`; `EC` is finer, for people, and may change (help.aliyun.com
//! "error responses"). A document that cannot be read leaves the status and the first bytes of the body.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::errno::Errno;
use serde::Deserialize;

use crate::oss::proxy;

/// How much of an unreadable error body is kept for the message, bytes.
const EXCERPT_BYTES: usize = 256;
/// Codes for which new credentials may help. `InvalidAccessKeyId` is also the answer to an STS key that was
/// withdrawn.
const CREDENTIAL_CODES: [&str; 4] = [
    "InvalidAccessKeyId",
    "SecurityTokenExpired",
    "InvalidSecurityToken",
    "AccessKeyIdAndSecurityTokenNotMatch",
];

/// OSS refused or failed a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceError {
    /// HTTP method.
    pub operation: &'static str,
    /// `oss://bucket/key`.
    pub target: String,
    /// HTTP status.
    pub status: u16,
    /// `Code`, or `BadErrorResponse` when there was none (as the SDKs name it).
    pub code: String,
    /// `Message`.
    pub message: String,
    /// `x-oss-request-id`, what Alibaba's support asks for; may be empty.
    pub request_id: String,
    /// `EC`; may be empty.
    pub ec: String,
    /// The proxy, if the reply is its own and not of OSS.
    pub(in crate::oss) proxy: Option<String>,
    /// `Date` of the reply, for the correction of the clock.
    pub(in crate::oss) date: Option<String>,
    /// What OSS signed, to compare with our own.
    string_to_sign: Option<String>,
}

/// What of a reply an error is made from, whichever way the reply was received.
#[derive(Debug, Default, Clone)]
pub(in crate::oss) struct ReplyFacts<'a> {
    pub(in crate::oss) status: u16,
    /// `x-oss-request-id`.
    pub(in crate::oss) request_id: Option<&'a str>,
    /// `x-oss-ec`.
    pub(in crate::oss) ec: Option<&'a str>,
    /// `x-oss-err`.
    pub(in crate::oss) err: Option<&'a str>,
    /// `Date`.
    pub(in crate::oss) date: Option<&'a str>,
    /// As [`ServiceError::proxy`].
    pub(in crate::oss) proxy: Option<String>,
    pub(in crate::oss) body: &'a [u8],
}

/// The error document. All fields may be missing.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Document {
    code: String,
    message: String,
    request_id: String,
    #[serde(rename = "EC")]
    ec: String,
    string_to_sign: Option<String>,
    endpoint: Option<String>,
}

impl ServiceError {
    pub(in crate::oss) fn new(operation: &'static str, target: &str, facts: &ReplyFacts<'_>) -> Self {
        let from_header = facts.err.and_then(|err| STANDARD.decode(err).ok());
        let text = String::from_utf8_lossy(from_header.as_deref().unwrap_or(facts.body));
        let document: Document =
            quick_xml::de::from_str(&text).ok().filter(|d: &Document| !d.code.is_empty()).unwrap_or_default();
        let bad = document.code.is_empty();
        let mut message = if bad { printable(excerpt(&text)) } else { printable(&document.message) };
        if let Some(endpoint) = document.endpoint {
            message = format!("{message} (endpoint of the bucket: {})", printable(&endpoint));
        }
        let header_or = |header: Option<&str>, other: String| printable(header.unwrap_or(&other));
        Self {
            operation,
            target: target.to_owned(),
            status: facts.status,
            code: if bad { "BadErrorResponse".to_owned() } else { printable(&document.code) },
            message,
            request_id: header_or(facts.request_id, document.request_id),
            ec: header_or(facts.ec, document.ec),
            proxy: facts.proxy.clone(),
            date: facts.date.map(str::to_owned),
            string_to_sign: document.string_to_sign,
        }
    }

    /// Whether it was not OSS that answered but the proxy before it.
    #[must_use]
    pub fn is_of_proxy(&self) -> bool {
        self.proxy.is_some()
    }

    pub(super) fn is_retryable(&self) -> bool {
        let status = matches!(self.status, 401 | 408 | 429) || self.status >= 500;
        let code = matches!(self.code.as_str(), "RequestTimeTooSkewed" | "BadRequest" | "RequestTimeout");
        status || code || self.is_slow_down()
    }

    pub(super) fn is_slow_down(&self) -> bool {
        let limits = ["DownloadTrafficRateLimitExceeded", "ActiveRequestLimitExceeded"];
        self.status == 429 || self.code.contains("QpsLimitExceeded") || limits.contains(&self.code.as_str())
    }

    pub(super) fn is_expired_credentials(&self) -> bool {
        CREDENTIAL_CODES.contains(&self.code.as_str())
    }

    pub(super) fn is_changed(&self) -> bool {
        let missing = self.status == 404 && self.code != "NoSuchBucket";
        self.proxy.is_none() && (self.status == 412 || missing)
    }

    /// Whether the clock, not the key, is at fault.
    pub(in crate::oss) fn is_skewed_clock(&self) -> bool {
        self.code == "RequestTimeTooSkewed"
    }

    pub(super) fn errno(&self) -> Errno {
        match self.status {
            _ if self.proxy.is_some() => Errno::EIO,
            401 | 403 => Errno::EACCES,
            404 => Errno::ENOENT,
            412 => Errno::ESTALE,
            _ => Errno::EIO,
        }
    }

    /// The text OSS signed, without the token, for the debug log; only with `SignatureDoesNotMatch`.
    pub(in crate::oss) fn string_to_sign(&self) -> Option<String> {
        let masked = |line: &str| match line.split_once(':') {
            Some(("x-oss-security-token", _)) => "x-oss-security-token:***".to_owned(),
            _ => line.to_owned(),
        };
        self.string_to_sign.as_ref().map(|text| text.lines().map(masked).collect::<Vec<_>>().join("\n"))
    }

    /// What to do, for the codes people meet.
    fn advice(&self) -> &'static str {
        if self.proxy.is_some() {
            return proxy::advice(self.status).trim_start_matches("; ");
        }
        match self.code.as_str() {
            "AccessDenied" => {
                "the credentials need oss:GetObject and oss:ListObjects on this path; without credentials the \
                 bucket must be public; the endpoint must be that of the bucket's region"
            }
            "NoSuchBucket" => "check the bucket of OSS_PATH and that the endpoint is of its region",
            "NoSuchKey" => "the object does not exist (any more)",
            "InvalidAccessKeyId" => {
                "the access key id is unknown or disabled, or its security token is missing"
            }
            "SignatureDoesNotMatch" => {
                "check the access key secret and the region; log level debug shows what OSS signed"
            }
            "SecurityTokenExpired" => "renew the temporary credentials",
            "InvalidSecurityToken" | "AccessKeyIdAndSecurityTokenNotMatch" => {
                "access key and security token must come from the same STS reply"
            }
            "SecondLevelDomainForbidden" => {
                "OSS wants the bucket in the host name: give the endpoint by name, not by IP address"
            }
            "InvalidObjectState" => "the object is archived: restore it first",
            "UserDisable" | "InDebt" | "BucketDisable" => {
                "OSS has closed the account or bucket, often for an unpaid bill"
            }
            "PreconditionFailed" => "the object was replaced during the load: load again",
            _ => "",
        }
    }
}

impl std::error::Error for ServiceError {}

impl fmt::Display for ServiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = self.proxy.as_deref().unwrap_or("OSS");
        write!(f, "{} {}: {by} answered {} {}", self.operation, self.target, self.status, self.code)?;
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        write!(f, " (request id {}", if self.request_id.is_empty() { "none" } else { &self.request_id })?;
        if !self.ec.is_empty() {
            write!(f, ", EC {}", self.ec)?;
        }
        f.write_str(")")?;
        match self.advice() {
            "" => Ok(()),
            advice => write!(f, "; {advice}"),
        }
    }
}

/// The beginning of a body that is no error document.
fn excerpt(text: &str) -> &str {
    &text[..text.floor_char_boundary(EXCERPT_BYTES)]
}

/// A text from outside in one line, so that it cannot forge lines of the log.
pub(in crate::oss) fn printable(text: &str) -> String {
    let spaced: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    spaced.trim().to_owned()
}

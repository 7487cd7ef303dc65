//! OSS errors: the table of codes, and the XML document that carries one.
//!
//! Each error knows its HTTP status, message and EC number. Replies to HEAD have no body, so the same document then
//! travels base64-encoded in the header `x-oss-err`.

use std::borrow::Cow;

use crate::xml::{self, Element};

/// Code, HTTP status, message, EC. Statuses and codes: OSS "error codes" pages; the EC is for humans and not relied on.
const CODES: &[(&str, u16, &str, &str)] = &[
    ("AccessDenied", 403, "You have no right to access this object because of bucket acl.", "0003-00000001"),
    (
        "AccessKeyIdAndSecurityTokenNotMatch",
        403,
        "The access key and the security token do not match.",
        "0002-00000061",
    ),
    ("ActiveRequestLimitExceeded", 503, "Too many active requests.", "0005-00000201"),
    ("BadRequest", 400, "The request is malformed.", "0017-00000001"),
    ("BucketDisable", 403, "The bucket is disabled.", "0003-00000901"),
    ("DownloadTrafficRateLimitExceeded", 503, "Download traffic rate limit exceeded.", "0005-00000101"),
    ("InDebt", 403, "The account is in debt.", "0003-00000902"),
    ("InternalError", 500, "We encountered an internal error. Please try again.", "0004-00000001"),
    (
        "InvalidAccessKeyId",
        403,
        "The OSS Access Key Id you provided does not exist in our records.",
        "0002-00000902",
    ),
    ("InvalidArgument", 400, "An argument is not valid.", "0017-00000901"),
    ("InvalidObjectName", 400, "The specified object is not valid.", "0016-00000001"),
    ("InvalidObjectState", 403, "The operation is not valid for the object's state.", "0007-00000001"),
    ("InvalidRange", 416, "The requested range cannot be satisfied.", "0026-00000024"),
    ("InvalidSecurityToken", 403, "The security token you provided is invalid.", "0002-00000065"),
    ("MetaOperationQpsLimitExceeded", 503, "Meta operation QPS limit exceeded.", "0005-00000302"),
    ("MethodNotAllowed", 405, "The specified method is not allowed against this resource.", "0016-00000501"),
    ("NoSuchBucket", 404, "The specified bucket does not exist.", "0015-00000101"),
    ("NoSuchKey", 404, "The specified key does not exist.", "0026-00000001"),
    (
        "PreconditionFailed",
        412,
        "At least one of the pre-conditions you specified did not hold.",
        "0026-00000031",
    ),
    ("QpsLimitExceeded", 503, "QPS limit exceeded.", "0005-00000301"),
    (
        "RequestTimeTooSkewed",
        403,
        "The difference between the request time and the current time is too large.",
        "0002-00000504",
    ),
    (
        "RequestTimeout",
        400,
        "Your socket connection was not read from within the timeout period.",
        "0027-00000001",
    ),
    ("SecondLevelDomainForbidden", 403, "Please use virtual hosted style to access.", "0048-00000003"),
    ("SecurityTokenExpired", 403, "The security token you provided has expired.", "0002-00000069"),
    ("ServiceUnavailable", 503, "The thread pool is almost full. Please retry later.", "0005-00000901"),
    (
        "SignatureDoesNotMatch",
        403,
        "The request signature we calculated does not match the signature you provided. Check your key and signing method.",
        "0002-00000201",
    ),
    ("SymlinkTargetNotExist", 404, "The target of the symlink does not exist.", "0026-00000011"),
    ("TotalQpsLimitExceeded", 503, "Total QPS limit exceeded.", "0005-00000303"),
    ("UserDisable", 403, "The account is disabled.", "0003-00000801"),
];

/// EC of codes that are not in the table.
const OTHER_EC: &str = "0099-00000001";

/// One error reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OssError {
    /// HTTP status.
    pub(crate) status: u16,
    /// The `Code` element, on which clients branch.
    pub(crate) code: Cow<'static, str>,
    /// The `Message` element.
    pub(crate) message: Cow<'static, str>,
    /// The `EC` element and `x-oss-ec` header.
    pub(crate) ec: &'static str,
    /// Further elements, such as `StringToSign`.
    pub(crate) details: Vec<(&'static str, String)>,
}

impl OssError {
    /// The error with this code, with the status and message OSS gives it; an unknown code is a 400.
    pub(crate) fn of(code: &'static str) -> Self {
        let known = CODES.iter().find(|(known, ..)| *known == code);
        Self::with_status(known.map_or(400, |entry| entry.1), code)
    }

    /// The error with this code under a status of choice.
    pub(crate) fn with_status(status: u16, code: impl Into<Cow<'static, str>>) -> Self {
        let code = code.into();
        let known = CODES.iter().find(|(known, ..)| *known == code);
        let (message, ec) = known.map_or(("The request failed.", OTHER_EC), |entry| (entry.2, entry.3));
        Self { status, code, message: message.into(), ec, details: Vec::new() }
    }

    /// The same error with a message that says more.
    pub(crate) fn because(mut self, message: impl Into<Cow<'static, str>>) -> Self {
        self.message = message.into();
        self
    }

    /// The same error with one more element.
    pub(crate) fn detail(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.details.push((name, value.into()));
        self
    }

    /// The document of this error.
    pub(crate) fn document(&self, request_id: &str, host: &str) -> String {
        let mut root = Element::new("Error")
            .text("Code", &self.code)
            .text("Message", &self.message)
            .text("RequestId", request_id)
            .text("HostId", host);
        for (name, value) in &self.details {
            root = root.text(name, value);
        }
        let help = format!("https://api.aliyun.com/troubleshoot?q={}", self.ec);
        xml::document(root.text("EC", self.ec).text("RecommendDoc", &help))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_the_elements_of_oss() {
        let text = OssError::of("NoSuchKey").detail("Key", "a<b").document("57ABD896CCB80C366955AAAA", "h");
        assert!(
            text.starts_with("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>NoSuchKey</Code>")
        );
        assert!(
            text.contains(
                "<RequestId>57ABD896CCB80C366955AAAA</RequestId><HostId>h</HostId><Key>a&lt;b</Key>"
            )
        );
        assert!(text.contains("<EC>0026-00000001</EC>") && text.ends_with("</Error>"));
    }

    #[test]
    fn codes_have_their_status_and_others_the_given_one() {
        assert_eq!(OssError::of("QpsLimitExceeded").status, 503);
        assert_eq!(OssError::with_status(500, "QpsLimitExceeded").status, 500);
        assert_eq!(OssError::with_status(599, "Unheard").status, 599);
    }
}

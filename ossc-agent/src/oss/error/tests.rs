//! Reading of error replies and their classes. The table repeats the one of the error codes in the official
//! documentation (help.aliyun.com "HTTP status code 403", "503") and the retry policy of the SDKs, with the
//! errno a reader gets.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;

const NO_SUCH_KEY: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error xmlns=\"http://doc.oss\">\
    <Code>NoSuchKey</Code><Message>The specified key does not exist.</Message>\
    <RequestId>57ABD896CCB80C366955AAAA</RequestId><HostId>b.oss-cn-hangzhou.aliyuncs.com</HostId>\
    <Key>a.gguf</Key><EC>0026-00000001</EC></Error>";

fn parse(facts: &ReplyFacts<'_>) -> ServiceError {
    ServiceError::new("GET", "oss://b/a.gguf", facts)
}

fn coded(status: u16, code: &str) -> Error {
    let body = format!("<Error><Code>{code}</Code></Error>");
    Error::Service(Box::new(parse(&ReplyFacts { status, body: body.as_bytes(), ..ReplyFacts::default() })))
}

#[test]
fn reads_a_document_from_body_or_header() {
    let header = STANDARD.encode(NO_SUCH_KEY);
    for facts in [
        ReplyFacts { status: 404, body: NO_SUCH_KEY.as_bytes(), ..ReplyFacts::default() },
        ReplyFacts { status: 404, err: Some(&header), ..ReplyFacts::default() },
    ] {
        assert_eq!(
            parse(&facts).to_string(),
            "GET oss://b/a.gguf: OSS answered 404 NoSuchKey: The specified key does not exist. \
             (request id 57ABD896CCB80C366955AAAA, EC 0026-00000001); the object does not exist (any more)"
        );
    }
}

#[test]
fn keeps_status_headers_and_the_start_of_an_unreadable_body() {
    let body = format!("<html>\r\n{}", "é".repeat(300));
    let error = parse(&ReplyFacts {
        status: 502,
        request_id: Some("RID"),
        ec: Some("0001"),
        body: body.as_bytes(),
        ..ReplyFacts::default()
    });
    assert_eq!(
        (error.code.as_str(), error.request_id.as_str(), error.ec.as_str()),
        ("BadErrorResponse", "RID", "0001")
    );
    assert!(error.message.starts_with("<html>") && error.message.len() <= 256, "{}", error.message);
}

#[test]
fn classes_follow_the_table() {
    // status, code, retry, slow down, expired, changed, errno
    let cases = [
        (400, "InvalidArgument", false, false, false, false, Errno::EIO),
        (400, "BadRequest", true, false, false, false, Errno::EIO),
        (400, "RequestTimeout", true, false, false, false, Errno::EIO),
        (403, "AccessDenied", false, false, false, false, Errno::EACCES),
        (403, "SignatureDoesNotMatch", false, false, false, false, Errno::EACCES),
        (403, "RequestTimeTooSkewed", true, false, false, false, Errno::EACCES),
        (403, "InvalidAccessKeyId", false, false, true, false, Errno::EACCES),
        (403, "SecurityTokenExpired", false, false, true, false, Errno::EACCES),
        (403, "InvalidSecurityToken", false, false, true, false, Errno::EACCES),
        (403, "AccessKeyIdAndSecurityTokenNotMatch", false, false, true, false, Errno::EACCES),
        (403, "InvalidObjectState", false, false, false, false, Errno::EACCES),
        (404, "NoSuchKey", false, false, false, true, Errno::ENOENT),
        (404, "NoSuchBucket", false, false, false, false, Errno::ENOENT),
        (412, "PreconditionFailed", false, false, false, true, Errno::ESTALE),
        (416, "InvalidRange", false, false, false, false, Errno::EIO),
        (429, "TooManyRequests", true, true, false, false, Errno::EIO),
        (500, "InternalError", true, false, false, false, Errno::EIO),
        (503, "ServiceUnavailable", true, false, false, false, Errno::EIO),
        (503, "TotalQpsLimitExceeded", true, true, false, false, Errno::EIO),
        (503, "MetaOperationQpsLimitExceeded", true, true, false, false, Errno::EIO),
        (503, "DownloadTrafficRateLimitExceeded", true, true, false, false, Errno::EIO),
        (503, "ActiveRequestLimitExceeded", true, true, false, false, Errno::EIO),
    ];
    for (status, code, retry, slow, expired, changed, errno) in cases {
        let error = coded(status, code);
        assert_eq!(error.is_retryable(), retry, "{code} retry");
        assert_eq!(error.is_slow_down(), slow, "{code} slow down");
        assert_eq!(error.is_expired_credentials(), expired, "{code} expired");
        assert_eq!(error.is_changed(), changed, "{code} changed");
        assert_eq!(error.errno(), errno, "{code} errno");
    }
}

#[test]
fn the_text_signed_is_kept_without_its_token() {
    let body = "<Error><Code>SignatureDoesNotMatch</Code>\
        <StringToSign>GET\n\nx-oss-security-token:secret\n/b/k</StringToSign></Error>";
    let error = parse(&ReplyFacts { status: 403, body: body.as_bytes(), ..ReplyFacts::default() });
    assert_eq!(error.string_to_sign().as_deref(), Some("GET\n\nx-oss-security-token:***\n/b/k"));
}

#[test]
fn a_wrong_endpoint_names_the_right_one() {
    let body = "<Error><Code>AccessDenied</Code><Message>must be addressed using the specified endpoint\
        </Message><Endpoint>oss-cn-beijing.aliyuncs.com</Endpoint></Error>";
    let error = parse(&ReplyFacts { status: 403, body: body.as_bytes(), ..ReplyFacts::default() });
    assert!(error.message.ends_with("(endpoint of the bucket: oss-cn-beijing.aliyuncs.com)"), "{error}");
}

#[test]
fn a_reply_cannot_forge_lines_of_the_log() {
    let body = "<Error><Code>A&#10;B</Code><Message>m&#13;&#10;n</Message><EC>&#27;[0m</EC></Error>";
    let error = parse(&ReplyFacts { status: 400, body: body.as_bytes(), ..ReplyFacts::default() });
    assert!(!error.to_string().contains(char::is_control), "{error:?}");
}

//! The signers against values the official SDKs produced with a frozen clock: `alibabacloud-oss-v2` 1.4.1
//! (called py2 below) and `oss2` 2.19.1. An independent check made from the official description of the
//! signatures accepts all of them.

use std::time::Duration;

use sha2::{Digest, Sha256};

use super::*;
use crate::oss::credentials::Secret;

const KEY_ID: &str = "AKIDTESTEXAMPLE0001";
const SECRET: &str = "SKTESTEXAMPLESECRET0001";
const TOKEN: &str = "CAISexample/Token+value==";
const BUCKET: &str = "examplebucket";
const REGION: &str = "cn-hangzhou";
const SHARD: &str = "models/qwen/model-00001-of-00002.safetensors";
const UTF8_KEY: &str = "dir a/模型+v1 (q4_k_m)~!*'.gguf";
const RANGE_BEHAVIOR: (&str, &str) = ("x-oss-range-behavior", "standard");

/// 2026-01-02T03:04:05Z.
fn frozen() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045)
}

fn credentials(token: Option<&str>) -> Credentials {
    Credentials {
        access_key_id: KEY_ID.to_owned(),
        access_key_secret: Secret::new(SECRET),
        security_token: token.map(Secret::new),
        expiration: None,
    }
}

fn request<'a>(
    method: &'a str,
    key: &'a str,
    query: &'a [(&'a str, &'a str)],
    headers: &'a [(&'a str, &'a str)],
) -> Request<'a> {
    Request { method, bucket: BUCKET, key, query, headers }
}

fn authorization(headers: &[Header]) -> &str {
    headers.iter().find(|(name, _)| *name == "authorization").map(|(_, value)| value.as_str()).unwrap()
}

/// The list request of oss2, as it goes over the wire, with empty values.
const OSS2_LIST: [(&str, &str); 8] = [
    ("list-type", "2"),
    ("prefix", "models/qwen 2/"),
    ("delimiter", ""),
    ("continuation-token", "ChR+abc/def=="),
    ("start-after", ""),
    ("fetch-owner", "false"),
    ("max-keys", "1000"),
    ("encoding-type", "url"),
];

struct V4Case {
    name: &'static str,
    request: Request<'static>,
    token: Option<&'static str>,
    canonical: Option<&'static str>,
    canonical_hash: Option<&'static str>,
    signature: &'static str,
}

fn v4_cases() -> Vec<V4Case> {
    const LIST: [(&str, &str); 5] = [
        ("encoding-type", "url"),
        ("list-type", "2"),
        ("continuation-token", "ChR+abc/def=="),
        ("max-keys", "1000"),
        ("prefix", "models/qwen 2/"),
    ];
    const CONTENT: [(&str, &str); 2] =
        [("content-type", "application/octet-stream"), ("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==")];
    let request = |method, key, query, headers| Request { method, bucket: BUCKET, key, query, headers };
    vec![
        V4Case {
            name: "V4-1 ranged get of py2 and oss2",
            request: request("GET", SHARD, &[], &[("range", "bytes=0-8388607"), RANGE_BEHAVIOR]),
            token: None,
            canonical: Some(
                "GET\n/examplebucket/models/qwen/model-00001-of-00002.safetensors\n\n\
                 x-oss-content-sha256:UNSIGNED-PAYLOAD\nx-oss-date:20260102T030405Z\n\
                 x-oss-range-behavior:standard\n\n\nUNSIGNED-PAYLOAD",
            ),
            canonical_hash: Some("2a13736fe8756642e7f7edbe7eb6a827aaf63575f592fafc90a011f304e76fa6"),
            signature: "65702c23637d50a6263dee54d876729fde305e99f5602763bd67f582a9e1bf0f",
        },
        V4Case {
            name: "V4-2 token and a key of all kinds of characters",
            request: request(
                "GET",
                UTF8_KEY,
                &[],
                &[("range", "bytes=100-"), ("if-match", "\"5B3C1A2E053D763E1B002CC607C5A0FE\"")],
            ),
            token: Some(TOKEN),
            canonical: Some(
                "GET\n/examplebucket/dir%20a/%E6%A8%A1%E5%9E%8B%2Bv1%20%28q4_k_m%29~%21%2A%27.gguf\n\n\
                 x-oss-content-sha256:UNSIGNED-PAYLOAD\nx-oss-date:20260102T030405Z\n\
                 x-oss-security-token:CAISexample/Token+value==\n\n\nUNSIGNED-PAYLOAD",
            ),
            canonical_hash: Some("708fd017ef6ee0842cebe95668d50ada0dfff43481b1541faa46516ff7980cbf"),
            signature: "b44db713aaad19fa96df6cb5aeefa01d7457ba3a0424b86bc179fea7a4c55e65",
        },
        V4Case {
            name: "V4-3 list of py2, with content headers",
            request: request("GET", "", &LIST, &CONTENT),
            token: None,
            canonical: Some(
                "GET\n/examplebucket/\ncontinuation-token=ChR%2Babc%2Fdef%3D%3D&encoding-type=url&\
                 list-type=2&max-keys=1000&prefix=models%2Fqwen%202%2F\n\
                 content-md5:1B2M2Y8AsgTpgAmY7PhCfg==\ncontent-type:application/octet-stream\n\
                 x-oss-content-sha256:UNSIGNED-PAYLOAD\nx-oss-date:20260102T030405Z\n\n\nUNSIGNED-PAYLOAD",
            ),
            canonical_hash: Some("39b60b7835a8f4bdeaf8ea29a8ccda2a45b8d19767712a676616ea4ffcbab494"),
            signature: "e52eeba7507fc2b8a5d6478261de0a16526400754635a6e986b310d488745531",
        },
        V4Case {
            name: "V4-3b list of oss2, with empty values",
            request: request("GET", "", &OSS2_LIST, &[]),
            token: None,
            canonical: None,
            canonical_hash: Some("3f54841efdfc88191b2db1aa7d396e4840f2978ffc663b84fdddbb5195b984b4"),
            signature: "4cd868e6602f6a41cc326d16ca3cec42afc1c5f1ba248793d068b0d125856cc8",
        },
        V4Case {
            name: "V4-4, V4-5, V4-7 head, the same by IP address, by CNAME and by virtual host",
            request: request("HEAD", "a/b.gguf", &[], &[]),
            token: None,
            canonical: Some(
                "HEAD\n/examplebucket/a/b.gguf\n\nx-oss-content-sha256:UNSIGNED-PAYLOAD\n\
                 x-oss-date:20260102T030405Z\n\n\nUNSIGNED-PAYLOAD",
            ),
            canonical_hash: Some("581d9db64c71817828b70e3b2d29e6a24dafd0c38c0e52824a374affe4f1fd29"),
            signature: "903e298d52022f65b8f9a36f0606ad8e423d686454372cce77ace2f8e1a7154a",
        },
        V4Case {
            name: "V4-6 ranged get without range behaviour",
            request: request("GET", "a/b.gguf", &[], &[("range", "bytes=0-99")]),
            token: None,
            canonical: None,
            canonical_hash: None,
            signature: "f0de8af3dba2514d431ed1d304c6aa020e532882688137ab5e6f3eeaece17af0",
        },
    ]
}

#[test]
fn v4_agrees_with_the_sdks() {
    for case in v4_cases() {
        let signer = Signer::new(Some(REGION));
        let added = signer.sign(&case.request, &credentials(case.token), frozen()).unwrap();
        assert_eq!(
            authorization(&added),
            format!(
                "OSS4-HMAC-SHA256 Credential={KEY_ID}/20260102/cn-hangzhou/oss/aliyun_v4_request,Signature={}",
                case.signature
            ),
            "{}",
            case.name
        );
        let headers: Vec<(&str, &str)> = case
            .request
            .headers
            .iter()
            .copied()
            .chain(added.iter().map(|(name, value)| (*name, value.as_str())))
            .filter(|(name, _)| *name != "authorization")
            .collect();
        let canonical = v4::canonical_request(&Request { headers: &headers, ..case.request }, &[]);
        if let Some(expected) = case.canonical {
            assert_eq!(canonical.as_str(), expected, "{}", case.name);
        }
        if let Some(expected) = case.canonical_hash {
            assert_eq!(sha256_hex(&canonical), expected, "{}", case.name);
        }
    }
}

#[test]
fn v4_8_signs_additional_headers_that_are_present() {
    let headers = [
        ("host", "examplebucket.oss-cn-hangzhou.aliyuncs.com"),
        ("range", "bytes=0-99"),
        ("x-oss-content-sha256", v4::UNSIGNED_PAYLOAD),
        ("x-oss-date", "20260102T030405Z"),
    ];
    let canonical = v4::canonical_request(
        &request("GET", "a/b.gguf", &[], &headers),
        &["range", "host", "if-match", "x-oss-date"],
    );
    assert_eq!(
        canonical.as_str(),
        "GET\n/examplebucket/a/b.gguf\n\nhost:examplebucket.oss-cn-hangzhou.aliyuncs.com\nrange:bytes=0-99\n\
         x-oss-content-sha256:UNSIGNED-PAYLOAD\nx-oss-date:20260102T030405Z\n\nhost;range\nUNSIGNED-PAYLOAD"
    );
    assert_eq!(sha256_hex(&canonical), "a162d90ce640ea024310a8d3cc0a898609f97751309179d207b6a9fe991cedc1");
    assert_eq!(v4_signature(&canonical), "e6bd8579a82ca9395ed8e1387ffadc2d160510855c0f65bd226f57fb0cedfb1b");
}

#[test]
fn v4_9_canonical_request_covers_the_query_form() {
    let credential = format!("{KEY_ID}/20260102/cn-hangzhou/oss/aliyun_v4_request");
    let query = [
        ("x-oss-signature-version", v4::ALGORITHM),
        ("x-oss-date", "20260102T030405Z"),
        ("x-oss-expires", "3600"),
        ("x-oss-credential", credential.as_str()),
    ];
    let canonical = v4::canonical_request(&request("GET", "a/b.gguf", &query, &[]), &[]);
    assert_eq!(v4_signature(&canonical), "7f43f98f35efc2bd0c43e8f16dae84809f2b75837aba19557b27c5c3d7fd547d");
}

fn v4_signature(canonical: &str) -> String {
    let scope = v4::Scope::new(frozen(), REGION).unwrap();
    assert_eq!(scope.time, "20260102T030405Z");
    v4::signature(&scope, &Secret::new(SECRET), &v4::string_to_sign(&scope, canonical)).unwrap()
}

fn sha256_hex(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn v1_agrees_with_the_sdks() {
    let cases = [
        (
            "V1-A ranged get of oss2 and py2",
            request("GET", SHARD, &[], &[("range", "bytes=0-8388607"), RANGE_BEHAVIOR]),
            None,
            "GET\n\n\nFri, 02 Jan 2026 03:04:05 GMT\nx-oss-range-behavior:standard\n\
             /examplebucket/models/qwen/model-00001-of-00002.safetensors",
            "nZTAKoz766Z0Y7E2qnd93LQvTm0=",
        ),
        (
            "V1-B token and a raw UTF-8 key",
            request("GET", "dir a/模型+v1.gguf", &[], &[]),
            Some(TOKEN),
            "GET\n\n\nFri, 02 Jan 2026 03:04:05 GMT\nx-oss-security-token:CAISexample/Token+value==\n\
             /examplebucket/dir a/模型+v1.gguf",
            "kazYFEmJtro2uAc3PxObtfX/Cbc=",
        ),
        (
            "V1-C list",
            request("GET", "", &OSS2_LIST, &[]),
            None,
            "GET\n\n\nFri, 02 Jan 2026 03:04:05 GMT\n/examplebucket/?continuation-token=ChR+abc/def==",
            "66WXvcndMLQGw31+st5hREgW5c0=",
        ),
        (
            "V1-D head",
            request("HEAD", "a/b.gguf", &[], &[]),
            None,
            "HEAD\n\n\nFri, 02 Jan 2026 03:04:05 GMT\n/examplebucket/a/b.gguf",
            "dGzH97gSYIHJFhwDWZShWuPX/6I=",
        ),
    ];
    for (name, request, token, text, signature) in cases {
        let added = Signer::new(None).sign(&request, &credentials(token), frozen()).unwrap();
        assert_eq!(authorization(&added), format!("OSS {KEY_ID}:{signature}"), "{name}");
        let headers: Vec<(&str, &str)> = request
            .headers
            .iter()
            .copied()
            .chain(added.iter().map(|(name, value)| (*name, value.as_str())))
            .collect();
        let signed =
            v1::string_to_sign(&Request { headers: &headers, ..request }, &httpdate::fmt_http_date(frozen()));
        assert_eq!(signed.as_str(), text, "{name}");
    }
}

#[test]
fn v1_e_text_covers_the_query_form() {
    // The query form puts the time of expiry where the header form has the date.
    let text = v1::string_to_sign(&request("GET", "a/b.gguf", &[], &[]), "1767326645");
    assert_eq!(v1::signature(&Secret::new(SECRET), &text).unwrap(), "toZUUm5hGZVt/g5esQkbGbuYUKU=");
}

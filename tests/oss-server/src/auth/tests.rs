//! The signature vectors: requests signed by the official SDKs with a frozen clock. All must be accepted, and none
//! after any change to what was signed.

use super::*;
use crate::address;

const AK: &str = "AKIDTESTEXAMPLE0001";
const SK: &str = "SKTESTEXAMPLESECRET0001";
const TOKEN: &str = "CAISexample/Token+value==";
const BUCKET: &str = "examplebucket";
const HOST: &str = "examplebucket.oss-cn-hangzhou.aliyuncs.com";
/// 2026-01-02T03:04:05Z
const NOW: i64 = 1_767_323_045;
const DATE: &str = "Fri, 02 Jan 2026 03:04:05 GMT";
const V4_DATE: &str = "20260102T030405Z";
const SCOPE: &str = "20260102/cn-hangzhou/oss/aliyun_v4_request";
const SAFETENSORS: &str = "/models/qwen/model-00001-of-00002.safetensors";

struct Vector {
    name: &'static str,
    request: Request,
    /// What the canonical request or the string to sign contains, as the SDKs printed it.
    token: bool,
}

fn request(method: &str, host: &str, target: &str, headers: &[(&str, &str)]) -> Request {
    let all = [("Host", host)].into_iter().chain(headers.iter().copied());
    Request::new(method, target, all.map(|(name, value)| (name, value.as_bytes())))
}

fn v4(method: &str, host: &str, target: &str, tail: &str, headers: &[(&str, &str)]) -> Request {
    let authorization = format!("OSS4-HMAC-SHA256 Credential={AK}/{SCOPE},{tail}");
    let own = [
        ("x-oss-date", V4_DATE),
        ("x-oss-content-sha256", "UNSIGNED-PAYLOAD"),
        ("Authorization", authorization.as_str()),
    ];
    request(method, host, target, &[&own, headers].concat())
}

fn v1(method: &str, target: &str, signature: &str, headers: &[(&str, &str)]) -> Request {
    let authorization = format!("OSS {AK}:{signature}");
    let own = [("Date", DATE), ("Authorization", authorization.as_str())];
    request(method, HOST, target, &[&own, headers].concat())
}

fn vectors() -> Vec<Vector> {
    let plain = |name, request| Vector { name, request, token: false };
    let head = "Signature=903e298d52022f65b8f9a36f0606ad8e423d686454372cce77ace2f8e1a7154a";
    let oss2_list = "/?list-type=2&prefix=models%2Fqwen+2%2F&delimiter=&continuation-token=ChR%2Babc%2Fdef%3D%3D\
        &start-after=&fetch-owner=false&max-keys=1000&encoding-type=url";
    vec![
        plain(
            "V4-1",
            v4(
                "GET",
                HOST,
                SAFETENSORS,
                "Signature=65702c23637d50a6263dee54d876729fde305e99f5602763bd67f582a9e1bf0f",
                &[("Range", "bytes=0-8388607"), ("x-oss-range-behavior", "standard")],
            ),
        ),
        Vector {
            name: "V4-2",
            request: v4(
                "GET",
                HOST,
                "/dir%20a/%E6%A8%A1%E5%9E%8B%2Bv1%20%28q4_k_m%29~%21%2A%27.gguf",
                "Signature=b44db713aaad19fa96df6cb5aeefa01d7457ba3a0424b86bc179fea7a4c55e65",
                &[
                    ("x-oss-security-token", TOKEN),
                    ("Range", "bytes=100-"),
                    ("If-Match", "\"5B3C1A2E053D763E1B002CC607C5A0FE\""),
                ],
            ),
            token: true,
        },
        plain(
            "V4-3",
            v4(
                "GET",
                HOST,
                "/?encoding-type=url&list-type=2&continuation-token=ChR%2Babc%2Fdef%3D%3D&max-keys=1000\
                 &prefix=models%2Fqwen%202%2F",
                "Signature=e52eeba7507fc2b8a5d6478261de0a16526400754635a6e986b310d488745531",
                &[("Content-Type", "application/octet-stream"), ("Content-MD5", "1B2M2Y8AsgTpgAmY7PhCfg==")],
            ),
        ),
        plain(
            "V4-3b",
            v4(
                "GET",
                HOST,
                oss2_list,
                " Signature=4cd868e6602f6a41cc326d16ca3cec42afc1c5f1ba248793d068b0d125856cc8",
                &[],
            ),
        ),
        plain("V4-4", v4("HEAD", "127.0.0.1:9000", "/examplebucket/a/b.gguf", head, &[])),
        plain("V4-5", v4("HEAD", "oss.example.com", "/a/b.gguf", head, &[])),
        plain("V4-7", v4("HEAD", "examplebucket.localhost:9000", "/a/b.gguf", head, &[])),
        plain("V4-7 with an encoded slash", v4("HEAD", HOST, "/a%2Fb.gguf", head, &[])),
        plain(
            "V4-6",
            v4(
                "GET",
                HOST,
                "/a/b.gguf",
                "Signature=f0de8af3dba2514d431ed1d304c6aa020e532882688137ab5e6f3eeaece17af0",
                &[("Range", "bytes=0-99")],
            ),
        ),
        plain(
            "V4-8",
            v4(
                "GET",
                HOST,
                "/a/b.gguf",
                "AdditionalHeaders=host;range,\
                 Signature=e6bd8579a82ca9395ed8e1387ffadc2d160510855c0f65bd226f57fb0cedfb1b",
                &[("Range", "bytes=0-99")],
            ),
        ),
        plain(
            "V4-9",
            request(
                "GET",
                HOST,
                "/a/b.gguf?x-oss-signature-version=OSS4-HMAC-SHA256&x-oss-date=20260102T030405Z&x-oss-expires=3600\
                 &x-oss-credential=AKIDTESTEXAMPLE0001%2F20260102%2Fcn-hangzhou%2Foss%2Faliyun_v4_request\
                 &x-oss-signature=7f43f98f35efc2bd0c43e8f16dae84809f2b75837aba19557b27c5c3d7fd547d",
                &[],
            ),
        ),
        plain(
            "V1-A",
            v1(
                "GET",
                SAFETENSORS,
                "nZTAKoz766Z0Y7E2qnd93LQvTm0=",
                &[("Range", "bytes=0-8388607"), ("x-oss-range-behavior", "standard")],
            ),
        ),
        Vector {
            name: "V1-B",
            request: v1(
                "GET",
                "/dir%20a%2F%E6%A8%A1%E5%9E%8B%2Bv1.gguf",
                "kazYFEmJtro2uAc3PxObtfX/Cbc=",
                &[("x-oss-security-token", TOKEN)],
            ),
            token: true,
        },
        plain("V1-C", v1("GET", oss2_list, "66WXvcndMLQGw31+st5hREgW5c0=", &[])),
        plain("V1-D", v1("HEAD", "/a/b.gguf", "dGzH97gSYIHJFhwDWZShWuPX/6I=", &[])),
        plain(
            "V1-E",
            request(
                "GET",
                HOST,
                "/a/b.gguf?OSSAccessKeyId=AKIDTESTEXAMPLE0001&Expires=1767326645\
                 &Signature=toZUUm5hGZVt%2Fg5esQkbGbuYUKU%3D",
                &[],
            ),
        ),
    ]
}

/// Judges at `now` with the vectors' key, temporary or not.
fn judge(request: &Request, token: bool, now: i64) -> Result<(), OssError> {
    let keys = Keys::default();
    if token {
        keys.add_issued(AK, SK, TOKEN, None);
    } else {
        keys.add(AK, SK);
    }
    let address = address::resolve(request, BUCKET, &["oss.example.com".to_owned()]).unwrap();
    Judge { keys: &keys, region: "cn-hangzhou", public: false, now }.verify(request, &address)
}

fn code(result: Result<(), OssError>) -> String {
    result.map_or_else(|error| error.code.into_owned(), |()| "accepted".to_owned())
}

#[test]
fn all_vectors_are_accepted() {
    for Vector { name, request, token } in vectors() {
        assert_eq!(judge(&request, token, NOW), Ok(()), "{name}");
    }
}

#[test]
fn both_comma_forms_are_accepted() {
    for Vector { name, mut request, token } in vectors() {
        for header in &mut request.headers {
            if header.0 == "authorization" {
                header.1 =
                    header.1.replace(",AdditionalHeaders", ", AdditionalHeaders").replace(",Sig", ", Sig");
            }
        }
        assert_eq!(judge(&request, token, NOW), Ok(()), "{name}");
    }
}

#[test]
fn any_change_of_what_is_signed_is_refused() {
    type Change = fn(&mut Request);
    let changes: [(&str, Change); 4] = [
        ("method", |request| {
            request.method = if request.method == "GET" { "HEAD" } else { "GET" }.to_owned()
        }),
        ("key", |request| request.path.push('x')),
        ("new x-oss header", |request| request.headers.push(("x-oss-traffic-limit".into(), "819200".into()))),
        ("new signed parameter", |request| request.query.push(("versionId".into(), "1".into()))),
    ];
    for (what, change) in changes {
        for Vector { name, mut request, token } in vectors() {
            change(&mut request);
            assert_eq!(code(judge(&request, token, NOW)), "SignatureDoesNotMatch", "{name}: {what}");
        }
    }
}

#[test]
fn a_change_of_every_signed_header_is_refused() {
    for Vector { name, request, token } in vectors() {
        for (index, (header, _)) in request.headers.iter().enumerate() {
            let range_is_signed = name == "V4-8";
            let unsigned = match header.as_str() {
                "host" | "range" => !range_is_signed,
                "if-match" => true,
                _ => false,
            };
            let mut changed = request.clone();
            changed.headers[index].1.push('1');
            if header == "host" && !range_is_signed {
                continue;
            }
            let found = code(judge(&changed, token, NOW));
            assert_eq!(found == "accepted", unsigned, "{name}: {header}: {found}");
        }
    }
}

#[test]
fn ranges_share_a_signature_unless_the_range_is_signed() {
    for Vector { name, mut request, token } in vectors() {
        request.headers.retain(|(header, _)| header != "range");
        request.headers.push(("range".to_owned(), "bytes=5-6".to_owned()));
        let found = code(judge(&request, token, NOW));
        assert_eq!(found, if name == "V4-8" { "SignatureDoesNotMatch" } else { "accepted" }, "{name}");
    }
}

#[test]
fn the_clock_may_be_off_by_a_quarter_of_an_hour() {
    for Vector { name, request, token } in vectors() {
        let url = name == "V4-9" || name == "V1-E";
        for (now, expected) in [
            (NOW + 900, "accepted"),
            (NOW + 901, if url { "accepted" } else { "RequestTimeTooSkewed" }),
            (NOW + 3600, if url { "accepted" } else { "RequestTimeTooSkewed" }),
            (NOW + 3601, if url { "AccessDenied" } else { "RequestTimeTooSkewed" }),
            (NOW - 900, "accepted"),
            (NOW - 901, if name == "V1-E" { "accepted" } else { "RequestTimeTooSkewed" }),
        ] {
            assert_eq!(code(judge(&request, token, now)), expected, "{name} at {}", now - NOW);
        }
    }
}

#[test]
fn a_refused_signature_shows_what_was_expected() {
    let mut request = vectors().remove(0).request;
    request.headers.retain(|(name, _)| name != "x-oss-range-behavior");
    let error = judge(&request, false, NOW).unwrap_err();
    let detail =
        |wanted: &str| error.details.iter().find(|(name, _)| *name == wanted).map(|(_, text)| text.as_str());
    assert_eq!(
        detail("CanonicalRequest"),
        Some(
            "GET\n/examplebucket/models/qwen/model-00001-of-00002.safetensors\n\n\
             x-oss-content-sha256:UNSIGNED-PAYLOAD\nx-oss-date:20260102T030405Z\n\n\nUNSIGNED-PAYLOAD"
        )
    );
    let to_sign = format!("OSS4-HMAC-SHA256\n{V4_DATE}\n{SCOPE}\n");
    assert!(detail("StringToSign").unwrap().starts_with(&to_sign));
    let shown = error.document("id", "host");
    assert!(!shown.contains(SK), "the secret is shown");
}

#[test]
fn broken_authorizations_are_refused_each_with_its_code() {
    let good = "Signature=65702c23637d50a6263dee54d876729fde305e99f5602763bd67f582a9e1bf0f";
    let range = &[("x-oss-range-behavior", "standard")][..];
    for (tail, expected) in [
        (good.to_owned(), "accepted"),
        (format!("AdditionalHeaders=,{good}"), "InvalidArgument"),
        (format!("AdditionalHeaders=host;;range,{good}"), "InvalidArgument"),
        (format!("AdditionalHeaders=range;host,{good}"), "InvalidArgument"),
        (format!("Extra=1,{good}"), "InvalidArgument"),
        ("Signature=00".to_owned(), "SignatureDoesNotMatch"),
        (String::new(), "InvalidArgument"),
    ] {
        assert_eq!(code(judge(&v4("GET", HOST, SAFETENSORS, &tail, range), false, NOW)), expected, "{tail}");
    }
    for (from, to, expected) in [
        ("20260102/", "20260103/", "InvalidArgument"),
        ("cn-hangzhou", "cn-beijing", "InvalidArgument"),
        ("aliyun_v4_request", "aws4_request", "InvalidArgument"),
        ("AKIDTESTEXAMPLE0001", "AKIDOTHER", "InvalidAccessKeyId"),
    ] {
        let mut request = v4("GET", HOST, SAFETENSORS, good, range);
        for (name, value) in &mut request.headers {
            if name == "authorization" {
                *value = value.replace(from, to);
            }
        }
        assert_eq!(code(judge(&request, false, NOW)), expected, "{to}");
    }
    for (missing, expected) in [
        ("x-oss-date", "AccessDenied"),
        ("x-oss-content-sha256", "InvalidArgument"),
        ("authorization", "AccessDenied"),
    ] {
        let mut request = v4("GET", HOST, SAFETENSORS, good, range);
        request.headers.retain(|(name, _)| name != missing);
        assert_eq!(code(judge(&request, false, NOW)), expected, "without {missing}");
    }
}

#[test]
fn tokens_belong_to_their_key_and_expire() {
    let vector = vectors().remove(1);
    let address = address::resolve(&vector.request, BUCKET, &[]).unwrap();
    let keys = Keys::default();
    let verify = |request: &Request| {
        code(Judge { keys: &keys, region: "cn-hangzhou", public: false, now: NOW }.verify(request, &address))
    };
    keys.add_issued(AK, SK, TOKEN, Some(NOW + 1));
    assert_eq!(verify(&vector.request), "accepted");
    keys.add_issued(AK, SK, TOKEN, Some(NOW));
    assert_eq!(verify(&vector.request), "SecurityTokenExpired");
    keys.add_issued(AK, SK, "another", None);
    assert_eq!(verify(&vector.request), "InvalidSecurityToken");
    keys.add(AK, SK);
    assert_eq!(verify(&vector.request), "AccessKeyIdAndSecurityTokenNotMatch");
    keys.add_temporary(AK, SK, TOKEN, None);
    let mut without = vector.request.clone();
    without.headers.retain(|(name, _)| name != "x-oss-security-token");
    assert_eq!(verify(&without), "InvalidAccessKeyId");
    keys.expire(AK);
    assert_eq!(verify(&vector.request), "SecurityTokenExpired");
    keys.remove(AK);
    assert_eq!(verify(&vector.request), "InvalidAccessKeyId");
}

#[test]
fn unsigned_requests_pass_only_if_reads_are_public() {
    let request = request("GET", HOST, "/a", &[]);
    let address = address::resolve(&request, BUCKET, &[]).unwrap();
    for (public, expected) in [(true, "accepted"), (false, "AccessDenied")] {
        let judge = Judge { keys: &Keys::default(), region: "cn-hangzhou", public, now: NOW };
        assert_eq!(code(judge.verify(&request, &address)), expected);
    }
}

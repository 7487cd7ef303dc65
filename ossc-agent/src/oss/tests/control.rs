//! Listings and metadata over the wire: paging, the meaning of a path with and without its slash, errors with
//! and without a body, retries. The server is scripted per test; what it saw is compared with what the client
//! should have sent.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::server::{Answer, Server};
use super::*;

fn reply(status: u16, headers: &str, body: &str) -> Answer {
    let length = if headers.contains("Content-Length") {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", body.len())
    };
    Answer::Send(format!("HTTP/1.1 {status} X\r\n{headers}{length}\r\n{body}").into_bytes())
}

fn page(keys: &[&str], next: Option<&str>) -> Answer {
    let contents: String = keys
        .iter()
        .map(|key| {
            format!(
                "<Contents><Key>{key}</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified>\
                 <ETag>\"AB\"</ETag><Size>7</Size></Contents>"
            )
        })
        .collect();
    let next = next.map_or("<IsTruncated>false</IsTruncated>".to_owned(), |token| {
        format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>")
    });
    let body =
        format!("<ListBucketResult><EncodingType>url</EncodingType>{next}{contents}</ListBucketResult>");
    reply(200, "Content-Type: application/xml\r\n", &body)
}

const HEAD_OF_OBJECT: &str = "Content-Length: 77\r\nETag: \"AB\"\r\nLast-Modified: Fri, 02 Jan 2026 03:04:05 GMT\r\n\
    x-oss-hash-crc64ecma: 6748440630437108969\r\n";

async fn list(server: &Server, prefix: &str) -> Result<Vec<Object>, Error> {
    Client::new(config(&server.url, prefix)).unwrap().list().await
}

fn names(objects: &[Object]) -> Vec<&str> {
    objects.iter().map(|object| object.name.as_str()).collect()
}

#[tokio::test]
async fn lists_all_pages_in_key_order() {
    let server = Server::start(|seen| match seen.head.contains("continuation-token=t%2B1") {
        false => page(&["m%2Fb", "m%2Fd%2F", "m%2F"], Some("t%2B1")),
        true => page(&["m%2Fa%2Bb%20c", "m%2Fb"], None),
    });
    assert_eq!(names(&list(&server, "m/").await.unwrap()), ["a+b c", "b", "d/"]);
    assert_eq!(
        server.lines(),
        [
            "GET /examplebucket/?encoding-type=url&list-type=2&max-keys=1000&prefix=m%2F HTTP/1.1",
            "GET /examplebucket/?continuation-token=t%2B1&encoding-type=url&list-type=2&max-keys=1000&\
             prefix=m%2F HTTP/1.1",
        ]
    );
    assert!(server.seen().iter().all(|seen| header(&seen.head, "authorization").is_some()));
}

#[tokio::test]
async fn a_listing_in_circles_is_refused() {
    let server = Server::start(|seen| {
        page(&[], Some(if seen.head.contains("continuation-token=a") { "b" } else { "a" }))
    });
    let error = list(&server, "m/").await.unwrap_err();
    assert!(matches!(error, Error::Listing { .. }) && !error.is_retryable(), "{error}");
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn an_empty_listing_is_an_error() {
    let server = Server::start(|_| page(&[], None));
    let error = list(&server, "").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "oss://examplebucket/ matches no object: check OSS_PATH, bucket and prefix"
    );
}

#[tokio::test]
async fn a_path_without_slash_is_an_object_or_a_directory() {
    let server = Server::start(|seen| {
        match seen.head.lines().next().unwrap().split(' ').take(2).collect::<Vec<_>>()[..] {
            ["HEAD", "/examplebucket/m/file"] => reply(200, HEAD_OF_OBJECT, ""),
            ["HEAD", "/examplebucket/m/dir"] => reply(404, "", ""),
            ["HEAD", "/examplebucket/m/closed"] => reply(403, "", ""),
            ["GET", target] if target.ends_with("prefix=m%2Fdir%2F") => page(&["m%2Fdir%2Fx"], None),
            ["GET", target] if target.ends_with("prefix=m%2Fclosed%2F") => page(&["m%2Fclosed%2Fy"], None),
            _ => reply(400, "", ""),
        }
    });
    let file = list(&server, "m/file").await.unwrap();
    assert_eq!(names(&file), ["file"]);
    assert_eq!((file[0].size, file[0].crc64), (77, Some(6_748_440_630_437_108_969)));
    assert_eq!(httpdate::fmt_http_date(file[0].modified), "Fri, 02 Jan 2026 03:04:05 GMT");
    assert_eq!(names(&list(&server, "m/dir").await.unwrap()), ["x"]);
    assert_eq!(names(&list(&server, "m/closed").await.unwrap()), ["y"]);
}

#[tokio::test]
async fn head_names_the_object_as_the_listing_does() {
    let server = Server::start(|_| reply(200, HEAD_OF_OBJECT, ""));
    for (prefix, key, name) in
        [("m/", "m/sub/x", "sub/x"), ("m", "m/sub/x", "sub/x"), ("", "m/x", "m/x"), ("m/x", "m/x", "x")]
    {
        let object = Client::new(config(&server.url, prefix)).unwrap().head(key).await.unwrap();
        assert_eq!((object.key.as_str(), object.name.as_str()), (key, name));
    }
}

#[tokio::test]
async fn a_cname_is_asked_for_the_key_alone() {
    let server = Server::start(|_| reply(200, HEAD_OF_OBJECT, ""));
    let endpoint = server.url.replace("127.0.0.1", "localhost");
    let client = Client::new(Config { cname: true, ..config(&endpoint, "") }).unwrap();
    client.head("m/x y").await.unwrap();
    let seen = server.seen().remove(0);
    assert!(seen.head.starts_with("HEAD /m/x%20y HTTP/1.1\r\n"), "{}", seen.head);
    assert!(header(&seen.head, "host").is_some_and(|host| host.starts_with("localhost:")));
}

#[tokio::test]
async fn errors_of_head_come_in_a_header() {
    let document = "<Error><Code>InvalidObjectState</Code><Message>archived</Message><EC>0003</EC></Error>";
    let headers = format!("x-oss-err: {}\r\nx-oss-request-id: RID\r\n", STANDARD.encode(document));
    let server = Server::start(move |_| reply(403, &headers, ""));
    let client = Client::new(config(&server.url, "")).unwrap();
    let error = client.head("m/x").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "HEAD oss://examplebucket/m/x: OSS answered 403 InvalidObjectState: archived (request id RID, EC 0003); \
         the object is archived: restore it first"
    );
}

#[tokio::test]
async fn metadata_that_cannot_be_is_refused() {
    for (from, to) in [
        ("Content-Length: 77", "Content-Length: 99999999999999999"),
        ("ETag", "X-Tag"),
        ("Last-Modified", "X-Modified"),
    ] {
        let headers = HEAD_OF_OBJECT.replace(from, to);
        let server = Server::start(move |_| reply(200, &headers, ""));
        let error = Client::new(config(&server.url, "")).unwrap().head("m/x").await.unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{error}");
    }
}

#[tokio::test]
async fn passing_failures_are_tried_again() {
    let server = Server::start(|seen| match seen.connection {
        0 => reply(500, "", "<Error><Code>InternalError</Code></Error>"),
        1 => Answer::SendAndClose(Vec::new()),
        _ => page(&["x"], None),
    });
    assert_eq!(names(&list(&server, "").await.unwrap()), ["x"]);
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn lasting_failures_are_not() {
    let server = Server::start(|_| Answer::Send(error_reply(403, "AccessDenied", "")));
    let error = list(&server, "m/").await.unwrap_err();
    assert_eq!(error.service().map(|service| service.code.as_str()), Some("AccessDenied"));
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_listing_corrects_the_clock_too() {
    let server = Server::start(|seen| match seen.connection {
        0 => Answer::Send(error_reply(403, "RequestTimeTooSkewed", "Fri, 02 Jan 2032 03:04:05 GMT")),
        _ => page(&["x"], None),
    });
    list(&server, "").await.unwrap();
    let date = server.seen()[1].head.clone();
    assert!(header(&date, "x-oss-date").is_some_and(|date| date.starts_with("20320102T03")), "{date}");
}

#[tokio::test]
async fn nobody_listening_is_a_transport_error() {
    let server = Server::start(|_| page(&[], None));
    let url = server.url.clone();
    drop(server);
    tokio::time::pause();
    let error = Client::new(config(&url, "m/")).unwrap().list().await.unwrap_err();
    assert!(matches!(error, Error::Transport { .. }) && error.is_retryable(), "{error:?}");
}

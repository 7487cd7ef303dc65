//! ListObjectsV2 documents: one page in, checked objects out. Pure; `client` fetches the pages. A page that
//! cannot be right (a size no object can have, a key that is not UTF-8, no way on) is refused as a whole: a
//! model with a file missing is worse than none. Document: help.aliyun.com "ListObjectsV2 (GetBucketV2)".

use std::borrow::Cow;
use std::time::SystemTime;

use jiff::Timestamp;
use serde::Deserialize;

use super::error::printable;
use super::metadata::{self, MAX_OBJECT_BYTES};
use super::uri;
use crate::base::Object;

/// Keys asked for per page: the most OSS gives.
pub(super) const MAX_KEYS: &str = "1000";

/// What one page says.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) objects: Vec<Object>,
    /// Token of the next page; None = this was the last.
    pub(super) next: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename = "ListBucketResult", rename_all = "PascalCase")]
struct Document {
    #[serde(default)]
    encoding_type: Option<String>,
    is_truncated: bool,
    #[serde(default)]
    next_continuation_token: Option<String>,
    #[serde(default)]
    contents: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    key: String,
    last_modified: String,
    #[serde(rename = "ETag")]
    etag: String,
    size: u64,
}

/// Reads a page of the listing below `base`, which is cut off the names; objects named exactly `base` (the
/// directory's own marker) are left out. The error says what is wrong, in one line whatever the keys are.
pub(super) fn parse(body: &[u8], base: &str) -> Result<Page, String> {
    read(body, base).map_err(|reason| printable(&reason))
}

fn read(body: &[u8], base: &str) -> Result<Page, String> {
    let text = std::str::from_utf8(body).map_err(|_| "the reply is not UTF-8")?;
    let document: Document =
        quick_xml::de::from_str(text).map_err(|error| format!("the reply is no listing: {error}"))?;
    let encoded = document.encoding_type.as_deref() == Some("url");
    let decode = |text: &str| -> Result<String, String> {
        if !encoded {
            return Ok(text.to_owned());
        }
        uri::decode(text).map(Cow::into_owned).ok_or_else(|| format!("key {text} is not UTF-8"))
    };
    let next = match document.next_continuation_token.as_deref().filter(|_| document.is_truncated) {
        Some("") | None if document.is_truncated => {
            return Err("there are more pages but no token for them".to_owned());
        }
        Some(token) => Some(decode(token)?),
        None => None,
    };
    let mut objects = Vec::with_capacity(document.contents.len());
    for entry in &document.contents {
        let object = entry.object(decode(&entry.key)?, base)?;
        objects.extend((!object.name.is_empty()).then_some(object));
    }
    Ok(Page { objects, next })
}

impl Entry {
    fn object(&self, key: String, base: &str) -> Result<Object, String> {
        let Some(name) = key.strip_prefix(base).map(str::to_owned) else {
            return Err(format!("key {key} is not below the prefix asked for"));
        };
        if self.size > MAX_OBJECT_BYTES {
            return Err(format!("{key} is said to have {} bytes, more than any object can", self.size));
        }
        let etag = metadata::etag(&self.etag).ok_or_else(|| format!("{key} has no usable ETag"))?;
        let modified: Timestamp =
            self.last_modified.parse().map_err(|_| format!("{key} has no usable LastModified"))?;
        Ok(Object { key, name, size: self.size, etag, modified: SystemTime::from(modified), crc64: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(encoding: &str, truncated: &str, contents: &str) -> String {
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult xmlns=\"http://doc.oss\">\
             <Name>b</Name><Prefix>m%2F</Prefix><MaxKeys>1000</MaxKeys>{encoding}{truncated}\
             <KeyCount>1</KeyCount>{contents}\
             <CommonPrefixes><Prefix>m%2Fsub%2F</Prefix></CommonPrefixes></ListBucketResult>"
        )
    }

    fn entry(key: &str, size: &str) -> String {
        format!(
            "<Contents><Key>{key}</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified>\
             <ETag>&quot;5B3C-26&quot;</ETag><Type>Multipart</Type><Size>{size}</Size>\
             <StorageClass>Standard</StorageClass><Owner><ID>1</ID></Owner></Contents>"
        )
    }

    const URL: &str = "<EncodingType>url</EncodingType>";
    const LAST: &str = "<IsTruncated>false</IsTruncated>";

    #[test]
    fn decodes_only_when_the_reply_says_so() {
        for (encoding, key, name) in
            [(URL, "m%2Fa%2Bb%20c.gguf", "a+b c.gguf"), ("", "m/a%20b&amp;.gguf", "a%20b&.gguf")]
        {
            let page = parse(page(encoding, LAST, &entry(key, "77")).as_bytes(), "m/").unwrap();
            let object = &page.objects[0];
            assert_eq!((object.name.as_str(), object.size, object.etag.as_str()), (name, 77, "\"5B3C-26\""));
            assert_eq!(httpdate::fmt_http_date(object.modified), "Fri, 02 Jan 2026 03:04:05 GMT");
            assert_eq!(page.next, None);
        }
    }

    #[test]
    fn keeps_directories_and_drops_the_prefix_itself() {
        let contents = [entry("m%2F", "0"), entry("m%2Fsub%2F", "0"), entry("m%2Fsub%2Fx", "1")].concat();
        let page = parse(page(URL, LAST, &contents).as_bytes(), "m/").unwrap();
        let names: Vec<&str> = page.objects.iter().map(|object| object.name.as_str()).collect();
        assert_eq!(names, ["sub/", "sub/x"]);
    }

    #[test]
    fn goes_on_only_with_a_token() {
        let more = "<IsTruncated>true</IsTruncated><NextContinuationToken>a%2Fb</NextContinuationToken>";
        assert_eq!(parse(page(URL, more, "").as_bytes(), "m/").unwrap().next.as_deref(), Some("a/b"));
        for truncated in
            ["<IsTruncated>true</IsTruncated>", "<IsTruncated>true</IsTruncated><NextContinuationToken/>"]
        {
            assert!(parse(page(URL, truncated, "").as_bytes(), "m/").is_err(), "{truncated}");
        }
    }

    #[test]
    fn refuses_what_cannot_be() {
        let bodies = [
            page(URL, LAST, &entry("m%2Fa", "18446744073709551615")),
            page(URL, LAST, &entry("m%2Fa", "-1")),
            page(URL, LAST, &entry("m%2F%FF", "1")),
            page(URL, LAST, &entry("other", "1")),
            page(URL, LAST, &entry("m%2Fa", "1").replace("5B3C-26", "a&#10;b")),
            page(URL, LAST, &entry("m%2Fa", "1").replace("2026", "soon")),
            page(URL, "", &entry("m%2Fa", "1")),
            "<html>".to_owned(),
            "<Error><Code>X</Code></Error>".to_owned(),
        ];
        for body in bodies {
            assert!(parse(body.as_bytes(), "m/").is_err(), "{body}");
        }
        assert!(parse(b"\xFF", "m/").is_err());
    }
}

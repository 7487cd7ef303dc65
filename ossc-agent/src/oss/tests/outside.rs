//! Whatever bytes come from outside, the parsers answer and never panic; and a reply's head is never taken for
//! the right one unless it says exactly what was asked for. Random bytes, and right replies with random damage.

use proptest::prelude::*;

use super::*;
use crate::base::ByteRange;
use crate::oss::error::ReplyFacts;
use crate::oss::{list, reply};

const HEAD: &str = "HTTP/1.1 206 Partial Content\r\nContent-Length: 100\r\nContent-Range: bytes 100-199/1000\r\n\
    ETag: \"5B3C1A2E053D763E1B002CC607C5A0FE-26\"\r\nConnection: keep-alive\r\n\r\n";
const PAGE: &str = "<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>\
    <NextContinuationToken>t</NextContinuationToken><Contents><Key>m%2Fa</Key><LastModified>2026-01-02T03:04:05Z\
    </LastModified><ETag>\"A\"</ETag><Size>1</Size></Contents></ListBucketResult>";
const ERROR: &str = "<Error><Code>NoSuchKey</Code><Message>m</Message><EC>1</EC></Error>";

/// A text with some bytes replaced.
fn damaged(text: &'static str) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec((0..text.len(), any::<u8>()), 0..8).prop_map(move |changes| {
        let mut bytes = text.as_bytes().to_vec();
        for (place, byte) in changes {
            bytes[place] = byte;
        }
        bytes
    })
}

fn outside(text: &'static str) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![prop::collection::vec(any::<u8>(), 0..300), damaged(text)]
}

proptest! {
    #[test]
    fn heads(bytes in outside(HEAD)) {
        let range = ByteRange::new(100, 200);
        if let Ok(Some((head, length))) = reply::parse(&bytes) {
            prop_assert!(length <= bytes.len());
            if head.check("oss://b/k", &object(1000), range).is_ok() {
                prop_assert_eq!((head.status, head.length), (206, Some(100)));
                prop_assert!(String::from_utf8_lossy(&bytes).contains("bytes 100-199/1000"));
            }
        }
    }

    #[test]
    fn pages(bytes in outside(PAGE)) {
        if let Ok(page) = list::parse(&bytes, "m/") {
            prop_assert!(page.objects.iter().all(|object| object.key.starts_with("m/")));
        }
    }

    #[test]
    fn errors(bytes in outside(ERROR), status in any::<u16>()) {
        let err = String::from_utf8_lossy(&bytes).into_owned();
        let facts = ReplyFacts { status, err: Some(&err), body: &bytes, ..ReplyFacts::default() };
        let error = Error::Service(Box::new(ServiceError::new("GET", "oss://b/k", &facts)));
        prop_assert!(!error.to_string().contains(char::is_control));
    }
}

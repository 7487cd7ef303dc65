//! ListObjectsV2: one page of the bucket's keys, in byte order.
//!
//! A continuation token names the last entry of the page before, so pages stay right when objects come and go between
//! them. Tokens are opaque base64 and thus hold `+`, `/` and `=`, which a client must encode. Pages may be made shorter
//! than asked, since OSS allows itself that.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::clock;
use crate::error::OssError;
use crate::objects::Object;
use crate::request::Request;
use crate::xml::{self, Element};

/// Keys of a page when the request does not say (OSS ListObjectsV2, `max-keys`).
const DEFAULT_KEYS: usize = 100;
/// Most keys of a page.
const MOST_KEYS: usize = 1000;
/// OSS leaves these as they are under `encoding-type=url`.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// First byte of a token: what the page before ended with.
const AFTER_KEY: u8 = b'k';
const AFTER_PREFIX: u8 = b'p';

/// The parameters of one listing, checked.
#[derive(Debug)]
struct Query<'a> {
    prefix: &'a str,
    delimiter: Option<&'a str>,
    start_after: &'a str,
    token: Option<&'a str>,
    max_keys: usize,
    url_encoding: bool,
    fetch_owner: bool,
}

impl<'a> Query<'a> {
    fn of(request: &'a Request) -> Result<Self, OssError> {
        let wrong = |name: &'static str| {
            OssError::of("InvalidArgument")
                .because(format!("The parameter {name} is not valid."))
                .detail("ArgumentName", name)
                .detail("ArgumentValue", request.param(name).unwrap_or_default())
        };
        if request.param("list-type") != Some("2") {
            return Err(wrong("list-type"));
        }
        let max_keys = match request.filled_param("max-keys") {
            None => DEFAULT_KEYS,
            Some(text) => text
                .parse()
                .ok()
                .filter(|count| (1..=MOST_KEYS).contains(count))
                .ok_or_else(|| wrong("max-keys"))?,
        };
        let url_encoding = match request.filled_param("encoding-type") {
            None => false,
            Some("url") => true,
            Some(_) => return Err(wrong("encoding-type")),
        };
        Ok(Self {
            prefix: request.param("prefix").unwrap_or_default(),
            delimiter: request.filled_param("delimiter"),
            start_after: request.param("start-after").unwrap_or_default(),
            token: request.filled_param("continuation-token"),
            max_keys,
            url_encoding,
            fetch_owner: request.param("fetch-owner") == Some("true"),
        })
    }
}

/// One entry of a page.
enum Entry<'a> {
    Key(&'a str, &'a Object),
    Prefix(&'a str),
}

/// Answers a listing with its document. `page_limit` makes pages shorter than asked.
pub(crate) fn answer(
    request: &Request,
    bucket: &str,
    objects: &BTreeMap<String, Arc<Object>>,
    page_limit: Option<usize>,
) -> Result<String, OssError> {
    let query = Query::of(request)?;
    let limit = page_limit.map_or(query.max_keys, |limit| limit.clamp(1, query.max_keys));
    let (page, next) = page(&query, objects, limit)?;
    let encode = |text: &str| {
        if query.url_encoding { utf8_percent_encode(text, RESERVED).to_string() } else { text.to_owned() }
    };
    let mut root = Element::new("ListBucketResult")
        .text("Name", bucket)
        .text("Prefix", &encode(query.prefix))
        .text("StartAfter", &encode(query.start_after))
        .text("MaxKeys", &query.max_keys.to_string())
        .text("Delimiter", &encode(query.delimiter.unwrap_or_default()));
    if query.url_encoding {
        root = root.text("EncodingType", "url");
    }
    root = root.text("IsTruncated", if next.is_some() { "true" } else { "false" });
    if let Some(token) = query.token {
        root = root.text("ContinuationToken", &encode(token));
    }
    if let Some(next) = &next {
        root = root.text("NextContinuationToken", &encode(next));
    }
    root = root.text("KeyCount", &page.len().to_string());
    for entry in &page {
        if let Entry::Key(key, object) = entry {
            let mut contents = Element::new("Contents")
                .text("Key", &encode(key))
                .text("LastModified", &clock::listing_date(object.last_modified))
                .text("ETag", &object.etag)
                .text("Type", object.object_type)
                .text("Size", &object.size().to_string())
                .text("StorageClass", "Standard");
            if query.fetch_owner {
                let owner = Element::new("Owner").text("ID", "0022012").text("DisplayName", "owner");
                contents = contents.child(&owner);
            }
            root = root.child(&contents);
        }
    }
    for entry in &page {
        if let Entry::Prefix(prefix) = entry {
            root = root.child(&Element::new("CommonPrefixes").text("Prefix", &encode(prefix)));
        }
    }
    Ok(xml::document(root))
}

/// The entries of one page, and the token of the next one if there is more.
fn page<'a>(
    query: &Query<'_>,
    objects: &'a BTreeMap<String, Arc<Object>>,
    limit: usize,
) -> Result<(Vec<Entry<'a>>, Option<String>), OssError> {
    let mut last = match query.token {
        Some(token) => decode(token)?,
        None => (AFTER_KEY, query.start_after.to_owned()),
    };
    let begin = match last.1.as_str() {
        after if after < query.prefix => Bound::Included(query.prefix),
        after => Bound::Excluded(after),
    };
    let mut page = Vec::new();
    for (key, object) in objects.range::<str, _>((begin, Bound::Unbounded)) {
        let Some(rest) = key.strip_prefix(query.prefix) else { break };
        if last.0 == AFTER_PREFIX && key.starts_with(&last.1) {
            continue;
        }
        if page.len() == limit {
            return Ok((page, Some(encode(&last))));
        }
        let cut = query.delimiter.and_then(|mark| Some(rest.find(mark)? + query.prefix.len() + mark.len()));
        let (entry, kind, name) = match cut {
            Some(end) => (Entry::Prefix(&key[..end]), AFTER_PREFIX, &key[..end]),
            None => (Entry::Key(key, object), AFTER_KEY, key.as_str()),
        };
        last = (kind, name.to_owned());
        page.push(entry);
    }
    Ok((page, None))
}

/// Makes a token of what a page ended with.
fn encode((kind, name): &(u8, String)) -> String {
    BASE64_STANDARD.encode([&[*kind], name.as_bytes()].concat())
}

fn decode(token: &str) -> Result<(u8, String), OssError> {
    let parsed = BASE64_STANDARD.decode(token).ok().and_then(|bytes| {
        let (&kind, name) = bytes.split_first()?;
        let name = String::from_utf8(name.to_vec()).ok()?;
        matches!(kind, AFTER_KEY | AFTER_PREFIX).then_some((kind, name))
    });
    parsed.ok_or_else(|| OssError::of("InvalidArgument").because("The continuation token is not valid."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(keys: &[&str]) -> BTreeMap<String, Arc<Object>> {
        keys.iter().map(|key| ((*key).to_owned(), Arc::new(Object::bytes(*key)))).collect()
    }

    fn list(query: &str, keys: &[&str], limit: Option<usize>) -> Result<String, OssError> {
        let target = format!("/?list-type=2&{query}");
        answer(&Request::new("GET", &target, []), "b", &bucket(keys), limit)
    }

    fn all<'a>(document: &'a str, tag: &str) -> Vec<&'a str> {
        let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
        document
            .split(open.as_str())
            .skip(1)
            .filter_map(|rest| Some(rest.split_once(close.as_str())?.0))
            .collect()
    }

    const KEYS: &[&str] = &["a", "m/1", "m/2", "m/s/x", "m/s/y", "m/t/z", "m0", "模"];

    #[test]
    fn prefix_delimiter_and_start_after() {
        for (query, keys, prefixes) in [
            ("", KEYS.to_vec(), vec![]),
            ("prefix=m%2F", vec!["m/1", "m/2", "m/s/x", "m/s/y", "m/t/z"], vec![]),
            ("prefix=m/&delimiter=/", vec!["m/1", "m/2"], vec!["m/s/", "m/t/"]),
            ("delimiter=%2F", vec!["a", "m0", "模"], vec!["m/"]),
            ("prefix=m/&start-after=m/2", vec!["m/s/x", "m/s/y", "m/t/z"], vec![]),
            ("prefix=m/&start-after=a", vec!["m/1", "m/2", "m/s/x", "m/s/y", "m/t/z"], vec![]),
            ("prefix=m/&start-after=z", vec![], vec![]),
            ("prefix=none", vec![], vec![]),
        ] {
            let document = list(query, KEYS, None).unwrap();
            assert_eq!(all(&document, "Key"), keys, "{query}");
            let found: Vec<&str> =
                all(&document, "CommonPrefixes").iter().map(|inner| all(inner, "Prefix")[0]).collect();
            assert_eq!(found, prefixes, "{query}");
            assert_eq!(all(&document, "KeyCount"), [(keys.len() + prefixes.len()).to_string()], "{query}");
            assert_eq!(all(&document, "IsTruncated"), ["false"]);
        }
    }

    #[test]
    fn pages_of_any_length_make_the_same_list() {
        for delimiter in ["", "&delimiter=/"] {
            let whole = list(&format!("prefix=m{delimiter}"), KEYS, None).unwrap();
            for length in 1..=9 {
                for (asked, limit) in [(length, None), (1000, Some(length))] {
                    let (mut keys, mut prefixes, mut token) = (Vec::new(), Vec::new(), String::new());
                    loop {
                        let query =
                            format!("prefix=m{delimiter}&max-keys={asked}&continuation-token={token}");
                        let document = list(&query, KEYS, limit).unwrap();
                        keys.extend(all(&document, "Key").into_iter().map(str::to_owned));
                        prefixes.extend(all(&document, "CommonPrefixes").into_iter().map(str::to_owned));
                        let next = all(&document, "NextContinuationToken");
                        assert_eq!(all(&document, "IsTruncated") == ["true"], !next.is_empty());
                        let Some(next) = next.first() else { break };
                        token = utf8_percent_encode(next, RESERVED).to_string();
                    }
                    assert_eq!(keys, all(&whole, "Key"));
                    assert_eq!(prefixes, all(&whole, "CommonPrefixes"));
                }
            }
        }
    }

    #[test]
    fn a_page_has_a_hundred_keys_unless_said_otherwise() {
        let names: Vec<String> = (0..1200).map(|number| format!("{number:04}")).collect();
        let keys: Vec<&str> = names.iter().map(String::as_str).collect();
        for (query, count) in [("", 100), ("max-keys=7", 7), ("max-keys=1000", 1000)] {
            assert_eq!(all(&list(query, &keys, None).unwrap(), "Key").len(), count);
        }
        for query in
            ["max-keys=0", "max-keys=1001", "max-keys=x", "encoding-type=xml", "continuation-token=%21"]
        {
            assert_eq!(list(query, &keys, None).unwrap_err().code, "InvalidArgument", "{query}");
        }
    }

    #[test]
    fn url_encoding_covers_every_name() {
        let keys = ["m +/&<é>.bin", "m +/k/x"];
        let document =
            list("encoding-type=url&prefix=m%20%2B%2F&delimiter=%2F&fetch-owner=true", &keys, None).unwrap();
        assert_eq!(all(&document, "Key"), ["m%20%2B%2F%26%3C%C3%A9%3E.bin"]);
        assert_eq!(all(&document, "Prefix"), ["m%20%2B%2F", "m%20%2B%2Fk%2F"]);
        assert_eq!(all(&document, "Delimiter"), ["%2F"]);
        assert_eq!(all(&document, "EncodingType"), ["url"]);
        assert_eq!(all(&document, "Owner").len(), 1);
        let plain = list("", &keys, None).unwrap();
        assert_eq!(all(&plain, "Key")[0], "m +/&amp;&lt;é&gt;.bin");
        assert!(all(&plain, "EncodingType").is_empty() && all(&plain, "Owner").is_empty());
        assert_eq!(all(&plain, "LastModified")[0].len(), 24);
    }
}

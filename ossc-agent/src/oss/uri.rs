//! Percent-encoding as OSS wants it, for the wire and for signatures alike: UTF-8 bytes, unreserved
//! characters `A-Za-z0-9-._~` kept, and `/` kept in paths only (go SDK v2 `escapePath`, py SDK v2 `quote`).
//! Pure; used by requests, signers and the decoding of listings.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// What is encoded in a query key or value.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// What is encoded in a path.
const PATH: &AsciiSet = &QUERY.remove(b'/');

/// A key or a `/bucket/key` path, encoded.
pub(super) fn path(raw: &str) -> String {
    utf8_percent_encode(raw, PATH).to_string()
}

/// A single query key or value, encoded.
pub(super) fn component(raw: &str) -> String {
    utf8_percent_encode(raw, QUERY).to_string()
}

/// A query as both the wire and the V4 canonical request take it: sorted by encoded key, `k=v` joined with
/// `&`, an empty value as `k` alone.
pub(super) fn query(pairs: &[(&str, &str)]) -> String {
    let mut encoded: Vec<(String, String)> =
        pairs.iter().map(|(key, value)| (component(key), component(value))).collect();
    encoded.sort();
    let joined: Vec<String> = encoded
        .into_iter()
        .map(|(key, value)| if value.is_empty() { key } else { format!("{key}={value}") })
        .collect();
    joined.join("&")
}

/// The raw text of an encoded one; None when it is not UTF-8.
pub(super) fn decode(encoded: &str) -> Option<Cow<'_, str>> {
    percent_decode_str(encoded).decode_utf8().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_like_the_sdks() {
        assert_eq!(
            path("dir a/模型+v1 (q4_k_m)~!*'.gguf"),
            "dir%20a/%E6%A8%A1%E5%9E%8B%2Bv1%20%28q4_k_m%29~%21%2A%27.gguf"
        );
        assert_eq!(query(&[("prefix", "a/b c"), ("empty", ""), ("a", "1")]), "a=1&empty&prefix=a%2Fb%20c");
    }

    #[test]
    fn decodes_without_taking_plus_for_space() {
        assert_eq!(decode("a%2Bb+c%20d").as_deref(), Some("a+b+c d"));
        assert_eq!(decode("%FF"), None);
    }
}

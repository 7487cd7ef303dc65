//! `OSS_PATH`: `oss://bucket/prefix/`, as the OSS Connector takes it.

use super::Error;

/// Splits into bucket and prefix (maybe empty, no leading slash, kept as written otherwise).
pub(super) fn parse(text: &str) -> Result<(String, String), Error> {
    let fail = |why| Error::OssPath { text: text.to_owned(), why };
    let rest = text.strip_prefix("oss://").ok_or_else(|| fail("it does not begin with oss://"))?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    // Bucket naming rules: 3 to 63 of [a-z0-9-], no hyphen at either end (alibabacloud_oss_v2/validation.py).
    if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(valid) {
        return Err(fail("the bucket name must be 3 to 63 of a-z, 0-9 and '-'"));
    }
    if bucket.starts_with('-') || bucket.ends_with('-') {
        return Err(fail("the bucket name must not begin or end with '-'"));
    }
    if prefix.starts_with('/') {
        return Err(fail("there is a second slash behind the bucket"));
    }
    Ok((bucket.to_owned(), prefix.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_bucket_and_prefix() {
        for (text, bucket, prefix) in [
            ("oss://models/deepseek-r1/q8/", "models", "deepseek-r1/q8/"),
            ("oss://models", "models", ""),
            ("oss://models/", "models", ""),
            ("oss://m-1/a b/模型.gguf", "m-1", "a b/模型.gguf"),
        ] {
            assert_eq!(parse(text).unwrap(), (bucket.to_owned(), prefix.to_owned()), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_path() {
        for text in [
            "",
            "models/x",
            "s3://models/x",
            "oss://",
            "oss://ab/x",
            "oss://-ab/x",
            "oss://Models/x",
            "oss://abc//x",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}

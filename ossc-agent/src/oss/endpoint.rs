//! From the endpoint the user wrote to where requests go: scheme, host, port, addressing style, region.
//! Pure; `Client::new` calls it once and a bad endpoint fails there, before anything is sent.
//! Rules: none of a scheme = https; an IP address forces path style (as the SDKs do, because
//! `bucket.127.0.0.1` is no host name); a CNAME is used as it is; else the bucket is put before the host.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use super::error::Error;
use super::proxy::Proxy;
use super::uri;

/// Port of an endpoint that names none.
const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;
/// Domain of the official endpoints, from which a region can be inferred.
const OFFICIAL_DOMAIN: &str = ".aliyuncs.com";

/// Where a connection goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Authority {
    /// Speak TLS.
    pub(super) tls: bool,
    /// Name or IP literal, without brackets.
    pub(super) host: String,
    /// TCP port.
    pub(super) port: u16,
    /// By way of this.
    pub(super) proxy: Option<Arc<Proxy>>,
}

/// How the bucket gets into the URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// `bucket.endpoint/key`; the bucket is already in the authority.
    VirtualHost,
    /// `endpoint/bucket/key`.
    Path,
    /// `cname/key`.
    Cname,
}

/// A bucket's place on the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    authority: Authority,
    style: Style,
    region: Option<String>,
}

impl Authority {
    /// Parses `[scheme://]host[:port][/]`.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let trimmed = text.trim();
        let (tls, rest) = match trimmed.split_once("://") {
            None => (true, trimmed),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            Some(_) => return Err("the scheme must be http or https"),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = split_port(rest)?;
        let valid = host.parse::<IpAddr>().is_ok() || is_host_name(host);
        if !valid {
            return Err("expected [http://|https://]host[:port] without a path");
        }
        let port = port.unwrap_or(if tls { HTTPS_PORT } else { HTTP_PORT });
        Ok(Self { tls, host: host.to_ascii_lowercase(), port, proxy: None })
    }

    /// The `Host` header: the port only when it is not the scheme's own.
    pub(super) fn host_header(&self) -> String {
        let default = if self.tls { HTTPS_PORT } else { HTTP_PORT };
        if self.port == default { self.bracketed().into_owned() } else { self.host_and_port() }
    }

    /// `host:port`, what a proxy is asked to connect to.
    pub(super) fn host_and_port(&self) -> String {
        format!("{}:{}", self.bracketed(), self.port)
    }

    fn bracketed(&self) -> Cow<'_, str> {
        if self.host.contains(':') { format!("[{}]", self.host).into() } else { self.host.as_str().into() }
    }

    /// Name or address, and port, that connections are made to.
    pub(super) fn next_hop(&self) -> (&str, u16) {
        match &self.proxy {
            Some(proxy) => (&proxy.host, proxy.port),
            None => (&self.host, self.port),
        }
    }

    /// The proxy that reads requests to here, and not only carries them.
    pub(super) fn reading_proxy(&self) -> Option<&Proxy> {
        self.proxy.as_deref().filter(|_| !self.tls)
    }

    /// What stands in a request's first line for this path and query.
    pub(super) fn target<'a>(&self, path: &'a str) -> Cow<'a, str> {
        match self.reading_proxy() {
            Some(_) => format!("http://{}{path}", self.host_header()).into(),
            None => path.into(),
        }
    }
}

impl Endpoint {
    /// Resolves an endpoint for one bucket. A `region` given wins over an inferred one; `oss-cn-hangzhou` is
    /// taken for `cn-hangzhou`, the form signatures want.
    pub(super) fn new(text: &str, bucket: &str, cname: bool, region: Option<&str>) -> Result<Self, Error> {
        if !is_bucket_name(bucket) {
            let reason = "a bucket name has 3 to 63 of a-z, 0-9 and '-', and '-' not at an end";
            return Err(Error::setting("bucket", bucket, reason));
        }
        let mut authority =
            Authority::parse(text).map_err(|reason| Error::setting("endpoint", text, reason))?;
        if let Some(region) = region.filter(|region| !is_host_name(region)) {
            let reason = "a region has letters, digits and '-', like cn-hangzhou";
            return Err(Error::setting("region", region, reason));
        }
        let region = region
            .map(|region| region.strip_prefix("oss-").unwrap_or(region).to_owned())
            .or_else(|| infer_region(&authority.host));
        let style = if cname {
            Style::Cname
        } else if authority.host.parse::<IpAddr>().is_ok() {
            Style::Path
        } else {
            authority.host = format!("{bucket}.{}", authority.host);
            Style::VirtualHost
        };
        Ok(Self { authority, style, region })
    }

    /// The same bucket by way of a proxy.
    pub(super) fn through(mut self, proxy: Option<Arc<Proxy>>) -> Self {
        self.authority.proxy = proxy;
        self
    }

    /// Where to connect to.
    pub(super) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Region for signature V4, if known.
    pub(super) fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }

    /// The request target's path for a key; the empty key means the bucket itself.
    pub(super) fn path(&self, bucket: &str, key: &str) -> String {
        match self.style {
            Style::Path => format!("/{bucket}/{}", uri::path(key)),
            Style::VirtualHost | Style::Cname => format!("/{}", uri::path(key)),
        }
    }
}

/// Splits `host[:port]`, `[v6][:port]`.
fn split_port(text: &str) -> Result<(&str, Option<u16>), &'static str> {
    let parse = |port: &str| match port.parse::<u16>() {
        Ok(port) if port != 0 => Ok(Some(port)),
        _ => Err("the port must be 1 to 65535"),
    };
    if let Some(inner) = text.strip_prefix('[') {
        let (host, rest) = inner.split_once(']').ok_or("a '[' has no matching ']'")?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, parse(port)?)),
            None if rest.is_empty() => Ok((host, None)),
            None => Err("unexpected text behind ']'"),
        };
    }
    match text.split_once(':') {
        Some((host, port)) => Ok((host, parse(port)?)),
        None => Ok((text, None)),
    }
}

/// Letters, digits, `-`, `_` and `.`, no empty label (RFC 1123, plus `_` which inner networks use).
fn is_host_name(text: &str) -> bool {
    let valid_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    text.split('.').all(valid_label)
}

/// OSS's rule for names of buckets (py SDK v2 `validation.py`).
fn is_bucket_name(name: &str) -> bool {
    let valid_bytes = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    (3..=63).contains(&name.len()) && valid_bytes && !name.starts_with('-') && !name.ends_with('-')
}

/// `oss-<region>[-internal].aliyuncs.com` and `<region>.oss.aliyuncs.com` name their region; acceleration and
/// other endpoints do not.
fn infer_region(host: &str) -> Option<String> {
    let name = host.strip_suffix(OFFICIAL_DOMAIN)?;
    let region = match name.strip_suffix(".oss") {
        Some(region) => region,
        None => {
            let region = name.strip_prefix("oss-")?;
            region.strip_suffix("-internal").unwrap_or(region)
        }
    };
    is_region(region).then(|| region.to_owned())
}

/// Regions begin with a two-letter country or group code; this keeps `accelerate` out.
fn is_region(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() > 3
        && bytes[..2].iter().all(u8::is_ascii_lowercase)
        && bytes[2] == b'-'
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_a_bucket() {
        // endpoint, cname, Host header, path of key "a b", region, TLS
        let cases = [
            (
                "oss-cn-hangzhou.aliyuncs.com",
                false,
                "buck.oss-cn-hangzhou.aliyuncs.com",
                "/a%20b",
                "cn-hangzhou",
                true,
            ),
            (
                "http://oss-cn-beijing-internal.aliyuncs.com/",
                false,
                "buck.oss-cn-beijing-internal.aliyuncs.com",
                "/a%20b",
                "cn-beijing",
                false,
            ),
            (
                "ap-southeast-1.oss.aliyuncs.com",
                false,
                "buck.ap-southeast-1.oss.aliyuncs.com",
                "/a%20b",
                "ap-southeast-1",
                true,
            ),
            ("oss-accelerate.aliyuncs.com", false, "buck.oss-accelerate.aliyuncs.com", "/a%20b", "", true),
            ("http://127.0.0.1:9000", false, "127.0.0.1:9000", "/buck/a%20b", "", false),
            ("https://[::1]:9000", false, "[::1]:9000", "/buck/a%20b", "", true),
            ("https://OSS.example.com:443", true, "oss.example.com", "/a%20b", "", true),
            ("http://localhost:9000", false, "buck.localhost:9000", "/a%20b", "", false),
        ];
        for (text, cname, host, path, region, tls) in cases {
            let endpoint = Endpoint::new(text, "buck", cname, None).unwrap();
            assert_eq!(endpoint.authority().host_header(), host, "{text}");
            assert_eq!(endpoint.path("buck", "a b"), path, "{text}");
            assert_eq!(endpoint.region().unwrap_or(""), region, "{text}");
            assert_eq!(endpoint.authority().tls, tls, "{text}");
        }
    }

    #[test]
    fn a_given_region_wins() {
        let endpoint =
            Endpoint::new("oss-cn-hangzhou.aliyuncs.com", "buck", false, Some("oss-cn-beijing")).unwrap();
        assert_eq!(endpoint.region(), Some("cn-beijing"));
    }

    #[test]
    fn refuses_what_cannot_be_an_endpoint() {
        for text in [
            "",
            "ftp://host",
            "http://host/path",
            "host:0",
            "host:99999",
            "[::1",
            "[::1]x",
            "a..b",
            "a b",
            "u@host",
        ] {
            assert!(Endpoint::new(text, "buck", false, None).is_err(), "{text}");
        }
        // A region goes into the head of each request.
        for region in ["", "cn hangzhou", "cn\r\nx: y"] {
            assert!(Endpoint::new("host", "buck", false, Some(region)).is_err(), "{region:?}");
        }
        for bucket in ["", "ab", "Buck", "-abc", "abc-", "a.b.c", "a/b"] {
            assert!(Endpoint::new("host", bucket, false, None).is_err(), "{bucket}");
        }
    }
}

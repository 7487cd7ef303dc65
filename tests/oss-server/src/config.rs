//! What a server is started with.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Access key id of the default configuration.
pub const ACCESS_KEY_ID: &str = "AKIDTESTSERVER000001";
/// Its secret.
pub const ACCESS_KEY_SECRET: &str = "SKTESTSERVERSECRET0001";

/// An access key known from the start; more can be added later with `Server::keys`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessKey {
    /// Access key id.
    pub id: String,
    /// Access key secret.
    pub secret: String,
    /// Security token the key must come with, if it is a temporary one.
    pub token: Option<String>,
}

/// What a server is started with. The default is a private bucket on a free loopback port, without limits or TLS.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Name of the one bucket.
    pub bucket: String,
    /// Region that V4 signatures must name.
    pub region: String,
    /// Access keys.
    pub access_keys: Vec<AccessKey>,
    /// Whether unsigned reads are allowed.
    pub public: bool,
    /// Bytes per second of all bodies together; 0 is no limit.
    pub rate: u64,
    /// Bytes per second of the bodies on one connection; 0 is no limit.
    pub connection_rate: u64,
    /// Most entries of a listing page, whatever the client asks for.
    pub page_limit: Option<usize>,
    /// Host names that stand for the bucket, as a custom domain (CNAME) does.
    pub custom_domains: Vec<String>,
    /// Whether to speak TLS, with a certificate of the server's own authority.
    pub tls: bool,
    /// Host names of the certificate, besides `localhost`, `<bucket>.localhost` and the loopback addresses.
    pub tls_names: Vec<String>,
    /// File for one JSON line a request.
    pub log_file: Option<PathBuf>,
    /// Whether requests stay in memory for `Server::log` after their end. Long runs of the program do without.
    pub keep_log: bool,
    /// Whether and how to hand out credentials.
    pub metadata: Option<MetadataConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            bucket: "test-bucket".to_owned(),
            region: "cn-hangzhou".to_owned(),
            access_keys: vec![AccessKey {
                id: ACCESS_KEY_ID.to_owned(),
                secret: ACCESS_KEY_SECRET.to_owned(),
                token: None,
            }],
            public: false,
            rate: 0,
            connection_rate: 0,
            page_limit: None,
            custom_domains: Vec::new(),
            tls: false,
            tls_names: Vec::new(),
            log_file: None,
            keep_log: true,
            metadata: None,
        }
    }
}

/// The stand-ins for the instance metadata service and for AssumeRoleWithOIDC, both on the server's own port.
#[derive(Debug, Clone)]
pub struct MetadataConfig {
    /// Name of the instance's RAM role.
    pub role: String,
    /// Whether metadata needs a session token first (IMDSv2 only).
    pub require_token: bool,
    /// Role that may be assumed.
    pub role_arn: String,
    /// Identity provider that must be named.
    pub oidc_provider_arn: String,
    /// OIDC token that must be presented.
    pub oidc_token: String,
    /// Life of issued credentials in seconds.
    pub lifetime: i64,
}

impl Default for MetadataConfig {
    fn default() -> Self {
        Self {
            role: "test-role".to_owned(),
            require_token: false,
            role_arn: "acs:ram::1000:role/test-role".to_owned(),
            oidc_provider_arn: "acs:ram::1000:oidc-provider/test".to_owned(),
            oidc_token: "test-oidc-token".to_owned(),
            lifetime: 3600,
        }
    }
}

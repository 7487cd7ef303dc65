//! OSS client: signing, listing, metadata, ranged GET on kept-alive connections. (stub: signatures of the contract)
use std::net::IpAddr;
use std::path::PathBuf;

use crate::base::{ByteRange, Object};

/// Checked settings of the client; `config` builds it.
#[derive(Debug, Clone)]
pub struct Config {
    /// Endpoint as the user wrote it, e.g. `oss-cn-hangzhou-internal.aliyuncs.com` or `http://127.0.0.1:9000`.
    pub endpoint: String,
    /// Bucket and prefix, from `oss://bucket/prefix/`.
    pub bucket: String,
    /// Prefix, "" or ending in `/`, or the key of a single object.
    pub prefix: String,
    /// Region; None = inferred from the endpoint; still none = signature V1.
    pub region: Option<String>,
    /// Endpoint is a CNAME of the bucket.
    pub cname: bool,
    /// Extra trusted roots, PEM.
    pub ca_file: Option<PathBuf>,
}

/// Failure of a request or of its set-up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// stub
    #[error("stub")]
    Stub,
}

/// Shared by all workers.
#[derive(Debug, Clone)]
pub struct Client {}

impl Client {
    /// All objects under the prefix, in key order.
    pub async fn list(&self) -> Result<Vec<Object>, Error> {
        unimplemented!()
    }
    /// One object's metadata.
    pub async fn head(&self, _key: &str) -> Result<Object, Error> {
        unimplemented!()
    }
    /// A lazily connected, kept-alive connection for ranged GETs, bound to `source` before connect.
    pub fn connection(&self, _source: Option<IpAddr>) -> Connection {
        unimplemented!()
    }
}

/// One HTTP/1.1 connection, owned by one task.
#[derive(Debug)]
pub struct Connection {}

impl Connection {
    /// One try of a ranged GET: no retry inside except the reconnect of a kept-alive connection found dead.
    /// Resolves when the head is checked: 206, right start, right total, right ETag.
    pub async fn get<'a>(&'a mut self, _object: &Object, _range: ByteRange) -> Result<Body<'a>, Error> {
        unimplemented!()
    }
}

/// The body being received.
#[derive(Debug)]
pub struct Body<'a> {
    _connection: &'a mut Connection,
}

impl Body<'_> {
    /// `x-oss-hash-crc64ecma` of the whole object, if the reply had it.
    pub fn object_crc64(&self) -> Option<u64> {
        unimplemented!()
    }
    /// The next bytes, up to `max` of them; lent from the connection's buffer. None at the end of the range.
    pub async fn next(&mut self, _max: usize) -> Result<Option<&[u8]>, Error> {
        unimplemented!()
    }
}

//! The client: settings resolved, credentials and clock shared, and the requests that are small: listing and
//! metadata. These retry here, on the schedules of `retry`. Faults that a request can mend itself (a clock that
//! is off, keys that ran out) are mended once per request, for these and for the data path (`Repair`).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;

use super::clock::Clock;
use super::config::Config;
use super::connection::Connection;
use super::credentials::{CredentialCache, Credentials};
use super::dial::Dialer;
use super::endpoint::Endpoint;
use super::error::{Error, ReplyFacts, ServiceError, printable};
use super::http::{self, Limits, Reply};
use super::proxy::{self, Proxy};
use super::requests::{About, Operation, Requests, Watchers};
use super::retry::Retry;
use super::sign::{self, Signer};
use super::{list, metadata, tls, uri};
use crate::base::{Nic, Object, chain, millis};
use crate::metrics;

/// Size of a reply's body, bytes: 1000 keys of 1024 bytes, percent-encoded, with their metadata, are under 5 MiB.
const MAX_REPLY_BYTES: usize = 16 << 20;
/// A prefix with more objects than this is no model; usually OSS_PATH names a whole bucket by mistake.
const MAX_OBJECTS: usize = 200_000;
/// Pages may be empty and still not be the last; so many of them are a server that runs in circles.
const MAX_PAGES: usize = 10_000;

/// Lists, describes and connects. Cheap to clone; shared by all workers.
#[derive(Debug, Clone)]
pub struct Client {
    pub(super) shared: Arc<Shared>,
}

/// What all clones and connections of a client have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) endpoint: Endpoint,
    pub(super) bucket: String,
    prefix: String,
    pub(super) signer: Signer,
    pub(super) clock: Clock,
    pub(super) credentials: CredentialCache,
    pub(super) dialer: Dialer,
    /// Silence after which a request is given up.
    pub(super) request_timeout: Duration,
}

impl Client {
    /// Resolves the settings. Nothing is sent yet; the trust stores are read if TLS is wanted.
    pub fn new(config: Config) -> Result<Self, Error> {
        Self::watched(config, Watchers::default())
    }

    /// The same, and others hear of each request.
    pub fn watched(config: Config, watchers: Watchers) -> Result<Self, Error> {
        let endpoint =
            Endpoint::new(&config.endpoint, &config.bucket, config.cname, config.region.as_deref())?;
        let proxy = config.proxy.as_ref().map(Proxy::parse).transpose()?;
        let endpoint = endpoint.through(proxy.map(Arc::new));
        let tls = if endpoint.authority().tls || config.credentials.wants_tls() {
            Some(tls::client_config(config.ca_file.as_deref())?)
        } else {
            None
        };
        let signer = Signer::new(endpoint.region());
        let clock = Clock::default();
        let credentials = CredentialCache::new(config.credentials, clock.clone());
        let Config { bucket, prefix, sources, request_timeout, .. } = config;
        let requests = Requests::new(watchers, &sources);
        let dialer = Dialer::new(tls, sources, requests);
        Ok(Self {
            shared: Arc::new(Shared {
                endpoint,
                bucket,
                prefix,
                signer,
                clock,
                credentials,
                dialer,
                request_timeout,
            }),
        })
    }

    /// Counts of what this client and its connections do.
    #[must_use]
    pub fn metrics(&self) -> metrics::Requests {
        self.shared.dialer.requests.metrics.clone()
    }

    /// All objects under the prefix, in key order, or the one object it names. Directory markers are among them,
    /// with a `/` at the end of the name. Nothing found is an error.
    pub async fn list(&self) -> Result<Vec<Object>, Error> {
        let prefix = self.shared.prefix.as_str();
        let objects = if prefix.is_empty() || prefix.ends_with('/') {
            self.shared.list(prefix).await?
        } else {
            match self.head(prefix).await {
                Ok(object) => return Ok(vec![object]),
                // No such object, or rights for what is below it only: a directory without its slash.
                Err(Error::Service(error))
                    if error.code != "NoSuchBucket" && matches!(error.status, 403 | 404) =>
                {
                    tracing::debug!(%error, "OSS_PATH names no object; taking it for a directory");
                    self.shared.list(&format!("{prefix}/")).await?
                }
                Err(error) => return Err(error),
            }
        };
        if objects.is_empty() {
            return Err(Error::NoObject { target: self.shared.target(prefix) });
        }
        Ok(objects)
    }

    /// One object's metadata, with its checksum if OSS has one.
    pub async fn head(&self, key: &str) -> Result<Object, Error> {
        self.shared.head(key).await
    }

    /// A lazily connected, kept-alive connection for ranged GETs, bound to `source` before connect.
    #[must_use]
    pub fn connection(&self, source: Option<Nic>) -> Connection {
        Connection::new(Arc::clone(&self.shared), source)
    }
}

impl Shared {
    /// `oss://bucket/key`, for messages.
    pub(super) fn target(&self, key: &str) -> String {
        format!("oss://{}/{}", self.bucket, printable(key))
    }

    /// An object's name below the prefix; of an object that the prefix names itself, the last part of its key.
    fn name<'a>(&self, key: &'a str) -> &'a str {
        let prefix = self.prefix.as_str();
        let below = key.strip_prefix(prefix);
        let is_directory = prefix.is_empty() || prefix.ends_with('/');
        let name = if is_directory { below } else { below.and_then(|rest| rest.strip_prefix('/')) };
        name.unwrap_or_else(|| key.rsplit('/').next().unwrap_or(key))
    }

    /// One object's metadata.
    pub(super) async fn head(&self, key: &str) -> Result<Object, Error> {
        let reply = self.request(Method::HEAD, key, &[]).await?;
        metadata::from_head(key, self.name(key), &reply)
            .map_err(|reason| Error::protocol(&self.target(key), reason))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Object>, Error> {
        let refuse =
            |reason: String| Error::Listing { target: self.target(prefix), reason: printable(&reason) };
        let mut objects: Vec<Object> = Vec::new();
        let mut token: Option<String> = None;
        let mut seen = HashSet::new();
        for _ in 0..MAX_PAGES {
            let mut query = vec![("list-type", "2"), ("max-keys", list::MAX_KEYS), ("encoding-type", "url")];
            query.extend((!prefix.is_empty()).then_some(("prefix", prefix)));
            query.extend(token.as_deref().map(|token| ("continuation-token", token)));
            let reply = self.request(Method::GET, "", &query).await?;
            let page = list::parse(&reply.body, prefix).map_err(refuse)?;
            objects.extend(page.objects);
            if objects.len() > MAX_OBJECTS {
                return Err(refuse(format!(
                    "it has more than {MAX_OBJECTS} objects; is OSS_PATH the model?"
                )));
            }
            let Some(next) = page.next else {
                objects.sort_by(|a, b| a.key.cmp(&b.key));
                objects.dedup_by(|a, b| a.key == b.key);
                return Ok(objects);
            };
            if !seen.insert(next.clone()) {
                return Err(refuse("the same page came twice".to_owned()));
            }
            token = Some(next);
        }
        Err(refuse(format!("it has more than {MAX_PAGES} pages")))
    }

    /// Sends a request until it succeeds (200) or further tries are of no use.
    async fn request(&self, method: Method, key: &str, query: &[(&str, &str)]) -> Result<Reply, Error> {
        let mut repair = Repair::default();
        let mut retry = Retry::default();
        let mut tries = 0;
        loop {
            tries += 1;
            let error = match self.attempt(&method, key, query, tries, &mut repair).await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            if repair.mend(self, &error).await {
                continue;
            }
            let Some(wait) = retry.wait(&error, fastrand::f64()) else { return Err(error) };
            tracing::warn!(
                error = chain(&error),
                wait_ms = millis(wait),
                "request to OSS failed; trying again"
            );
            tokio::time::sleep(wait).await;
            // A try made later may mend again: one server whose clock is off must not spoil all that follow.
            repair = Repair::default();
        }
    }

    async fn attempt(
        &self,
        method: &Method,
        key: &str,
        query: &[(&str, &str)],
        tries: u32,
        repair: &mut Repair,
    ) -> Result<Reply, Error> {
        let credentials = self.credentials.get(&self.dialer).await?;
        repair.used.clone_from(&credentials);
        let operation = if *method == Method::HEAD { "HEAD" } else { "GET" };
        let signed = match &credentials {
            Some(credentials) => {
                let request =
                    sign::Request { method: operation, bucket: &self.bucket, key, query, headers: &[] };
                self.signer.sign(&request, credentials, self.clock.now())?
            }
            None => Vec::new(),
        };
        let headers: Vec<(&str, &str)> = signed.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let path = self.endpoint.path(&self.bucket, key);
        let target = if query.is_empty() { path } else { format!("{path}?{}", uri::query(query)) };
        let prefix = query.iter().find(|(name, _)| *name == "prefix").map_or(key, |(_, prefix)| prefix);
        let kind = if *method == Method::HEAD { Operation::Head } else { Operation::List };
        let request = http::Request {
            method: method.clone(),
            authority: self.endpoint.authority(),
            target: &target,
            headers: &headers,
            body: Bytes::new(),
            about: About::small(kind, prefix, tries),
        };
        let about = self.target(prefix);
        // OSS answers in milliseconds, and a page of 1000 keys is a megabyte at most.
        let limits = Limits { time: self.request_timeout * 3 / 2, body_bytes: MAX_REPLY_BYTES };
        let mut reply = http::exchange(&self.dialer, request, limits)
            .await
            .map_err(|error| Error::transport(&about, operation, error))?;
        if reply.status == 200 {
            return Ok(reply);
        }
        let facts = ReplyFacts {
            status: reply.status,
            request_id: reply.header("x-oss-request-id"),
            ec: reply.header("x-oss-ec"),
            err: reply.header("x-oss-err"),
            date: reply.header("date"),
            proxy: proxy::answerer(
                self.endpoint.authority().reading_proxy(),
                reply.header("x-oss-request-id"),
            ),
            body: &reply.body,
        };
        let error = ServiceError::new(operation, &about, &facts);
        Err(reply.sent.failed(Error::Service(Box::new(error))))
    }
}

/// Faults that a try of a request mends by itself, each once.
#[derive(Debug, Default)]
pub(super) struct Repair {
    /// Keys of the last try.
    pub(super) used: Option<Arc<Credentials>>,
    clock: bool,
    credentials: bool,
}

impl Repair {
    /// Whether the fault behind `error` was mended, so that the request should be signed and sent again.
    pub(super) async fn mend(&mut self, shared: &Shared, error: &Error) -> bool {
        let Some(service) = error.service() else { return false };
        if let Some(text) = service.string_to_sign() {
            tracing::debug!(string_to_sign = text, target = service.target, "OSS signed this text");
        }
        if service.is_skewed_clock() && !self.clock {
            self.clock = true;
            return service.date.as_deref().is_some_and(|date| shared.clock.correct(date));
        }
        if error.is_expired_credentials() && !self.credentials {
            self.credentials = true;
            let Some(used) = &self.used else { return false };
            return shared.credentials.replace(used, &shared.dialer).await;
        }
        false
    }
}

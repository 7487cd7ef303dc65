//! From a request to the reply that will be sent: the server's whole behaviour, without sockets.
//!
//! Order of events: find out what is asked, ask the fault rules, enter the log, verify the signature, do the operation,
//! dress the result. All state the parts share lives here, each piece with its one owner.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use crate::address::{self, Address};
use crate::auth::{Authorization, Judge, Keys};
use crate::clock::{self, Clock};
use crate::config::Config;
use crate::error::OssError;
use crate::faults::{Change, Faults, Plan, Subject};
use crate::get;
use crate::list;
use crate::log::{End, Entry, Log, Operation};
use crate::metadata::Metadata;
use crate::objects::{Objects, object_for_key};
use crate::range::{Selection, select};
use crate::rate::Limiter;
use crate::request::Request;
use crate::response::Response;
use crate::send::Reply;

/// Bounds of `x-oss-traffic-limit` in bits per second (OSS "single-connection bandwidth throttling").
const TRAFFIC_LIMITS: std::ops::RangeInclusive<u64> = 819_200..=838_860_800;

/// Stands for "no limit" where pages can be limited.
const NO_PAGE_LIMIT: usize = usize::MAX;

/// Everything a server knows and does.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) config: Config,
    pub(crate) objects: Objects,
    pub(crate) keys: Keys,
    pub(crate) faults: Faults,
    pub(crate) clock: Clock,
    pub(crate) limiter: Limiter,
    pub(crate) log: Log,
    pub(crate) metadata: Option<Metadata>,
    page_limit: AtomicUsize,
    requests: AtomicU64,
}

/// Where a request came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    /// The client's address.
    pub(crate) peer: SocketAddr,
    /// Number of the connection.
    pub(crate) connection: u64,
}

impl Service {
    /// A service with no objects yet.
    pub(crate) fn new(config: Config) -> std::io::Result<Self> {
        let keys = Keys::default();
        for key in &config.access_keys {
            match &key.token {
                Some(token) => keys.add_issued(&key.id, &key.secret, token, None),
                None => keys.add(&key.id, &key.secret),
            }
        }
        Ok(Self {
            objects: Objects::default(),
            keys,
            faults: Faults::default(),
            clock: Clock::default(),
            limiter: Limiter::new(config.rate, config.connection_rate),
            log: Log::new(config.log_file.as_deref(), config.keep_log)?,
            metadata: config.metadata.clone().map(Metadata::new),
            page_limit: AtomicUsize::new(config.page_limit.unwrap_or(NO_PAGE_LIMIT)),
            requests: AtomicU64::new(0),
            config,
        })
    }

    /// Sets the most entries of a listing page.
    pub(crate) fn set_page_limit(&self, limit: Option<usize>) {
        self.page_limit.store(limit.unwrap_or(NO_PAGE_LIMIT), Ordering::Relaxed);
    }

    /// Answers a request. `None` if the connection is to be closed without a reply.
    pub(crate) fn answer(&self, request: &Request, origin: Origin) -> Option<Reply> {
        let started = Instant::now();
        let address = address::resolve(request, &self.config.bucket, &self.config.custom_domains);
        let named = address.as_ref().map_or_else(|_| Address::default(), Clone::clone);
        let operation = self.operation(request, &named);
        let subject_key = match operation {
            Operation::List => request.param("prefix").unwrap_or_default(),
            Operation::Metadata | Operation::Sts => &request.path,
            _ => &named.key,
        };
        let id = self.log.begin(entry(request, &named, operation, subject_key, origin, started));
        let range = if operation == Operation::Get { self.asked_range(request, &named.key) } else { None };
        let subject = Subject { operation, method: &request.method, key: subject_key, range };
        let mut plan = self.faults.plan(&subject);
        if plan.close {
            self.log.finish(id, End::Cut);
            return None;
        }
        self.apply(&mut plan);
        let request_id = self.request_id();
        let now = self.clock.now() + plan.skew;
        let document = plan.document.take();
        let result = match (plan.error.take(), document) {
            (Some(error), _) => Err(error),
            (None, Some((status, text))) => Ok(Response::text(status, "application/xml", text)),
            (None, None) => {
                address.and_then(|address| self.perform(request, &address, operation, now, &mut plan))
            }
        };
        let head_only = request.method == "HEAD";
        let mut response =
            result.unwrap_or_else(|error| Response::error(&error, head_only, &request_id, request.host()));
        response.length += plan.declared_excess;
        self.log.update(id, |entry| {
            entry.status = response.status;
            entry.code = response.code.clone();
            entry.range = response.body.range();
        });
        plan.close_after |= wants_close(request);
        let elapsed = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let common = [
            ("Server", "AliyunOSS"),
            ("Date", &clock::http_date(now)),
            ("Connection", if wants_close(request) { "close" } else { "keep-alive" }),
            ("x-oss-request-id", &request_id),
            ("x-oss-server-time", &elapsed.to_string()),
        ];
        let head = response.head(&common, &plan.headers);
        Some(Reply { id, head, body: response.body, plan })
    }

    fn operation(&self, request: &Request, address: &Address) -> Operation {
        if self.metadata.is_some() {
            if request.path.starts_with("/latest/") {
                return Operation::Metadata;
            }
            if request.method == "POST" && request.param("Action").is_some() {
                return Operation::Sts;
            }
        }
        match (request.method.as_str(), address.key.is_empty()) {
            ("GET", true) if !address.bucket.is_empty() => Operation::List,
            ("GET", false) => Operation::Get,
            ("HEAD", false) if request.param("objectMeta").is_some() => Operation::Meta,
            ("HEAD", false) => Operation::Head,
            _ => Operation::Other,
        }
    }

    /// The bytes a GET asks for, if the object is there and has them.
    fn asked_range(&self, request: &Request, key: &str) -> Option<Range<u64>> {
        let size = self.objects.get(key)?.size();
        let standard = request.header("x-oss-range-behavior") == Some("standard");
        match select(request.header("range"), standard, size) {
            Selection::Whole => Some(0..size),
            Selection::Part(range) => Some(range),
            Selection::Refused => None,
        }
    }

    /// Makes the changes of the bucket a plan demands.
    fn apply(&self, plan: &mut Plan) {
        for change in plan.changes.drain(..) {
            match change {
                Change::Delete(key) => {
                    self.objects.delete(&key);
                }
                Change::Put(key, size) => {
                    self.objects.put(&key, object_for_key(&key, size), self.clock.now());
                }
            }
        }
    }

    /// Verifies the signature and does the operation.
    fn perform(
        &self,
        request: &Request,
        address: &Address,
        operation: Operation,
        now: i64,
        plan: &mut Plan,
    ) -> Result<Response, OssError> {
        if let (Operation::Metadata | Operation::Sts, Some(metadata)) = (operation, &self.metadata) {
            return Ok(metadata.answer(request, &self.keys, now));
        }
        let judge = Judge { keys: &self.keys, region: &self.config.region, public: self.config.public, now };
        judge.verify(request, address)?;
        if operation == Operation::Other {
            return Err(OssError::of("MethodNotAllowed"));
        }
        if address.bucket != self.config.bucket {
            return Err(OssError::of("NoSuchBucket").detail("BucketName", address.bucket.as_str()));
        }
        if operation == Operation::List {
            let limit = Some(self.page_limit.load(Ordering::Relaxed)).filter(|&limit| limit != NO_PAGE_LIMIT);
            let document = list::answer(request, &address.bucket, &self.objects.read(), limit)?;
            return Ok(Response::text(200, "application/xml", document));
        }
        if let Some(limit) = traffic_limit(request)? {
            plan.rate = if plan.rate == 0 { limit } else { plan.rate.min(limit) };
        }
        let missing = || OssError::of("NoSuchKey").detail("Key", address.key.as_str());
        let object = self.objects.get(&address.key).ok_or_else(missing)?;
        get::answer(request, &object, plan.distortion)
    }

    /// 24 upper-case hexadecimal digits, unique within the server.
    fn request_id(&self) -> String {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        format!("{:08X}{number:016X}", u32::try_from(self.clock.now()).unwrap_or(0))
    }
}

fn entry(
    request: &Request,
    address: &Address,
    operation: Operation,
    key: &str,
    origin: Origin,
    started: Instant,
) -> Entry {
    Entry {
        id: 0,
        connection: origin.connection,
        peer: origin.peer,
        operation,
        method: request.method.clone(),
        bucket: address.bucket.clone(),
        key: key.to_owned(),
        query: request.raw_query.clone(),
        range: None,
        range_header: request.header("range").map(str::to_owned),
        if_match: request.header("if-match").map(str::to_owned),
        authorization: Authorization::of(request),
        status: 0,
        code: None,
        sent: 0,
        started,
        ended: None,
        end: End::Running,
    }
}

/// Bytes per second of `x-oss-traffic-limit`, given in bits per second in a header or the query.
fn traffic_limit(request: &Request) -> Result<Option<u64>, OssError> {
    let name = "x-oss-traffic-limit";
    let Some(text) = request.header(name).or_else(|| request.param(name)) else { return Ok(None) };
    let bits = text.parse().ok().filter(|bits| TRAFFIC_LIMITS.contains(bits));
    let bits: u64 = bits.ok_or_else(|| OssError::of("InvalidArgument").detail("ArgumentName", name))?;
    Ok(Some(bits / 8))
}

fn wants_close(request: &Request) -> bool {
    request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
}

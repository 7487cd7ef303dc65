//! What is counted where it happens: requests to OSS, the bytes they bring, how long readers are held, whether plans were
//! right. Each part keeps the counters of what it does; clones share their numbers, so `status` has clones and shows
//! them to people and to Prometheus. Numbers that a part has anyway (blocks, files, connections) are not counted here.
//!
//! Counting a byte or a reader touches atomics alone; the end of a request takes a lock for its labels, once.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::exponential_buckets;

pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::histogram::Histogram;

use crate::base::Nic;

/// What bytes come through where no NIC is named.
pub const ROUTES: &str = "routes";
/// Codes of OSS that have a label of their own, at most: OSS has some dozens, and who answers in its place may have
/// any number.
const MOST_CODES: usize = 64;
/// Longest code with a label of its own, bytes.
const LONGEST_CODE: usize = 64;
/// Of further ones.
const OTHER_CODE: &str = "other";

/// Values of labels.
pub type Labels<const N: usize> = [(&'static str, String); N];

/// Requests to OSS and what they bring.
#[derive(Debug, Clone)]
pub struct Requests(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ended: Family<Labels<3>, Counter>,
    retries: Family<Labels<1>, Counter>,
    durations: Family<Labels<1>, Histogram, fn() -> Histogram>,
    first_bytes: Histogram,
    /// Bytes of objects, of each NIC by its name.
    received: Vec<(String, Counter)>,
    sums: Sums<Counter>,
    codes: Mutex<BTreeSet<String>>,
}

/// Sums over all requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums<N = u64> {
    /// Requests that have ended.
    pub ended: N,
    /// Those of them without a reply, or with a status of 400 and more.
    pub failed: N,
    /// Those of them whose rest was asked for on another connection, or was not wanted any more.
    pub given_up: N,
    /// Requests that were begun as another try.
    pub retried: N,
}

impl Default for Requests {
    /// Through no NIC that was named.
    fn default() -> Self {
        Self::new(&[])
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End<'a> {
    /// With a reply: its status, and `Code` of OSS's error.
    Reply {
        /// HTTP status.
        status: u16,
        /// `Code`, if it is an error.
        code: Option<&'a str>,
    },
    /// Without one.
    NoReply,
    /// Its rest was asked for on another connection, or is not wanted any more.
    GivenUp,
}

impl Requests {
    /// Nothing yet, through these NICs; through the routes' choice if there are none.
    #[must_use]
    pub fn new(nics: &[Nic]) -> Self {
        let mut names: Vec<_> = nics.iter().map(Nic::to_string).collect();
        if names.is_empty() {
            names.push(ROUTES.to_owned());
        }
        let retries = Family::<Labels<1>, Counter>::default();
        // Shown from the start: what appears only with the first retry looks like none before it to rate().
        drop(retries.get_or_create(&[("operation", "get".to_owned())]));
        Self(Arc::new(Inner {
            ended: Family::default(),
            retries,
            durations: Family::new_with_constructor(seconds),
            first_bytes: seconds(),
            received: names.into_iter().map(|name| (name, Counter::default())).collect(),
            sums: Sums::default(),
            codes: Mutex::default(),
        }))
    }

    /// A request is sent once more.
    pub fn retried(&self, operation: &str) {
        self.0.sums.retried.inc();
        self.0.retries.get_or_create(&[("operation", operation.to_owned())]).inc();
    }

    /// Counts bytes of objects that come through a NIC.
    #[must_use]
    pub fn received(&self, nic: Option<&Nic>) -> Option<Counter> {
        let name = nic.map_or_else(|| ROUTES.to_owned(), Nic::to_string);
        self.0.received.iter().find(|(known, _)| *known == name).map(|(_, counter)| counter.clone())
    }

    /// The head of a range's reply has come, so long after the request was begun.
    pub fn answered(&self, after: Duration) {
        self.0.first_bytes.observe(after.as_secs_f64());
    }

    /// A request has ended, after this time.
    pub fn ended(&self, operation: &str, end: End<'_>, took: Duration) {
        self.0.sums.ended.inc();
        let (status, code) = match end {
            End::GivenUp => {
                self.0.sums.given_up.inc();
                ("given_up".to_owned(), String::new())
            }
            End::NoReply => {
                self.0.sums.failed.inc();
                ("none".to_owned(), String::new())
            }
            End::Reply { status, code } => {
                if status >= 400 {
                    self.0.sums.failed.inc();
                }
                (status.to_string(), code.map_or_else(String::new, |code| self.label_of(code)))
            }
        };
        let labels = [("operation", operation.to_owned()), ("status", status), ("code", code)];
        self.0.ended.get_or_create(&labels).inc();
        let durations = &self.0.durations;
        durations.get_or_create(&[("operation", operation.to_owned())]).observe(took.as_secs_f64());
    }

    /// A code comes from outside: few and short ones become labels.
    fn label_of(&self, code: &str) -> String {
        let is_word = code.len() <= LONGEST_CODE && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let mut codes = self.0.codes.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = codes.len() < MOST_CODES;
        if is_word && (codes.contains(code) || (has_room && codes.insert(code.to_owned()))) {
            code.to_owned()
        } else {
            OTHER_CODE.to_owned()
        }
    }

    /// The sums so far.
    #[must_use]
    pub fn sums(&self) -> Sums {
        let Sums { ended, failed, given_up, retried } = &self.0.sums;
        Sums { ended: ended.get(), failed: failed.get(), given_up: given_up.get(), retried: retried.get() }
    }

    /// Bytes of objects received so far, of each NIC by its name, in the order of the configuration.
    pub fn received_by_nic(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.received.iter().map(|(name, counter)| (name.as_str(), counter.get()))
    }

    /// Requests that have ended, by `operation`, `status` and `code`.
    #[must_use]
    pub fn by_outcome(&self) -> Family<Labels<3>, Counter> {
        self.0.ended.clone()
    }

    /// Requests begun as another try, by `operation`.
    #[must_use]
    pub fn retries(&self) -> Family<Labels<1>, Counter> {
        self.0.retries.clone()
    }

    /// How long requests took to their last byte, by `operation`, in seconds.
    #[must_use]
    pub fn durations(&self) -> Family<Labels<1>, Histogram, fn() -> Histogram> {
        self.0.durations.clone()
    }

    /// How long the heads of ranges' replies took, in seconds.
    #[must_use]
    pub fn first_bytes(&self) -> Histogram {
        self.0.first_bytes.clone()
    }
}

/// Whether readers found their bytes there when they first came to a block.
#[derive(Debug, Clone, Default)]
pub struct Foresight {
    /// They did.
    pub hits: Counter,
    /// They had to wait.
    pub misses: Counter,
}

/// Why a file gave up memory or space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Nobody had used it for long.
    Expired,
    /// All files together took more memory than they may.
    Budget,
    /// An operator asked.
    Asked,
}

impl Cause {
    const ALL: [Self; 3] = [Self::Expired, Self::Budget, Self::Asked];
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "expired",
            Self::Budget => "budget",
            Self::Asked => "asked",
        })
    }
}

/// What files gave up.
#[derive(Debug, Clone)]
pub struct Room {
    evictions: Family<Labels<1>, Counter>,
    freed: Family<Labels<1>, Counter>,
    /// Bytes of memory that files took at the last look.
    memory: Arc<AtomicU64>,
}

impl Default for Room {
    /// With every cause shown from the start.
    fn default() -> Self {
        let room = Self { evictions: Family::default(), freed: Family::default(), memory: Arc::default() };
        Cause::ALL.into_iter().for_each(|cause| room.add(cause, 0, 0));
        room
    }
}

impl Room {
    /// A file gave up so many bytes.
    pub fn evicted(&self, cause: Cause, bytes: u64) {
        self.add(cause, 1, bytes);
    }

    fn add(&self, cause: Cause, files: u64, bytes: u64) {
        let label = [("cause", cause.to_string())];
        self.evictions.get_or_create(&label).inc_by(files);
        self.freed.get_or_create(&label).inc_by(bytes);
    }

    /// Files take so many bytes of memory.
    pub fn set_memory(&self, bytes: u64) {
        self.memory.store(bytes, Ordering::Relaxed);
    }

    /// Bytes of memory that files took at the last look; 0 before it.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.memory.load(Ordering::Relaxed)
    }

    /// How often a file gave up something, and how many bytes that were.
    #[must_use]
    pub fn sums(&self) -> (u64, u64) {
        let sum = |family: &Family<Labels<1>, Counter>| {
            Cause::ALL.iter().map(|cause| family.get_or_create(&[("cause", cause.to_string())]).get()).sum()
        };
        (sum(&self.evictions), sum(&self.freed))
    }

    /// Evictions by `cause`.
    #[must_use]
    pub fn evictions(&self) -> Family<Labels<1>, Counter> {
        self.evictions.clone()
    }

    /// Bytes given up, by `cause`.
    #[must_use]
    pub fn freed(&self) -> Family<Labels<1>, Counter> {
        self.freed.clone()
    }
}

/// Times of requests and of held readers, from a millisecond to two minutes.
#[must_use]
pub fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 18))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_from_outside_make_few_labels() {
        let requests = Requests::new(&[]);
        let took = Duration::from_millis(1);
        for nth in 0..1000 {
            let code = format!("Code{nth}");
            requests.ended("get", End::Reply { status: 503, code: Some(&code) }, took);
        }
        for odd in ["a\"b", "a b", &"x".repeat(65), ""] {
            requests.ended("get", End::Reply { status: 503, code: Some(odd) }, took);
        }
        assert_eq!(requests.by_outcome().len(), MOST_CODES + 1);
        requests.ended("get", End::Reply { status: 206, code: None }, took);
        requests.ended("get", End::GivenUp, took);
        assert_eq!(requests.sums(), Sums { ended: 1006, failed: 1004, given_up: 1, retried: 0 });
    }

    #[test]
    fn each_nic_counts_its_bytes() {
        let nics = ["10.0.0.1", "eth1"].map(|name| name.parse().unwrap());
        let requests = Requests::new(&nics);
        requests.received(Some(&nics[1])).unwrap().inc_by(7);
        assert!(requests.received(None).is_none());
        assert_eq!(requests.received_by_nic().collect::<Vec<_>>(), [("10.0.0.1", 0), ("eth1", 7)]);
        let requests = Requests::new(&[]);
        requests.received(None).unwrap().inc_by(7);
        assert_eq!(requests.received_by_nic().collect::<Vec<_>>(), [(ROUTES, 7)]);
    }
}

//! The table: which fault, when, and what comes of it.

use std::fmt;
use std::sync::Arc;

use e2e::agent::exit;
use oss_server::{Fault, Operation, Rule};

use super::case::{A, A_SIZE, Case};

/// Where in the load a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// Before the first byte of the file.
    First,
    /// In the middle of a block that is neither the first nor the last one.
    Middle,
    /// Before the last byte.
    Last,
}

impl When {
    const ALL: [Self; 3] = [Self::First, Self::Middle, Self::Last];

    /// The byte of the file that is next when it strikes.
    pub(super) fn offset(self) -> u64 {
        match self {
            Self::First => 0,
            Self::Middle => (3 << 20) + 4097,
            Self::Last => A_SIZE - 1,
        }
    }
}

/// What comes of it.
#[derive(Debug, Clone)]
pub(super) enum Expect {
    /// The load completes, no reader sees an errno; the log has these words.
    Loads(&'static [&'static str]),
    /// One error with these words, EIO for readers of the place, and the load completes once the fault is gone.
    Heals(&'static [&'static str]),
    /// One error with these words, EIO for readers of the file, for as long as the agent runs.
    Lost(&'static [&'static str]),
    /// The agent ends with this status and these words.
    Ends(i32, &'static [&'static str]),
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Loads([]) => "completes",
            Self::Loads(_) => "is told, completes",
            Self::Heals(_) => "error, EIO; completes when it is over",
            Self::Lost(_) => "error, EIO for good",
            Self::Ends(..) => "ends with a message",
        })
    }
}

/// What a row does beyond its rules.
pub(super) type Step = fn(&Case) -> anyhow::Result<()>;

/// One row.
#[derive(Clone)]
pub(super) struct Row {
    pub(super) fault: String,
    pub(super) when: When,
    pub(super) tls: bool,
    /// Silence that the agent takes, in seconds: short only where silence is the fault, since a busy machine is
    /// silent too.
    pub(super) patience: u32,
    /// What the agent is started with and the server does wrong.
    pub(super) rules: Arc<[Rule]>,
    /// Before the agent is started.
    pub(super) prepare: Step,
    /// While the first request for the place is held, if something is to happen then.
    pub(super) amid: Option<Step>,
    /// Ends the fault, for `Expect::Heals`, besides removing the rules.
    pub(super) heal: Step,
    /// Whether a reader may read the first file before it is complete.
    pub(super) reads_early: bool,
    pub(super) expect: Expect,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when = match self.when {
            When::First => "first byte",
            When::Middle => "mid-block",
            When::Last => "at the end",
        };
        f.pad(&format!("{:<44} {when:<16}", self.fault))
    }
}

fn nothing(_: &Case) -> anyhow::Result<()> {
    Ok(())
}

impl Row {
    fn new(fault: &str, when: When, expect: Expect) -> Self {
        Self {
            fault: fault.to_owned(),
            when,
            tls: false,
            patience: 20,
            rules: Arc::new([]),
            prepare: nothing,
            amid: None,
            heal: nothing,
            reads_early: true,
            expect,
        }
    }

    /// Requests of the first file for the place meet this.
    fn spoiled(mut self, fault: Fault, times: u64) -> Self {
        if matches!(fault, Fault::Stall { .. } | Fault::Drip { .. }) {
            self = self.hasty();
        }
        let rule = Rule::new(fault).operation(Operation::Get).key("*/a.bin").at(self.when.offset());
        self.rules = self.rules.iter().cloned().chain([rule.times(times)]).collect();
        self
    }

    fn hasty(mut self) -> Self {
        self.patience = 1;
        self
    }

    fn with_rule(mut self, rule: Rule) -> Self {
        self.rules = self.rules.iter().cloned().chain([rule]).collect();
        self
    }

    fn amid(mut self, prepare: Step, amid: Step, heal: Step) -> Self {
        (self.prepare, self.amid, self.heal) = (prepare, Some(amid), heal);
        self
    }
}

/// Twice, and then never again.
const PASSES: u64 = 2;
const LASTS: u64 = u64::MAX;

fn error(status: u16, code: &str) -> Fault {
    Fault::Error { status, code: code.to_owned() }
}

fn header(name: &str, value: &str) -> Fault {
    Fault::Header { name: name.to_owned(), value: value.to_owned() }
}

/// All rows.
pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for when in When::ALL {
        rows.extend(passing(when));
        rows.extend(lasting(when));
        rows.extend(amid(when));
    }
    rows.extend(listings());
    rows
}

/// Faults that pass: nobody notices, but the log at level debug.
fn passing(when: When) -> Vec<Row> {
    let after = when.offset();
    let faults: Vec<(&str, Fault)> = vec![
        ("500 InternalError", error(500, "InternalError")),
        ("503 ServiceUnavailable", error(503, "ServiceUnavailable")),
        ("200 with the whole object", Fault::FullBody),
        ("connection closed without a reply", Fault::Close),
        ("connection closed after the reply", Fault::CloseAfter),
        ("body ends early", Fault::Short { after }),
        ("connection reset in the body", Fault::Reset { after }),
        ("silence before the reply", Fault::Stall { after: None, time: None }),
        ("silence in the body", Fault::Stall { after: Some(after), time: None }),
        ("one byte a second", Fault::Drip { rate: 1 }),
        ("Content-Range of another place", Fault::WrongRange { shift: 1 }),
        ("a byte too many, announced", Fault::Excess { bytes: 1, declared: true }),
        ("bytes without end behind the body", Fault::Excess { bytes: u64::MAX, declared: false }),
        ("a head without end", header("x-oss-meta-filler", &"a".repeat(20_000))),
        ("Content-Length beyond u64", header("Content-Length", "99999999999999999999999")),
        ("Transfer-Encoding", header("Transfer-Encoding", "chunked")),
        ("Content-Encoding", header("Content-Encoding", "gzip")),
        ("no usable ETag", header("ETag", "")),
        ("clock off by an hour", Fault::Skew { seconds: 3600 }),
    ];
    let mut rows: Vec<Row> = faults
        .into_iter()
        .map(|(name, fault)| Row::new(name, when, Expect::Loads(&[])).spoiled(fault, PASSES))
        .collect();
    for code in [
        "TotalQpsLimitExceeded",
        "QpsLimitExceeded",
        "MetaOperationQpsLimitExceeded",
        "DownloadTrafficRateLimitExceeded",
        "ActiveRequestLimitExceeded",
    ] {
        let row = Row::new(&format!("503 {code}"), when, Expect::Loads(&[]));
        rows.push(row.spoiled(error(503, code), 1));
    }
    let mut garbled = Row::new("a TLS record that is none", when, Expect::Loads(&[]));
    garbled.tls = true;
    rows.push(garbled.spoiled(Fault::Garble { after }, PASSES));
    let mut flipped = Row::new("a flipped byte", when, Expect::Loads(&["CRC-64 is wrong", A]));
    flipped.reads_early = false;
    rows.push(flipped.spoiled(Fault::Flip { offset: after }, 1));
    rows
}

/// Faults that last.
fn lasting(when: When) -> Vec<Row> {
    let after = when.offset();
    let heals: Vec<(&str, Fault, &[&str])> = vec![
        ("503 ServiceUnavailable, lasting", error(503, "ServiceUnavailable"), &["503 ServiceUnavailable", A]),
        ("403 AccessDenied", error(403, "AccessDenied"), &["AccessDenied", A, "oss:GetObject"]),
        ("403 InvalidObjectState", error(403, "InvalidObjectState"), &["archived", A]),
        ("200 with the whole object, lasting", Fault::FullBody, &["status 200", A]),
        ("body ends early, lasting", Fault::Short { after }, &["before the end of the range", A]),
        ("silence in the body, lasting", Fault::Stall { after: Some(after), time: None }, &["stalled", A]),
        ("one byte a second, lasting", Fault::Drip { rate: 1 }, &["stalled", A]),
        ("Content-Range of another place, lasting", Fault::WrongRange { shift: -1 }, &["Content-Range", A]),
        ("a head without end, lasting", header("x-filler", &"a".repeat(20_000)), &["longer than", A]),
    ];
    let mut rows: Vec<Row> = heals
        .into_iter()
        .map(|(name, fault, says)| Row::new(name, when, Expect::Heals(says)).spoiled(fault, LASTS))
        .collect();
    let mut garbled = Row::new("a TLS record that is none, lasting", when, Expect::Heals(&[A]));
    garbled.tls = true;
    rows.push(garbled.spoiled(Fault::Garble { after }, LASTS));
    let key = format!("{}{A}", e2e::origin::PREFIX);
    let replaced =
        Row::new("object replaced", when, Expect::Lost(&[A, "replaced", "expected ETag", "found"]));
    rows.push(replaced.spoiled(Fault::Put { key: key.clone(), size: A_SIZE }, 1));
    let shorter = Row::new("object replaced by a shorter one", when, Expect::Lost(&[A, "replaced"]));
    rows.push(shorter.spoiled(Fault::Put { key: key.clone(), size: 1 }, 1));
    let deleted = Row::new("object deleted", when, Expect::Lost(&[A, "NoSuchKey"]));
    rows.push(deleted.spoiled(Fault::Delete { key }, 1));
    let mut flipped = Row::new(
        "a flipped byte, lasting",
        when,
        Expect::Lost(&[A, "CRC-64", "also after fetching it again"]),
    );
    flipped.reads_early = false;
    rows.push(flipped.spoiled(Fault::Flip { offset: after }, LASTS));
    rows
}

/// What happens to the machine or the account while a request is under way.
fn amid(when: When) -> Vec<Row> {
    vec![
        Row::new("connection refused, and back", when, Expect::Heals(&[A, "refused"])).amid(
            nothing,
            |case| case.origin().set_refusing(true),
            |case| case.origin().set_refusing(false),
        ),
        Row::new("no name service, and back", when, Expect::Heals(&[A, "oss-fault.test"])).amid(
            Case::use_a_name,
            Case::lose_the_name,
            Case::find_the_name,
        ),
        Row::new("STS token expires, is renewed", when, Expect::Loads(&[])).amid(
            |case| case.use_token(1),
            |case| {
                case.use_token(2)?;
                case.expire_token(1);
                Ok(())
            },
            nothing,
        ),
        Row::new("STS token expires", when, Expect::Heals(&[A, "SecurityTokenExpired"])).amid(
            |case| case.use_token(1),
            |case| {
                case.expire_token(1);
                Ok(())
            },
            |case| case.use_token(2),
        ),
    ]
}

/// Listings. The places are the pages: before the first, between, before the last.
fn listings() -> Vec<Row> {
    let list = |fault: Fault| Rule::new(fault).operation(Operation::List);
    let document = |text: &str| list(Fault::Document { status: 200, text: text.to_owned() });
    let mut rows = Vec::new();
    for (when, page) in [(When::First, 1), (When::Middle, 2), (When::Last, 3)] {
        for (name, fault) in [
            ("listing: 503 ServiceUnavailable", error(503, "ServiceUnavailable")),
            ("listing: connection closed without a reply", Fault::Close),
            ("listing: page cut off", Fault::Short { after: 100 }),
            ("listing: silence", Fault::Stall { after: Some(100), time: None }),
            ("listing: clock off by an hour", Fault::Skew { seconds: 3600 }),
        ] {
            let row = Row::new(name, when, Expect::Loads(&[]));
            let row = if matches!(fault, Fault::Stall { .. }) { row.hasty() } else { row };
            rows.push(row.with_rule(list(fault).nth(page)));
        }
        let key = format!("{}c.bin", e2e::origin::PREFIX);
        rows.push(
            Row::new("listing: an object appears meanwhile", when, Expect::Loads(&[]))
                .with_rule(list(Fault::Put { key, size: 1 << 20 }).nth(page)),
        );
        let refused: [(&str, Rule, &'static [&'static str]); 6] = [
            ("listing: an XML bomb", document(BOMB), &["no listing"]),
            (
                "listing: a size beyond u64",
                document(&listing("a.bin", "99999999999999999999")),
                &["no listing"],
            ),
            (
                "listing: a size no object has",
                document(&listing("a.bin", "48800000000001")),
                &["a.bin", "bytes"],
            ),
            ("listing: no token for more pages", document(ENDLESS), &["more pages"]),
            ("listing: not XML", document("hello"), &["no listing"]),
            (
                "listing: pages without end",
                document(&ENDLESS.replace("</L", "<NextContinuationToken>x</NextContinuationToken></L")),
                &["came twice"],
            ),
        ];
        for (name, rule, says) in refused {
            // From this page on, whatever is asked.
            rows.push(Row::new(name, when, Expect::Ends(exit::REFUSED, says)).with_rule(rule.skip(page - 1)));
        }
    }
    let silent = Row::new("listing: silence, lasting", When::First, Expect::Ends(exit::NETWORK, &["within"]));
    rows.push(silent.hasty().with_rule(list(Fault::Stall { after: None, time: None })));
    for (name, key, says) in [
        ("listing: a key with '..'", "../x", &["'..'"] as &'static [_]),
        ("listing: an absolute key", "/x", &["begins with '/'"]),
        ("listing: a key with '//'", "x//y", &["'//'"]),
        ("listing: a key with NUL", "x%00y", &["NUL"]),
        ("listing: a component of 1 KB", &"a".repeat(1000), &["longer than 255 bytes"]),
        ("listing: a key of the agent's own state", ".ossc/ready/x", &["'.ossc'"]),
        ("listing: a key that begins like the state", ".ossc", &["'.ossc'"]),
    ] {
        let row = Row::new(name, When::First, Expect::Ends(exit::LOCAL, says));
        rows.push(row.with_rule(document(&listing(key, "1"))));
    }
    rows
}

/// Entities that would expand to a gigabyte.
const BOMB: &str = "<?xml version=\"1.0\"?><!DOCTYPE l [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \
                    \"&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;\"><!ENTITY c \"&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;\">]>\
                    <ListBucketResult><IsTruncated>&c;</IsTruncated></ListBucketResult>";
const ENDLESS: &str = "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>";

/// A page of one object.
fn listing(name: &str, size: &str) -> String {
    format!(
        "<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated><Contents>\
         <Key>{}{name}</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified><ETag>\"5B3C\"</ETag>\
         <Size>{size}</Size></Contents></ListBucketResult>",
        e2e::origin::PREFIX
    )
}

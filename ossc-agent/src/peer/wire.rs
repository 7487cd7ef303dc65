//! The words of the protocol: HTTP/1.1 heads, written and parsed, and the body of a `have` reply. Pure. Whatever
//! comes in is checked here for form and size; what is odd is refused with a reason, never guessed at.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use super::answer::Question;
use super::bitmap::words_for;
use super::id::{Name, ObjectId};
use super::pursuit::{MAX_HOPS, Role};
use super::swarm::News;
use crate::base::BlockIndex;

/// Longest head, bytes; ours are under 600.
pub(super) const MAX_HEAD: usize = 8 << 10;
/// Most headers of a head; ours have a dozen.
const MAX_HEADERS: usize = 32;
/// Longest body that is kept in memory: the bitmaps of 100 million blocks, or a gossip message.
pub(super) const MAX_BODY: u64 = 16 << 20;
/// Longest wait that a peer may ask for.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(10);

/// What a peer asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ask {
    /// A block, and how long the reply may be held.
    Block(Question, Duration),
    /// Which blocks there are.
    Have,
    /// The checksums of an object's blocks.
    Digests(ObjectId),
    /// A message of the membership, of so many bytes, to be answered at this address.
    Gossip(u64, SocketAddr),
}

/// A request's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) from: Name,
    pub(super) cluster: Name,
    pub(super) ask: Ask,
    /// All it says, for proofs.
    pub(super) said: Vec<String>,
    /// Proof of the sender, where peers share a key.
    pub(super) proof: Option<String>,
    /// What its body must sum up to, where peers share a key.
    pub(super) body_hash: Option<String>,
}

/// A reply's head.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) length: u64,
    pub(super) crc64: Option<u64>,
    pub(super) by: Option<Name>,
    pub(super) queue: Option<u32>,
    pub(super) holder: Option<Name>,
    pub(super) retry: Option<Duration>,
    pub(super) node: Option<Name>,
    pub(super) weight: Option<f64>,
    pub(super) age: Option<Duration>,
    pub(super) draining: bool,
    pub(super) zone: Option<Name>,
    pub(super) proof: Option<String>,
    /// What its body sums up to, where peers share a key.
    pub(super) body_hash: Option<String>,
    /// All it says, for proofs.
    pub(super) said: Vec<String>,
}

/// A head or body that is not ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(pub(super) String);

fn bad(text: impl Into<String>) -> Malformed {
    Malformed(text.into())
}

/// The line of a request for a block.
pub(super) fn block_line(object: ObjectId, block: BlockIndex) -> String {
    format!("GET /v1/o/{object}/b/{}", block.0)
}

/// What the proof of a request is over: its line and every header of ours but the proof.
pub(super) fn said(line: &str, cluster: &Name, from: &Name, extra: &[(&str, String)]) -> Vec<String> {
    let mut said = vec![line.to_owned(), format!("x-ossc-cluster={cluster}"), format!("x-ossc-node={from}")];
    said.extend(extra.iter().map(|(name, value)| format!("{name}={value}")));
    said
}

/// A whole request head. `extra` are more headers.
pub(super) fn request(line: &str, cluster: &Name, from: &Name, extra: &[(&str, String)]) -> String {
    let mut head =
        format!("{line} HTTP/1.1\r\nhost: {cluster}\r\nx-ossc-cluster: {cluster}\r\nx-ossc-node: {from}\r\n");
    for (name, value) in extra {
        write!(head, "{name}: {value}\r\n").ok();
    }
    head.push_str("\r\n");
    head
}

/// The extra headers of a request for a block.
pub(super) fn block_headers(
    role: Role,
    hop: u8,
    wait: Duration,
    urgent: bool,
) -> Vec<(&'static str, String)> {
    let role = if role == Role::Owner { "owner" } else { "holder" };
    vec![
        ("x-ossc-role", role.to_owned()),
        ("x-ossc-hop", hop.to_string()),
        ("x-ossc-wait-ms", wait.as_millis().to_string()),
        ("x-ossc-prio", if urgent { "read" } else { "ahead" }.to_owned()),
    ]
}

/// A whole reply head.
pub(super) fn reply(status: u16, length: u64, extra: &[(&str, String)]) -> String {
    let reason = match status {
        200 => "OK",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        425 => "Too Early",
        503 => "Service Unavailable",
        _ => "Error",
    };
    let mut head = format!("HTTP/1.1 {status} {reason}\r\ncontent-length: {length}\r\n");
    for (name, value) in extra {
        write!(head, "{name}: {value}\r\n").ok();
    }
    head.push_str("\r\n");
    head
}

/// The request head at the start of `bytes` and its length; None if it is not all there yet.
pub(super) fn parse_request(bytes: &[u8]) -> Result<Option<(Request, usize)>, Malformed> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let length = match parsed.parse(bytes).map_err(|error| bad(error.to_string()))? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(None),
    };
    let (Some(method), Some(path)) = (parsed.method, parsed.path) else { return Err(bad("no request line")) };
    let fields = Fields(parsed.headers);
    if fields.text("transfer-encoding")?.is_some() {
        return Err(bad("transfer codings are not spoken here"));
    }
    let name = |header: &'static str| {
        let text = fields.text(header)?.ok_or_else(|| bad(format!("no {header}")))?;
        text.parse::<Name>().map_err(|error| bad(format!("{header}: {error}")))
    };
    let (cluster, from) = (name("x-ossc-cluster")?, name("x-ossc-node")?);
    let body = fields.number("content-length")?.unwrap_or(0);
    let ask = match (
        method,
        path.strip_prefix("/v1/").map(|rest| rest.split('/').collect::<Vec<_>>()).as_deref(),
    ) {
        ("GET", Some(["have"])) => Ask::Have,
        ("GET", Some(["o", object, "digests"])) => {
            Ask::Digests(object.parse().map_err(|()| bad("object id"))?)
        }
        ("GET", Some(["o", object, "b", block])) => {
            let question = Question {
                from: from.clone(),
                object: object.parse().map_err(|()| bad("object id"))?,
                block: BlockIndex(digits(block).ok_or_else(|| bad("block number"))?),
                role: match fields.text("x-ossc-role")? {
                    Some("owner") => Role::Owner,
                    Some("holder") => Role::Holder,
                    _ => return Err(bad("x-ossc-role")),
                },
                hop: u8::try_from(fields.number("x-ossc-hop")?.unwrap_or(0))
                    .ok()
                    .filter(|hop| *hop <= MAX_HOPS)
                    .ok_or_else(|| bad("x-ossc-hop"))?,
                urgent: fields.text("x-ossc-prio")? == Some("read"),
            };
            let wait = Duration::from_millis(fields.number("x-ossc-wait-ms")?.unwrap_or(0));
            Ask::Block(question, wait.min(MAX_WAIT))
        }
        ("POST", Some(["gossip"])) if body <= MAX_BODY => {
            let address = fields.text("x-ossc-address")?.and_then(|text| text.parse().ok());
            Ask::Gossip(body, address.ok_or_else(|| bad("x-ossc-address"))?)
        }
        _ => return Err(bad("no such resource")),
    };
    if body > 0 && !matches!(ask, Ask::Gossip(..)) {
        return Err(bad("a body where none belongs"));
    }
    let mut said = vec![format!("{method} {path}")];
    said.extend(headers_said(&fields)?);
    let text = |name| Ok::<_, Malformed>(fields.text(name)?.map(str::to_owned));
    let (proof, body_hash) = (text("x-ossc-proof")?, text("x-ossc-body")?);
    Ok(Some((Request { from, cluster, ask, said, proof, body_hash }, length)))
}

/// The reply head at the start of `bytes` and its length; None if it is not all there yet.
pub(super) fn parse_reply(bytes: &[u8]) -> Result<Option<(Reply, usize)>, Malformed> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    let length = match parsed.parse(bytes).map_err(|error| bad(error.to_string()))? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(None),
    };
    let fields = Fields(parsed.headers);
    let name = |header: &'static str| -> Result<Option<Name>, Malformed> {
        fields
            .text(header)?
            .map(|text| text.parse().map_err(|error| bad(format!("{header}: {error}"))))
            .transpose()
    };
    let millis = |header| Ok::<_, Malformed>(fields.number(header)?.map(Duration::from_millis));
    let crc64 = fields.text("x-ossc-crc64")?;
    let weight =
        fields.text("x-ossc-weight")?.map(|text| text.parse::<f64>().map_err(|_| bad("x-ossc-weight")));
    Ok(Some((
        Reply {
            status: parsed.code.ok_or_else(|| bad("no status"))?,
            length: fields.number("content-length")?.ok_or_else(|| bad("no content-length"))?,
            crc64: crc64.map(|text| hex64(text).ok_or_else(|| bad("x-ossc-crc64"))).transpose()?,
            by: name("x-ossc-by")?,
            queue: fields.number("x-ossc-queue")?.map(|queue| u32::try_from(queue).unwrap_or(u32::MAX)),
            holder: name("x-ossc-holder")?,
            retry: millis("x-ossc-retry-ms")?,
            node: name("x-ossc-node")?,
            weight: weight.transpose()?.filter(|weight| weight.is_finite() && *weight >= 0.0),
            age: millis("x-ossc-age-ms")?,
            draining: fields.text("x-ossc-draining")? == Some("1"),
            zone: name("x-ossc-zone")?,
            proof: fields.text("x-ossc-proof")?.map(str::to_owned),
            body_hash: fields.text("x-ossc-body")?.map(str::to_owned),
            said: said_of(parsed.code.unwrap_or(0), &fields)?,
        },
        length,
    )))
}

/// What a reply says: its status and every header of ours but the proof.
pub(super) fn reply_said(status: u16, length: u64, extra: &[(&str, String)]) -> Vec<String> {
    let mut said = vec![status.to_string(), format!("content-length={length}")];
    said.extend(extra.iter().map(|(name, value)| format!("{name}={value}")));
    said
}

fn said_of(status: u16, fields: &Fields<'_>) -> Result<Vec<String>, Malformed> {
    let mut said = vec![status.to_string()];
    said.extend(headers_said(fields)?);
    Ok(said)
}

fn headers_said(fields: &Fields<'_>) -> Result<Vec<String>, Malformed> {
    let mut said = Vec::new();
    for header in fields.0 {
        let name = header.name.to_ascii_lowercase();
        if name == "content-length" || name.starts_with("x-ossc-") && name != "x-ossc-proof" {
            let value = std::str::from_utf8(header.value).map_err(|_| bad("a header that is no text"))?;
            said.push(format!("{name}={value}"));
        }
    }
    Ok(said)
}

struct Fields<'a>(&'a [httparse::Header<'a>]);

impl<'a> Fields<'a> {
    /// The value of a header; twice is an error, since two readers might take different ones.
    fn text(&self, name: &str) -> Result<Option<&'a str>, Malformed> {
        let mut found = self.0.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
        let Some(header) = found.next() else { return Ok(None) };
        if found.next().is_some() {
            return Err(bad(format!("{name} stands twice")));
        }
        std::str::from_utf8(header.value).map(Some).map_err(|_| bad(format!("{name} is no text")))
    }

    fn number(&self, name: &str) -> Result<Option<u64>, Malformed> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        digits(text).map(Some).ok_or_else(|| bad(format!("{name} is no number")))
    }
}

/// A decimal number without sign or space.
fn digits<T: std::str::FromStr>(text: &str) -> Option<T> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

fn hex64(text: &str) -> Option<u64> {
    let plain = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

/// The body of a `have` reply: for each object its id, its number of blocks and its bitmap; then the blocks that
/// are being read. All numbers little-endian.
pub(super) fn have_body<'a>(
    haves: impl Iterator<Item = (ObjectId, u32, &'a [u64])>,
    reading: &[(ObjectId, BlockIndex)],
) -> Vec<u8> {
    let mut body = Vec::new();
    for (object, blocks, words) in haves {
        body.extend(object.bytes());
        body.extend(blocks.to_le_bytes());
        words.iter().for_each(|word| body.extend(word.to_le_bytes()));
    }
    // An object of no blocks begins the second list: there is none in the first.
    body.extend([0; 20]);
    for (object, block) in reading {
        body.extend(object.bytes());
        body.extend(block.0.to_le_bytes());
    }
    body
}

/// What a `have` reply tells.
pub(super) fn parse_have(reply: &Reply, body: &[u8]) -> Result<News, Malformed> {
    let name = reply.node.clone().ok_or_else(|| bad("no x-ossc-node"))?;
    let mut rest = body;
    let mut haves = Vec::new();
    loop {
        let (object, blocks) = entry(&mut rest)?;
        if blocks == 0 {
            break;
        }
        let bytes = rest.split_off(..words_for(blocks) * 8).ok_or_else(|| bad("the bitmap ends early"))?;
        let (words, _) = bytes.as_chunks::<8>();
        haves.push((object, words.iter().map(|word| u64::from_le_bytes(*word)).collect()));
    }
    let mut reading = Vec::new();
    while !rest.is_empty() {
        let (object, block) = entry(&mut rest)?;
        reading.push((object, BlockIndex(block)));
    }
    Ok(News {
        name,
        weight: reply.weight.unwrap_or(1.0),
        age: reply.age.unwrap_or_default(),
        draining: reply.draining,
        queue: reply.queue.unwrap_or(0),
        haves,
        reading,
        zone: reply.zone.clone(),
    })
}

/// An object id and a number.
fn entry(rest: &mut &[u8]) -> Result<(ObjectId, u32), Malformed> {
    let early = || bad("the list ends early");
    let (object, after) = rest.split_first_chunk::<16>().ok_or_else(early)?;
    let (number, after) = after.split_first_chunk::<4>().ok_or_else(early)?;
    *rest = after;
    Ok((ObjectId::from_bytes(*object), u32::from_le_bytes(*number)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn object() -> ObjectId {
        ObjectId::from_bytes([0xab; 16])
    }

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let headers = block_headers(Role::Holder, 2, Duration::from_millis(2000), true);
        let line = block_line(object(), BlockIndex(7));
        let text = request(&line, &name("c"), &name("n"), &headers) + "rest";
        let (request, length) = parse_request(text.as_bytes()).unwrap().unwrap();
        assert_eq!(length, text.len() - 4);
        assert_eq!(request.said, said(&line, &name("c"), &name("n"), &headers));
        let question = Question {
            from: name("n"),
            object: object(),
            block: BlockIndex(7),
            role: Role::Holder,
            hop: 2,
            urgent: true,
        };
        assert_eq!(request.ask, Ask::Block(question, Duration::from_secs(2)));
        for end in 0..length {
            assert_eq!(parse_request(&text.as_bytes()[..end]), Ok(None));
        }
    }

    #[test]
    fn odd_requests_are_refused() {
        let ours = "x-ossc-cluster: c\r\nx-ossc-node: n\r\n";
        let block = "x-ossc-role: owner\r\n";
        let id = object();
        for (line, headers) in [
            ("GET /v1/have", String::new()),
            ("GET /v1/have", "x-ossc-cluster: c\r\n".to_owned()),
            ("GET /v1/have", format!("{ours}x-ossc-node: other\r\n")),
            ("GET /v1/have", "x-ossc-cluster: C\r\nx-ossc-node: n\r\n".to_owned()),
            ("GET /v1/have", format!("{ours}content-length: 5\r\n")),
            ("GET /v1/have", format!("{ours}content-length: -5\r\n")),
            ("GET /v1/have", format!("{ours}transfer-encoding: chunked\r\n")),
            ("GET /v1/nothing", ours.to_owned()),
            ("PUT /v1/have", ours.to_owned()),
            ("GET /v1/o/../b/1", format!("{ours}{block}")),
            (&format!("GET /v1/o/{id}/b/"), format!("{ours}{block}")),
            (&format!("GET /v1/o/{id}/b/+1"), format!("{ours}{block}")),
            (&format!("GET /v1/o/{id}/b/4294967296"), format!("{ours}{block}")),
            (&format!("GET /v1/o/{id}/b/1/2"), format!("{ours}{block}")),
            (&format!("GET /v1/o/{id}/b/1"), ours.to_owned()),
            (&format!("GET /v1/o/{id}/b/1"), format!("{ours}{block}x-ossc-hop: 3\r\n")),
            (
                "POST /v1/gossip",
                format!("{ours}content-length: 99999999999\r\nx-ossc-address: 1.2.3.4:5\r\n"),
            ),
            ("POST /v1/gossip", format!("{ours}content-length: 9\r\nx-ossc-address: somewhere\r\n")),
        ] {
            let text = format!("{line} HTTP/1.1\r\n{headers}\r\n");
            assert!(parse_request(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn what_a_node_has_is_read_as_it_was_written() {
        let words = [u64::MAX, 3];
        let body = have_body([(object(), 66, &words[..])].into_iter(), &[(object(), BlockIndex(65))]);
        let mut reply = Reply { node: Some(name("n")), weight: Some(2.5), ..Reply::default() };
        let news = parse_have(&reply, &body).unwrap();
        assert_eq!((news.name, news.weight), (name("n"), 2.5));
        assert_eq!(news.haves, [(object(), words.to_vec())]);
        assert_eq!(news.reading, [(object(), BlockIndex(65))]);
        for end in 0..body.len() {
            // Between two entries of the second list is no early end.
            assert_eq!(parse_have(&reply, &body[..end]).is_ok(), end == body.len() - 20, "{end}");
        }
        reply.node = None;
        assert!(parse_have(&reply, &body).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parsers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            parse_request(&bytes).ok();
            parse_reply(&bytes).ok();
            parse_have(&Reply { node: Some(name("n")), ..Reply::default() }, &bytes).ok();
            crate::peer::membership::gossip::parse(&bytes);
        }

        #[test]
        fn a_reply_is_read_as_it_was_written(status in 200u16..600, length: u64, crc64: u64, queue: u32) {
            let headers =
                [("x-ossc-crc64", format!("{crc64:016x}")), ("x-ossc-queue", queue.to_string())];
            let text = reply(status, length, &headers);
            let (found, _) = parse_reply(text.as_bytes()).unwrap().unwrap();
            prop_assert_eq!((found.status, found.length), (status, length));
            prop_assert_eq!((found.crc64, found.queue), (Some(crc64), Some(queue)));
            prop_assert_eq!(found.said, reply_said(status, length, &headers));
        }
    }
}

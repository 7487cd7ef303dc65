//! A key that all nodes of a cluster share. A request carries an HMAC-SHA256 over everything it says, a time and a
//! random number: it is taken once, and only for half a minute. A reply carries one over what it says and over the
//! request's proof, so that it cannot be another request's. Bodies go into these by their keyed BLAKE3, which costs a
//! quarter of an HMAC and of a block is worked out once. Nothing is hidden: this is for networks that nobody else
//! can listen on.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::peer::error::Error;
use crate::peer::wire::Request;

/// How far the clocks of two nodes may be apart, seconds.
const SKEW: u64 = 30;
/// Shortest key, bytes.
const MIN_KEY: usize = 16;
/// Longest key file, bytes.
const MAX_KEY: u64 = 4 << 10;
/// Numbers remembered at most; more requests than that within a minute are refused until some are old.
const MAX_SEEN: usize = 1 << 20;

/// The shared key, and the requests that were taken lately.
pub(in crate::peer) struct Key {
    secret: Zeroizing<Vec<u8>>,
    /// For bodies; derived, so that no key has two uses.
    body_key: Zeroizing<[u8; 32]>,
    seen: Mutex<HashMap<u128, u64>>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// Reads the key: the file's content without white space at its ends. It must not be open to others.
    pub(in crate::peer) fn load(path: &Path) -> Result<Self, Error> {
        use std::os::unix::fs::PermissionsExt as _;
        let fail = |why: String| Error::Key { path: path.to_owned(), why };
        let facts = std::fs::metadata(path).map_err(|error| fail(error.to_string()))?;
        if facts.permissions().mode() & 0o077 != 0 {
            return Err(fail("others may read it; chmod it to 0600".to_owned()));
        }
        if facts.len() > MAX_KEY {
            return Err(fail(format!("it has more than {MAX_KEY} bytes")));
        }
        let content = Zeroizing::new(std::fs::read(path).map_err(|error| fail(error.to_string()))?);
        let secret = Zeroizing::new(content.trim_ascii().to_vec());
        if secret.len() < MIN_KEY {
            return Err(fail(format!(
                "a key of at least {MIN_KEY} bytes is needed; `openssl rand -hex 32` makes one"
            )));
        }
        let body_key = Zeroizing::new(blake3::derive_key("ossc peers 2026-11 body", &secret));
        Ok(Self { secret, body_key, seen: Mutex::default() })
    }

    /// Sums a body.
    pub(in crate::peer) fn body_hash(&self) -> BodyHash {
        BodyHash(Box::new(blake3::Hasher::new_keyed(&self.body_key)))
    }

    fn hmac(&self) -> Hmac<Sha256> {
        // HMAC takes keys of any length.
        Hmac::new_from_slice(&self.secret).unwrap_or_else(|_| Hmac::new(&Default::default()))
    }

    /// The proof of a request that says this.
    pub(in crate::peer) fn prove(&self, said: &[&str]) -> String {
        // The number has to be another one each time; nobody gains by guessing it.
        let (time, nonce) = (now(), fastrand::u128(..));
        format!("{time} {nonce:032x} {}", hex(&self.sum(time, nonce, said).finalize().into_bytes()))
    }

    fn sum(&self, time: u64, nonce: u128, said: &[&str]) -> Hmac<Sha256> {
        let mut hmac = self.hmac();
        hmac.update(b"request");
        hmac.update(&time.to_le_bytes());
        hmac.update(&nonce.to_le_bytes());
        add(&mut hmac, said);
        hmac
    }

    /// Whether a request comes from somebody with the key, and for the first time. Its body is not looked at.
    pub(in crate::peer) fn check(&self, request: &Request) -> Result<(), &'static str> {
        let proof = request.proof.as_deref().ok_or("it has no proof")?;
        let (time, nonce, sum) = parse(proof).ok_or("its proof is malformed")?;
        let said: Vec<_> = request.said.iter().map(String::as_str).collect();
        self.sum(time, nonce, &said).verify_slice(&sum).map_err(|_| "it has another key")?;
        let now = now();
        if time.abs_diff(now) > SKEW {
            return Err("its clock is more than 30 s off, or it was sent again");
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MAX_SEEN {
            seen.retain(|_, time| time.abs_diff(now) <= SKEW);
        }
        if seen.len() >= MAX_SEEN {
            return Err("too many requests in a minute");
        }
        match seen.insert(nonce, time) {
            None => Ok(()),
            Some(_) => Err("it was sent again"),
        }
    }

    /// The proof of a reply to the request with this proof.
    pub(in crate::peer) fn answer(&self, request_proof: &str, said: &[&str]) -> String {
        hex(&self.reply_sum(request_proof, said).finalize().into_bytes())
    }

    /// Whether a reply is the answer of somebody with the key to the request with this proof.
    pub(in crate::peer) fn is_answer(&self, request_proof: &str, said: &[&str], proof: Option<&str>) -> bool {
        let sum = proof.and_then(unhex);
        sum.is_some_and(|sum| self.reply_sum(request_proof, said).verify_slice(&sum).is_ok())
    }

    fn reply_sum(&self, request_proof: &str, said: &[&str]) -> Hmac<Sha256> {
        let mut hmac = self.hmac();
        hmac.update(b"reply");
        add(&mut hmac, &[request_proof]);
        add(&mut hmac, said);
        hmac
    }
}

/// A running sum of a body.
pub(in crate::peer) struct BodyHash(Box<blake3::Hasher>);

impl BodyHash {
    pub(in crate::peer) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(in crate::peer) fn finish(&self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}

impl fmt::Debug for BodyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BodyHash")
    }
}

/// Texts with their lengths, so that no two lists give the same bytes.
fn add(hmac: &mut Hmac<Sha256>, texts: &[&str]) {
    hmac.update(&(texts.len() as u64).to_le_bytes());
    for text in texts {
        hmac.update(&(text.len() as u64).to_le_bytes());
        hmac.update(text.as_bytes());
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The time, number and sum of a proof.
pub(in crate::peer) fn parse(proof: &str) -> Option<(u64, u128, [u8; 32])> {
    let mut words = proof.split(' ');
    let (time, nonce, sum) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
    if words.next().is_some() || nonce.len() != 32 {
        return None;
    }
    Some((time, u128::from_str_radix(nonce, 16).ok()?, unhex(sum)?))
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::peer::wire;

    fn key(secret: &str) -> Key {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "{secret}").unwrap();
        Key::load(file.path()).unwrap()
    }

    fn request(proof: Option<String>) -> Request {
        let (cluster, node) = ("c".parse().unwrap(), "n".parse().unwrap());
        let extra = proof.map(|proof| ("x-ossc-proof", proof));
        let head = wire::request("GET /v1/have", &cluster, &node, extra.as_slice());
        wire::parse_request(head.as_bytes()).unwrap().unwrap().0
    }

    #[test]
    fn a_request_is_taken_once_and_only_with_the_key() {
        let (ours, other) = (key("0123456789abcdef"), key("fedcba9876543210"));
        let plain = request(None);
        let said: Vec<_> = plain.said.iter().map(String::as_str).collect();
        assert!(ours.check(&plain).is_err());
        let proof = ours.prove(&said);
        assert_eq!(ours.check(&request(Some(proof.clone()))), Ok(()));
        assert_eq!(ours.check(&request(Some(proof.clone()))), Err("it was sent again"));
        assert_eq!(other.check(&request(Some(proof.clone()))), Err("it has another key"));
        assert!(ours.check(&request(Some(ours.prove(&["something else"])))).is_err());
        for odd in ["", "1 2 3", &proof[1..], &format!("{proof} "), &proof.replace(' ', "")] {
            assert!(ours.check(&request(Some(odd.to_owned()))).is_err(), "{odd}");
        }
    }

    #[test]
    fn an_old_request_is_refused_and_a_reply_belongs_to_its_request() {
        let ours = key("0123456789abcdef");
        let plain = request(None);
        let said: Vec<_> = plain.said.iter().map(String::as_str).collect();
        let (time, nonce) = (now() - SKEW - 2, 7);
        let sum = hex(&ours.sum(time, nonce, &said).finalize().into_bytes());
        let old = ours.check(&request(Some(format!("{time} {nonce:032x} {sum}"))));
        assert_eq!(old, Err("its clock is more than 30 s off, or it was sent again"));
        let answer = ours.answer("p1", &["200", "crc"]);
        assert!(ours.is_answer("p1", &["200", "crc"], Some(&answer)));
        assert!(!ours.is_answer("p2", &["200", "crc"], Some(&answer)));
        assert!(!ours.is_answer("p1", &["200", "other"], Some(&answer)));
        assert!(
            !ours.is_answer("p1", &["200crc"], Some(&answer)) && !ours.is_answer("p1", &["200", "crc"], None)
        );
    }

    #[test]
    fn a_key_file_is_long_and_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Key::load(file.path()).is_err());
        std::fs::write(file.path(), "0123456789abcdef").unwrap();
        assert!(Key::load(file.path()).is_ok());
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(Key::load(file.path()).is_err());
    }
}

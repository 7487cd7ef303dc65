//! What comes from peers, as functions of bytes for fuzzers: heads, what a node has, checksums, proofs and gossip. A
//! peer that was let in may run another version, or lie. Driven by `crate::fuzzing`.

use std::time::{Instant, SystemTime};

use super::auth::psk;
use super::bitmap::words_for;
use super::id::ObjectId;
use super::manifest::Manifest;
use super::swarm::{Settings, Swarm};
use super::wire::{self, Ask};
use super::{Name, manifest, membership, suspects};
use crate::base::{BlockSize, ETag, Layout, Object};

/// The object of the corpus.
const OBJECT: [u8; 16] = [0xab; 16];
/// Its blocks.
const BLOCKS: u32 = 70;

/// A manifest, whoever signed it. What is read of it is what would be written.
pub(crate) fn manifest(bytes: &[u8]) {
    let Ok((_, json)) = manifest::split(bytes) else { return };
    let Ok(manifest) = serde_json::from_slice::<Manifest>(json) else { return };
    for entry in &manifest.objects {
        let block_size = BlockSize::new(entry.block_size);
        let Some(layout) = block_size.and_then(|size| Layout::new(entry.size, size)) else { continue };
        let object = Object {
            key: entry.key.clone(),
            name: entry.name.clone(),
            size: entry.size,
            etag: ETag::new(&entry.etag),
            modified: SystemTime::UNIX_EPOCH,
            crc64: None,
        };
        if let Some(blocks) = manifest.blocks(&manifest.bucket, &object, layout) {
            assert_eq!(u32::try_from(blocks.len()), Ok(layout.block_count()));
        }
    }
    let again = serde_json::to_vec(&manifest).and_then(|json| serde_json::from_slice::<Manifest>(&json));
    assert!(again.is_ok_and(|again| again == manifest));
}

/// A message of a peer, as each thing that it may be. What is read is acted on as the exchange does.
pub(crate) fn message(bytes: &[u8]) {
    let Ok(me) = "me".parse::<Name>() else { return };
    let Some(layout) = Layout::new(u64::from(BLOCKS) * BlockSize::MIN.bytes(), BlockSize::MIN) else {
        return;
    };
    let (object, now) = (ObjectId::from_bytes(OBJECT), Instant::now());
    let mut swarm = Swarm::new(Settings::default(), (me, 1.0), vec![(object, layout)], 1, now);
    request(bytes, &mut swarm, now);
    reply(bytes, &mut swarm, now);
    if let Ok(text) = std::str::from_utf8(bytes) {
        text.lines().for_each(|line| {
            suspects::digest(line);
        });
        psk::parse(text);
        if let Ok(name) = text.parse::<Name>() {
            assert_eq!(name.as_str(), text);
        }
    }
    membership::gossip::parse(bytes);
}

fn request(bytes: &[u8], swarm: &mut Swarm, now: Instant) {
    let Ok(Some((request, length))) = wire::parse_request(bytes) else { return };
    let head = bytes.get(..length).unwrap_or_else(|| panic!("a head of {length} bytes"));
    assert_eq!(wire::parse_request(head), Ok(Some((request.clone(), length))), "a head ends where it ends");
    match request.ask {
        Ask::Block(question, wait) => {
            assert!(wait <= wire::MAX_WAIT);
            swarm.answer(&question, |_| false, 0, now);
            swarm.answer(&question, |_| true, u32::MAX, now);
        }
        Ask::Gossip(length, _) => assert!(length <= wire::MAX_BODY),
        Ask::Have | Ask::Digests(_) => {}
    }
}

fn reply(bytes: &[u8], swarm: &mut Swarm, now: Instant) {
    let Ok(Some((reply, length))) = wire::parse_reply(bytes) else { return };
    let body = bytes.get(length..).unwrap_or_else(|| panic!("a head of {length} bytes"));
    let Ok(news) = wire::parse_have(&reply, body) else { return };
    assert!(news.weight.is_finite() && news.weight >= 0.0);
    let words: usize = news.haves.iter().map(|(_, words)| words.len()).sum();
    assert!(words * 8 <= body.len() && news.reading.len() * 20 <= body.len(), "more than was sent");
    let known =
        news.haves.iter().any(|(object, words)| object.bytes() == OBJECT && words.len() == words_for(BLOCKS));
    let is_near = news.zone.is_none();
    let heard = swarm.heard(news, now);
    if heard.is_some() && known {
        assert_eq!(swarm.is_sharing(now), is_near);
    }
    if let Some(name) = heard.and_then(|node| swarm.name(node).cloned()) {
        swarm.lost(&name);
        assert!(!swarm.is_sharing(now));
    }
}

//! Damage of every kind, and what survives the way to disk and back.

use proptest::prelude::*;

use super::*;

fn record() -> Record {
    let object = Object {
        key: "models/q/a b+模.gguf".to_owned(),
        name: "a b+模.gguf".to_owned(),
        size: (2 << 20) * 70 + 5,
        etag: ETag::new("5B3C1A2E"),
        modified: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        crc64: Some(u64::MAX - 1),
    };
    Record {
        name: Name::new(&object.name, 0).unwrap(),
        layout: Layout::new(object.size, BlockSize::MIN).unwrap(),
        object,
        era: "b".to_owned(),
        identity: Identity { ino: 12, born: Some(Stamp { secs: 5, nanos: 6 }) },
        sealed: None,
        gone: false,
        bits: vec![0x8000_0000_0000_0001, 0x7f],
        crcs: (0..71).collect(),
    }
}

/// The same bytes with a right checksum, so that the checks behind it are reached.
fn signed(mut body: Vec<u8>) -> Vec<u8> {
    let sum = checksum(CrcAlgorithm::Crc64Xz, &body);
    body.extend_from_slice(&sum.to_le_bytes());
    body
}

fn edited(from: &str, to: &str) -> Vec<u8> {
    let bytes = record().encode().unwrap();
    let body = &bytes[..bytes.len() - WORD];
    let line = body.iter().position(|b| *b == b'\n').unwrap();
    let header = String::from_utf8(body[..line].to_vec()).unwrap();
    assert!(header.contains(from), "{header}");
    let mut out = header.replace(from, to).into_bytes();
    out.extend_from_slice(&body[line..]);
    signed(out)
}

#[test]
fn what_is_written_is_read() {
    let record = record();
    assert_eq!(Record::decode(&record.encode().unwrap(), 0), Ok(record.clone()));
    let seal = Seal { modified: Stamp { secs: -3, nanos: 9 }, verified: true, durable: false };
    let complete = Record { sealed: Some(seal), gone: true, bits: vec![u64::MAX, 0x7f], ..record };
    assert_eq!(Record::decode(&complete.encode().unwrap(), 0), Ok(complete));
}

#[test]
fn damage_is_noticed() {
    let bytes = record().encode().unwrap();
    for len in [0, 7, 8, 20, bytes.len() - 1] {
        assert!(Record::decode(&bytes[..len], 0).is_err(), "{len}");
    }
    for at in (0..bytes.len()).step_by(13) {
        let mut bad = bytes.clone();
        bad[at] ^= 4;
        assert_eq!(Record::decode(&bad, 0), Err(BadRecord::Checksum), "{at}");
    }
    for (bytes, why) in [
        (signed(Vec::new()), BadRecord::Header),
        (signed(b"{}\n".to_vec()), BadRecord::Header),
        (edited("ossc-ready", "other-ready"), BadRecord::Header),
        (edited("\"version\":1", "\"version\":2"), BadRecord::Version),
        (edited("\"size\":", "\"size\":1"), BadRecord::Contradiction),
        (edited("2097152", "2097153"), BadRecord::Contradiction),
        (edited("\"name\":\"", "\"name\":\"../"), BadRecord::Contradiction),
        (edited("\"secs\":1700000000", "\"secs\":9223372036854775808"), BadRecord::Header),
        (edited("\"gone\":false", "\"gone\":0"), BadRecord::Header),
        (
            edited(
                "\"sealed\":null",
                "\"sealed\":{\"modified\":{\"secs\":0,\"nanos\":0},\"verified\":true,\"durable\":true}",
            ),
            BadRecord::Contradiction,
        ),
    ] {
        assert_eq!(Record::decode(&bytes, 0), Err(why));
    }
    let stray = Record { bits: vec![0, 0x80], ..record() };
    assert_eq!(Record::decode(&stray.encode().unwrap(), 0), Err(BadRecord::Contradiction));
}

#[test]
fn times_survive_the_way() {
    for (secs, nanos) in [(0, 0), (1, 999_999_999), (-1, 1), (-5, 0), (4_000_000_000, 7)] {
        let stamp = Stamp { secs, nanos };
        assert_eq!(Stamp::from(stamp.time().unwrap()), stamp);
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Record::decode(&body, 0).is_err());
        prop_assert!(Record::decode(&signed(body), 0).is_err());
    }

    #[test]
    fn no_header_numbers_make_it_panic(size: u64, block: u64, secs: i64, nanos: u32) {
        let header = format!(
            r#"{{"format":"ossc-ready","version":1,"key":"k","name":"n","size":{size},"etag":"e",
            "modified":{{"secs":{secs},"nanos":{nanos}}},"crc64":null,"block_size":{block},"era":"",
            "ino":1,"born":null,"sealed":null,"gone":false}}"#
        ).replace('\n', "") + "\n";
        let outcome = Record::decode(&signed(header.into_bytes()), 0);
        prop_assert!(outcome.is_err() || size == 0);
    }
}

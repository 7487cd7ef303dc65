//! How long the metadata head of a model file is, told from its first bytes: everything a loader reads before
//! the first tensor. Knows GGUF (by its magic) and safetensors (by name and first bytes). Total: any bytes give
//! an answer, in time bounded by their number.
//!
//! Formats: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>,
//! <https://github.com/huggingface/safetensors#format>.

/// What the first bytes of a file say about its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// The head is this many bytes long.
    Known(u64),
    /// It goes on behind the bytes given; look again with at least this many.
    NeedMore(u64),
    /// Not a format known here, or not a valid file of it.
    Unknown,
}

/// Longest head believed, in bytes. Real ones stay below 20 MB; a wrong length must not plan a whole file.
const MAX_HEAD: u64 = 256 << 20;
/// What the safetensors library itself refuses to read above (`MAX_HEADER_SIZE`).
const MAX_SAFETENSORS: u64 = 100_000_000;
/// `general.alignment` where the file does not say (gguf.md).
const GGUF_ALIGNMENT: u64 = 32;
/// Deepest nesting of arrays believed; llama.cpp reads none at all.
const MAX_DEPTH: u32 = 4;
/// A tensor's `n_dimensions`; GGML_MAX_DIMS is 4, the format allows more.
const MAX_DIMENSIONS: u32 = 16;

/// The length of the head of file `name`, of which `prefix` are the first bytes.
#[must_use]
pub fn head_len(name: &str, prefix: &[u8]) -> Head {
    let mut read = Reader { bytes: prefix, at: 0 };
    let len = if name.ends_with(".safetensors") {
        safetensors(&mut read)
    } else if prefix.starts_with(b"GGUF") || (prefix.len() < 4 && name.ends_with(".gguf")) {
        gguf(&mut read)
    } else {
        Err(Stop::Unknown)
    };
    match len {
        Ok(len) if len <= MAX_HEAD => Head::Known(len),
        Err(Stop::More(at_least)) if at_least <= MAX_HEAD => Head::NeedMore(at_least),
        Ok(_) | Err(_) => Head::Unknown,
    }
}

/// Why reading the head cannot go on.
enum Stop {
    More(u64),
    Unknown,
}

/// The bytes, and how far they are read. Errors say how many bytes there must be to read on.
struct Reader<'a> {
    bytes: &'a [u8],
    at: u64,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: u64) -> Result<&'a [u8], Stop> {
        let end = self.at.checked_add(len).ok_or(Stop::Unknown)?;
        let range = usize::try_from(self.at).ok().zip(usize::try_from(end).ok());
        let bytes = range.and_then(|(start, end)| self.bytes.get(start..end)).ok_or(Stop::More(end))?;
        self.at = end;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, Stop> {
        let bytes = self.take(4)?;
        Ok(bytes.try_into().map_or(0, u32::from_le_bytes))
    }

    fn u64(&mut self) -> Result<u64, Stop> {
        let bytes = self.take(8)?;
        Ok(bytes.try_into().map_or(0, u64::from_le_bytes))
    }

    /// A GGUF string: length in bytes, then the bytes.
    fn string(&mut self) -> Result<&'a [u8], Stop> {
        let len = self.u64()?;
        self.take(len)
    }

    /// Items of at least `least` bytes each follow: asks at once for what they need at least.
    fn expect(&self, items: u64, least: u64) -> Result<(), Stop> {
        let end = items.checked_mul(least).and_then(|len| len.checked_add(self.at)).ok_or(Stop::Unknown)?;
        if end > self.bytes.len() as u64 { Err(Stop::More(end)) } else { Ok(()) }
    }
}

/// 8 bytes length of the JSON, then the JSON.
fn safetensors(read: &mut Reader<'_>) -> Result<u64, Stop> {
    let len = read.u64()?;
    let json = read.take(1)?;
    if len > MAX_SAFETENSORS || json != b"{" {
        return Err(Stop::Unknown);
    }
    Ok(8 + len)
}

/// Magic, version, tensor count, pair count; the pairs; the tensor infos; padding up to the tensor data.
fn gguf(read: &mut Reader<'_>) -> Result<u64, Stop> {
    read.take(4)?;
    // Version 1 had other integers, and a big-endian file shows a huge number here; neither is in use.
    if !(2..=3).contains(&read.u32()?) {
        return Err(Stop::Unknown);
    }
    let tensors = read.u64()?;
    let pairs = read.u64()?;
    let mut alignment = GGUF_ALIGNMENT;
    // The smallest pair: an empty key, the type, one byte.
    read.expect(pairs, 8 + 4 + 1)?;
    for _ in 0..pairs {
        let key = read.string()?;
        let kind = read.u32()?;
        if key == b"general.alignment" && kind == UINT32 {
            alignment = u64::from(read.u32()?);
        } else {
            skip_value(read, kind, 0)?;
        }
    }
    // The smallest tensor info: an empty name, no dimension, type, offset.
    read.expect(tensors, 8 + 4 + 4 + 8)?;
    for _ in 0..tensors {
        read.string()?;
        let dimensions = read.u32()?;
        if dimensions > MAX_DIMENSIONS {
            return Err(Stop::Unknown);
        }
        read.take(u64::from(dimensions) * 8 + 4 + 8)?;
    }
    if alignment == 0 {
        return Err(Stop::Unknown);
    }
    read.at.checked_next_multiple_of(alignment).ok_or(Stop::Unknown)
}

// Value types of gguf.md that are not plain numbers.
const UINT32: u32 = 4;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Bytes of a number of this type.
fn number_len(kind: u32) -> Option<u64> {
    match kind {
        // uint8, int8, bool
        0 | 1 | 7 => Some(1),
        // uint16, int16
        2 | 3 => Some(2),
        // uint32, int32, float32
        UINT32 | 5 | 6 => Some(4),
        // uint64, int64, float64
        10..=12 => Some(8),
        _ => None,
    }
}

fn skip_value(read: &mut Reader<'_>, kind: u32, depth: u32) -> Result<(), Stop> {
    if let Some(len) = number_len(kind) {
        read.take(len)?;
        return Ok(());
    }
    match kind {
        STRING => read.string().map(drop),
        ARRAY if depth < MAX_DEPTH => {
            let item = read.u32()?;
            let count = read.u64()?;
            if let Some(len) = number_len(item) {
                let len = count.checked_mul(len).ok_or(Stop::Unknown)?;
                return read.take(len).map(drop);
            }
            // A string is at least its length, an array its type and count.
            read.expect(count, 8)?;
            for _ in 0..count {
                skip_value(read, item, depth + 1)?;
            }
            Ok(())
        }
        _ => Err(Stop::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn string(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
    }

    fn pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
        [&string(key), &kind.to_le_bytes()[..], value].concat()
    }

    fn array(kind: u32, items: &[Vec<u8>]) -> Vec<u8> {
        [&kind.to_le_bytes()[..], &(items.len() as u64).to_le_bytes(), &items.concat()].concat()
    }

    fn gguf_file(version: u32, pairs: &[Vec<u8>], tensors: &[Vec<u8>]) -> Vec<u8> {
        let counts = [tensors.len() as u64, pairs.len() as u64].map(u64::to_le_bytes);
        [b"GGUF", &version.to_le_bytes()[..], &counts.concat(), &pairs.concat(), &tensors.concat()].concat()
    }

    fn sample() -> Vec<u8> {
        let tensor = [&string("blk.0")[..], &2u32.to_le_bytes(), &[0; 16], &[0; 4], &[0; 8]].concat();
        let tokens: Vec<_> = ["<s>", "", "hello"].into_iter().map(string).collect();
        let nested = array(ARRAY, &[array(2, &[vec![1, 0]]), array(STRING, &[string("x")])]);
        gguf_file(
            3,
            &[
                pair("general.name", STRING, &string("tiny")),
                pair("general.alignment", UINT32, &64u32.to_le_bytes()),
                pair("tokens", ARRAY, &array(STRING, &tokens)),
                pair("scores", ARRAY, &array(6, &[vec![0; 4], vec![0; 4]])),
                pair("nested", ARRAY, &nested),
                pair("eps", 12, &[0; 8]),
            ],
            &[tensor.clone(), tensor],
        )
    }

    #[test]
    fn gguf_heads_end_at_the_aligned_end_of_the_tensor_infos() {
        let bytes = sample();
        let len = bytes.len() as u64;
        assert_eq!(head_len("m.gguf", &bytes), Head::Known(len.next_multiple_of(64)));
        let plain = gguf_file(2, &[pair("a", 0, &[1])], &[]);
        assert_eq!(head_len("blob", &plain), Head::Known((plain.len() as u64).next_multiple_of(32)));
    }

    #[test]
    fn every_cut_of_a_head_asks_for_more_and_never_for_too_much() {
        let bytes = sample();
        for cut in 0..bytes.len() {
            match head_len("m.gguf", &bytes[..cut]) {
                Head::NeedMore(more) => {
                    assert!((cut as u64 + 1..=bytes.len() as u64).contains(&more), "{cut}: {more}")
                }
                other => panic!("{cut}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_is_not_a_head_is_unknown() {
        let huge = [b"GGUF", &3u32.to_le_bytes()[..], &[0xff; 16]].concat();
        let deep = (0..6).fold(array(0, &[]), |inner, _| array(ARRAY, &[inner]));
        let json = |len: u64, first: u8| [&len.to_le_bytes()[..], &[first]].concat();
        for (name, bytes) in [
            ("m.gguf", b"GGML....".to_vec()),
            ("m.gguf", gguf_file(1, &[], &[])),
            ("m.gguf", gguf_file(3u32.swap_bytes(), &[], &[])),
            ("m.gguf", huge),
            ("m.gguf", gguf_file(3, &[pair("deep", ARRAY, &deep)], &[])),
            ("m.gguf", gguf_file(3, &[pair("odd", 99, &[0])], &[])),
            ("m.gguf", gguf_file(3, &[pair("general.alignment", UINT32, &[0; 4])], &[])),
            ("m.safetensors", json(MAX_SAFETENSORS + 1, b'{')),
            ("m.safetensors", json(100, b'[')),
            ("config.json", b"{}".to_vec()),
            ("m.bin", Vec::new()),
        ] {
            assert_eq!(head_len(name, &bytes), Head::Unknown, "{name} {bytes:?}");
        }
    }

    #[test]
    fn safetensors_heads_are_their_length_and_json() {
        let bytes = [&200u64.to_le_bytes()[..], b"{"].concat();
        assert_eq!(head_len("m.safetensors", &bytes), Head::Known(208));
        assert_eq!(head_len("m.safetensors", &bytes[..8]), Head::NeedMore(9));
        assert_eq!(head_len("m.safetensors", &[]), Head::NeedMore(8));
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0..200usize, value: u8, random: bool
        ) {
            if !random {
                bytes = sample();
                let at = at % bytes.len();
                bytes[at] = value;
            }
            let _answer = head_len("m.gguf", &bytes);
            if let Head::NeedMore(more) = head_len("m.safetensors", &bytes) {
                prop_assert!(more > bytes.len() as u64);
            }
        }
    }
}

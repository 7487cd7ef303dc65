//! Content made from nothing: the bytes of an object of any size, computed from a seed and an offset.
//!
//! Tests and benches need objects far bigger than the disk, and need to know that every byte they read is the byte
//! that belongs at that offset of that object. Both sides call the same function: the server to serve, the test to
//! check. The content is a run of little-endian 64-bit words, each a mix of the seed and of the word's index, so any
//! range can be made or checked alone.
//!
//! No byte is ever zero: a hole, even of one byte, is always detected. Neighbouring words and different seeds share
//! no pattern, so bytes of the wrong offset or the wrong object are detected as well.
//!
//! The tiled form repeats one tile of [`TILE`] bytes, which the server sends straight from memory with sendfile(2).

/// Bytes after which a tiled object repeats.
pub const TILE: u64 = 64 << 20;

/// Where in the tile an object may begin: whole pages, so that sendfile never splits one for the start alone.
const TILE_STEP: u64 = 4096;

/// Seed of the one tile all tiled objects are cut from.
const TILE_SEED: u64 = 0x7469_6c65;

/// Bytes of a word.
const WORD: u64 = 8;

/// Lowest bit of each byte: set in every word, so that no byte is zero.
const NO_ZERO: u64 = 0x0101_0101_0101_0101;

/// Increment between words: 2^64 divided by the golden ratio (SplitMix64, Steele et al. 2014).
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Writes the bytes that the object with this seed has at `offset` into the whole of `buffer`.
pub fn fill(seed: u64, offset: u64, buffer: &mut [u8]) {
    let (head, skip) = split(offset, buffer.len());
    let mut state = state(seed, offset / WORD);
    let (first, rest) = buffer.split_at_mut(head);
    if head > 0 {
        first.copy_from_slice(&word(state)[skip..skip + head]);
        state = state.wrapping_add(GOLDEN);
    }
    let mut words = rest.chunks_exact_mut(8);
    for chunk in words.by_ref() {
        chunk.copy_from_slice(&word(state));
        state = state.wrapping_add(GOLDEN);
    }
    let tail = words.into_remainder();
    let len = tail.len();
    tail.copy_from_slice(&word(state)[..len]);
}

/// Compares `bytes`, read at `offset`, with what belongs there; gives the offset in the object of the first wrong
/// byte.
#[must_use]
pub fn check(seed: u64, offset: u64, bytes: &[u8]) -> Option<u64> {
    let (head, skip) = split(offset, bytes.len());
    let mut state = state(seed, offset / WORD);
    let (first, rest) = bytes.split_at(head);
    let mut at = offset;
    if head > 0 {
        if let Some(bad) = differ(first, &word(state)[skip..skip + head]) {
            return Some(at + bad);
        }
        state = state.wrapping_add(GOLDEN);
        at += to_u64(head);
    }
    let words = rest.chunks_exact(8);
    let tail = words.remainder();
    for chunk in words {
        let expected = word(state);
        if chunk != expected {
            return differ(chunk, &expected).map(|bad| at + bad);
        }
        state = state.wrapping_add(GOLDEN);
        at += WORD;
    }
    differ(tail, &word(state)[..tail.len()]).map(|bad| at + bad)
}

/// [`fill`] for a tiled object.
pub fn fill_tiled(seed: u64, offset: u64, buffer: &mut [u8]) {
    let mut at = offset;
    let mut rest = buffer;
    while !rest.is_empty() {
        let (place, room) = tile_place(seed, at);
        let (part, after) = rest.split_at_mut(rest.len().min(room));
        fill(TILE_SEED, place, part);
        at += to_u64(part.len());
        rest = after;
    }
}

/// [`check`] for a tiled object.
#[must_use]
pub fn check_tiled(seed: u64, offset: u64, bytes: &[u8]) -> Option<u64> {
    let mut at = offset;
    let mut rest = bytes;
    while !rest.is_empty() {
        let (place, room) = tile_place(seed, at);
        let (part, after) = rest.split_at(rest.len().min(room));
        if let Some(bad) = check(TILE_SEED, place, part) {
            return Some(at + (bad - place));
        }
        at += to_u64(part.len());
        rest = after;
    }
    None
}

/// The seed an object gets when none is named: the 64-bit FNV-1a hash of its key, so that two objects differ and a
/// checking process needs the key only.
#[must_use]
pub fn seed_of(key: &str) -> u64 {
    key.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The `index`-th number of the random sequence with this seed; all 64 bits are random.
pub(crate) fn random(seed: u64, index: u64) -> u64 {
    mix(state(seed, index))
}

/// Where in the tile the byte at `offset` of a tiled object lies, and how many bytes follow up to the tile's end.
pub(crate) fn tile_place(seed: u64, offset: u64) -> (u64, usize) {
    let start = (random(seed, 0) % (TILE / TILE_STEP)) * TILE_STEP;
    let place = (start + offset % TILE) % TILE;
    (place, usize::try_from(TILE - place).unwrap_or(usize::MAX))
}

/// The tile's own bytes, for the server to keep in memory.
pub(crate) fn fill_tile(offset: u64, buffer: &mut [u8]) {
    fill(TILE_SEED, offset, buffer);
}

/// How many bytes of a buffer belong to a word that began before `offset`, and how many bytes of that word to skip.
fn split(offset: u64, len: usize) -> (usize, usize) {
    let skip = usize::try_from(offset % WORD).unwrap_or(0);
    let head = if skip == 0 { 0 } else { len.min(8 - skip) };
    (head, skip)
}

/// Generator state of the word with this index.
fn state(seed: u64, index: u64) -> u64 {
    // The seed is spread first: seeds 1 and 2 would otherwise be the same run, shifted.
    let spread = seed.wrapping_add(1).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let spread = (spread ^ (spread >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (spread ^ (spread >> 29)).wrapping_add(index.wrapping_mul(GOLDEN))
}

/// SplitMix64's output function.
fn mix(state: u64) -> u64 {
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The bytes of a word, none of them zero.
fn word(state: u64) -> [u8; 8] {
    (mix(state) | NO_ZERO).to_le_bytes()
}

fn differ(found: &[u8], expected: &[u8]) -> Option<u64> {
    found.iter().zip(expected).position(|(a, b)| a != b).map(to_u64)
}

fn to_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Fill = fn(u64, u64, &mut [u8]);
    type Check = fn(u64, u64, &[u8]) -> Option<u64>;
    const FORMS: [(Fill, Check); 2] = [(fill, check), (fill_tiled, check_tiled)];

    #[test]
    fn any_cut_of_an_object_is_the_same_bytes() {
        for (fill, check) in FORMS {
            for base in [0, 5, 4096, TILE - 20, (700 << 30) - 3] {
                let mut whole = [0; 64];
                fill(7, base, &mut whole);
                assert_eq!(check(7, base, &whole), None);
                for from in 0..64_usize {
                    for to in from..=64 {
                        let offset = base + u64::try_from(from).unwrap();
                        let mut part = vec![0; to - from];
                        fill(7, offset, &mut part);
                        assert_eq!(part, whole[from..to]);
                        assert_eq!(check(7, offset, &part), None);
                    }
                }
            }
        }
    }

    #[test]
    fn a_wrong_byte_is_found_where_it_is() {
        for (fill, check) in FORMS {
            let mut bytes = [0; 40];
            fill(1, 1003, &mut bytes);
            assert!(bytes.iter().all(|&byte| byte != 0), "a zero byte could hide a hole");
            for at in 0..40_usize {
                let mut hole = bytes;
                hole[at] = 0;
                assert_eq!(check(1, 1003, &hole), Some(1003 + u64::try_from(at).unwrap()));
            }
        }
    }

    #[test]
    fn objects_and_offsets_differ() {
        for (fill, check) in FORMS {
            let mut bytes = [0; 32];
            fill(1, 4096, &mut bytes);
            assert!(check(1, 8192, &bytes).is_some());
            assert!(check(2, 4096, &bytes).is_some());
        }
        assert_ne!(seed_of("a"), seed_of("b"));
    }

    #[test]
    fn a_tiled_object_repeats() {
        let (mut first, mut second) = ([0; 100], [0; 100]);
        fill_tiled(3, 77, &mut first);
        fill_tiled(3, 77 + 5 * TILE, &mut second);
        assert_eq!(first, second);
    }
}

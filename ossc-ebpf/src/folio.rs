//! How much a fault has mapped where the file's pages are in large folios: since Linux 6.18 the whole folio, of which
//! the tracepoint tells only the window around the page touched (`filemap_map_folio_range`, mm/filemap.c).
//!
//! Not by the kernel's version but by what has happened: when the tracepoint comes the pages are mapped, and counted in
//! the folio. If they are a multiple of its pages, all of them are mapped, by this fault or before it.

use crate::kernel::{Address, member, read};
use crate::maps::setting;

/// Slots of a node of the tree (`XA_CHUNK_SIZE`, include/linux/xarray.h).
const SLOTS: u64 = 64;
/// Levels that 64 bits of index can have.
const LEVELS: usize = 11;
/// Entries up to this are no nodes (`xa_is_node`).
const NOT_NODES: u64 = 4096;
/// Folios are no larger than a huge page: 512 pages of 4 KiB, 8192 of 64 KiB.
const ORDER_MAX: u32 = 13;

/// The pages `first..=last` of the large folio that the page `index` of a file is in, if all of it is mapped.
pub(crate) fn mapped_whole(mapping: Address, index: u64) -> Option<(u64, u64)> {
    if setting!(offsets.cache_head) == 0 {
        return None;
    }
    let folio = large_folio(mapping, index)?;
    let flags: u64 = member(folio, setting!(offsets.folio_order))?;
    let order = (flags & 0xff) as u32;
    if order == 0 || order > ORDER_MAX {
        return None;
    }
    let pages = 1_u64 << order;
    let mapped: u32 = member(folio, setting!(offsets.folio_mapped))?;
    let mapped = u64::from(mapped.wrapping_add(1));
    let first: u64 = member(folio, setting!(offsets.folio_index))?;
    let is_in = first <= index && index - first < pages;
    (is_in && mapped != 0 && mapped & (pages - 1) == 0).then_some((first, first + pages - 1))
}

/// The folio of a page in the page cache if it is a large one: then it has several slots, or one that stands for
/// several pages (lib/xarray.c, `xas_load`). A tree that changes meanwhile gives nothing or a neighbour's.
fn large_folio(mapping: Address, index: u64) -> Option<Address> {
    let mut entry: u64 = member(mapping, setting!(offsets.cache_head))?;
    let mut is_large = false;
    for _ in 0..LEVELS {
        if !is_internal(entry) || entry <= NOT_NODES {
            break;
        }
        let node = (entry - 2) as Address;
        let shift: u8 = member(node, setting!(offsets.node_shift))?;
        let slot = (index >> (shift & 63)) & (SLOTS - 1);
        entry = slot_of(node, slot)?;
        let sibling = if is_sibling(entry) { Some(entry >> 2) } else { None };
        if let Some(first) = sibling {
            entry = slot_of(node, first & (SLOTS - 1))?;
        }
        is_large =
            shift > 0 || sibling.is_some() || slot + 1 < SLOTS && slot_of(node, slot + 1)? == slot << 2 | 2;
    }
    // The lowest bits are set in everything that is no pointer.
    (is_large && entry != 0 && entry & 3 == 0).then_some(entry as Address)
}

fn slot_of(node: Address, slot: u64) -> Option<u64> {
    read(node.wrapping_add(setting!(offsets.node_slots) as usize + slot as usize * size_of::<u64>()))
}

/// `xa_is_internal`.
fn is_internal(entry: u64) -> bool {
    entry & 3 == 2
}

/// `xa_is_sibling`: the entry is in the slot it names.
fn is_sibling(entry: u64) -> bool {
    is_internal(entry) && entry < (SLOTS - 1) << 2 | 2
}

//! The words every part speaks: objects, ranges, blocks, lanes, backoff. Pure values: nothing here
//! does I/O, reads a clock or knows tokio. All arithmetic between byte offsets and blocks is here.

mod access;
mod backoff;
mod blocks;
mod chain;
mod lane;
mod nic;
mod object;
mod page;
mod range;
mod units;

pub use access::{Access, AccessKind};
pub use backoff::Backoff;
pub use blocks::{BlockIndex, BlockSize, Extent, FileId, Layout};
pub use chain::chain;
pub use lane::Lane;
pub use nic::{Nic, NotANic};
pub use object::{ETag, Object};
pub use page::coloured;
pub use range::ByteRange;
pub use units::{Bytes, millis};

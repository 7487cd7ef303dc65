//! What pages have in common.

/// Their colours.
const PALETTE: &str = include_str!("palette.css");
/// Where these go in a page.
const PLACE: &str = "/* PALETTE */";

/// A page with its colours.
#[must_use]
pub fn coloured(page: &str) -> String {
    page.replacen(PLACE, PALETTE, 1)
}

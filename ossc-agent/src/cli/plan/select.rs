//! From what the user typed to one model: an id, the beginning of one, or where the model was loaded from.

use super::Error;
use crate::order::{ModelId, Shelf};

/// The one model meant by `text`. A file that cannot be used is still found by its id, so that it can be
/// forgotten.
pub(super) fn select(shelf: &Shelf, text: &str) -> Result<ModelId, Error> {
    let is_place = text.contains("://");
    let is_meant = |id: &ModelId| {
        if is_place {
            shelf.load(id).is_ok_and(|orders| orders.is_some_and(|orders| orders.source == text))
        } else {
            !text.is_empty() && id.as_str().starts_with(text)
        }
    };
    let mut meant = shelf.list()?.into_iter().filter(is_meant);
    match (meant.next(), meant.next()) {
        (Some(id), None) => Ok(id),
        (Some(_), Some(_)) => Err(Error::Ambiguous(text.to_owned())),
        (None, _) => Err(Error::Unknown(text.to_owned())),
    }
}

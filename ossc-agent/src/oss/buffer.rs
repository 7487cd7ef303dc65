//! Where bodies are received: a stack of buffers for each thread. A connection that waits for bytes holds none; it
//! takes the one that was put back last, which is still in the processor's cache, when the kernel has a piece for
//! it. So a thread works in one hot buffer however many connections it has, and needs a second one only while a
//! piece waits to be written. Used by `body`; memory is given back when the thread ends.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Size of a buffer, bytes: the most that a caller can have at once. What is never asked for in one piece is never
/// touched and takes no memory.
pub(super) const SIZE: usize = 1 << 20;
/// How many a thread keeps; a burst of more is freed again.
const KEPT: usize = 4;

thread_local! {
    static IDLE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// One buffer; goes back to its thread's stack when dropped.
pub(super) struct Buffer(Box<[u8]>);

impl Buffer {
    /// The one put back last, or a new one.
    pub(super) fn take() -> Self {
        let hot = IDLE.with_borrow_mut(Vec::pop);
        Self(hot.unwrap_or_else(|| vec![0; SIZE].into_boxed_slice()))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.0);
        // A thread that is ending has no stack any more.
        let kept = IDLE.try_with(|idle| {
            let mut idle = idle.borrow_mut();
            if idle.len() < KEPT {
                idle.push(bytes);
            }
        });
        kept.unwrap_or_default();
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_put_back_last_is_taken_first() {
        let (mut first, second) = (Buffer::take(), Buffer::take());
        first[0] = 7;
        assert_eq!((first.len(), second[0]), (SIZE, 0));
        drop(second);
        drop(first);
        assert_eq!(Buffer::take()[0], 7);
    }
}

//! Takes back what a failing `Store::open` has made, newest first, so that nothing half-made stays.

use std::io;

/// Steps that undo what was done; run when dropped, unless `keep` was called.
#[derive(Default)]
pub(super) struct Undo {
    steps: Vec<Box<dyn FnOnce() -> io::Result<()>>>,
}

impl Undo {
    /// Remembers how to undo what has just been done.
    pub(super) fn push(&mut self, step: impl FnOnce() -> io::Result<()> + 'static) {
        self.steps.push(Box::new(step));
    }

    /// All went well: nothing is undone.
    pub(super) fn keep(mut self) {
        self.steps.clear();
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        for step in self.steps.drain(..).rev() {
            if let Err(error) = step() {
                tracing::warn!(%error, "could not take back a step of the failed set-up");
            }
        }
    }
}

//! The two things the threads of `fetch` share state through: a lock and a wake-up. They are types of our own,
//! made of the parent's `primitives`, so that an interleaving checker can stand in for them in one place
//! (`tests/interleaving`). Neither fails: a lock poisoned by a
//! panicking holder is taken over, because every holder leaves the state whole between statements.

use std::pin::pin;
use std::sync::PoisonError;
use std::time::Instant;

use super::primitives::{Mutex, Notify, sleep_until};

/// State that is only reachable while holding its lock, for the length of a closure.
#[derive(Debug)]
pub(super) struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    pub(super) fn new(state: T) -> Self {
        Self(Mutex::new(state))
    }

    /// Runs `look` on the state. It must not block, call out, or take another lock.
    pub(super) fn with<R>(&self, look: impl FnOnce(&mut T) -> R) -> R {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Wakes tasks that found nothing to do, across threads and without losing a wake-up.
#[derive(Debug, Default)]
pub(super) struct Signal(Notify);

impl Signal {
    /// Wakes one idle task; with none idle, the next one to become idle looks once more.
    pub(super) fn one(&self) {
        self.0.notify_one();
    }

    /// Wakes every idle task.
    pub(super) fn all(&self) {
        self.0.notify_waiters();
    }

    /// Calls `look` until it finds something. The task is on the list of idle ones before it looks, so what
    /// another thread adds right after the look still wakes it. `look` says when to try again unasked.
    pub(super) async fn until<T>(&self, mut look: impl FnMut() -> Result<T, Option<Instant>>) -> T {
        loop {
            let mut turn = pin!(self.0.notified());
            turn.as_mut().enable();
            match look() {
                Ok(found) => return found,
                Err(None) => turn.await,
                Err(Some(at)) => {
                    tokio::select! {
                        () = turn => {}
                        () = sleep_until(at.into()) => {}
                    }
                }
            }
        }
    }
}

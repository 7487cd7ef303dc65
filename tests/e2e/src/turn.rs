//! Few heavy tests at a time.
//!
//! Tests that measure shares of a load, or keep many readers busy, take turns, so that they do not take the
//! machine from each other; most of a turn they wait. The test harness's own `--test-threads` would hold back the light
//! ones too.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// So many at once.
const PLACES: usize = 2;

static TAKEN: Mutex<usize> = Mutex::new(0);
static GIVEN_BACK: Condvar = Condvar::new();

/// A test's turn, until it is dropped.
#[derive(Debug)]
pub struct Turn(());

/// Waits for this test's turn. A test that failed in its turn does not keep it.
#[must_use]
pub fn take() -> Turn {
    let full = |taken: &mut usize| *taken == PLACES;
    let mut taken = GIVEN_BACK.wait_while(lock(), full).unwrap_or_else(PoisonError::into_inner);
    *taken += 1;
    Turn(())
}

impl Drop for Turn {
    fn drop(&mut self) {
        *lock() -= 1;
        GIVEN_BACK.notify_one();
    }
}

fn lock() -> MutexGuard<'static, usize> {
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
}

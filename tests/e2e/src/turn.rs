//! One heavy test at a time.
//!
//! Tests that measure shares of a load, or keep many readers busy, take turns, so that they do not take the
//! machine from each other. The test harness's own `--test-threads` would hold back the light ones too.

use std::sync::{Mutex, MutexGuard, PoisonError};

static TURN: Mutex<()> = Mutex::new(());

/// Waits for this test's turn, which lasts as long as the guard. A test that failed in its turn does not keep it.
pub fn take() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

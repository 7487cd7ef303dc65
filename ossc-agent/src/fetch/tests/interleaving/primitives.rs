//! What `sync.rs` is made of, as shuttle can explore it: its mutex, and a stand-in for tokio's `Notify` with the
//! contract of its documentation. `notify_one` wakes the first that waits, or leaves one permit; `notify_waiters` wakes
//! all whose `Notified` exists; a `Notified` that was woken and is dropped unused wakes the next. Time does not pass.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

pub(super) use shuttle::sync::Mutex;

/// The stand-in.
#[derive(Debug)]
pub(super) struct Notify(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    permit: bool,
    /// Calls of `notify_waiters`.
    rounds: u64,
    next: u64,
    /// Those enabled and not woken.
    waiting: VecDeque<(u64, Option<Waker>)>,
    /// Those woken by `notify_one` that do not know it yet.
    woken: Vec<u64>,
}

impl Default for Notify {
    fn default() -> Self {
        Self(Mutex::new(State::default()))
    }
}

impl Notify {
    pub(super) fn notify_one(&self) {
        let mut state = self.0.lock().unwrap();
        let first = state.waiting.pop_front();
        let waker = match first {
            Some((number, waker)) => {
                state.woken.push(number);
                waker
            }
            None => {
                state.permit = true;
                None
            }
        };
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    pub(super) fn notify_waiters(&self) {
        let mut state = self.0.lock().unwrap();
        state.rounds += 1;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().filter_map(|(_, waker)| waker).for_each(Waker::wake);
    }

    pub(super) fn notified(&self) -> Notified<'_> {
        let mut state = self.0.lock().unwrap();
        state.next += 1;
        Notified { notify: self, number: state.next, round: state.rounds, is_listed: false, is_done: false }
    }
}

/// One wait.
pub(super) struct Notified<'a> {
    notify: &'a Notify,
    number: u64,
    round: u64,
    is_listed: bool,
    is_done: bool,
}

impl Notified<'_> {
    /// Takes a place in the line, or a permit.
    pub(super) fn enable(self: Pin<&mut Self>) -> bool {
        self.get_mut().look(None)
    }

    fn look(&mut self, waker: Option<&Waker>) -> bool {
        let mut state = self.notify.0.lock().unwrap();
        if self.is_done {
            return true;
        }
        let number = self.number;
        if !self.is_listed && state.permit && state.rounds == self.round {
            state.permit = false;
            self.is_done = true;
        } else if state.rounds > self.round || state.woken.contains(&number) {
            state.woken.retain(|other| *other != number);
            state.waiting.retain(|(other, _)| *other != number);
            self.is_done = true;
        } else if let Some(place) = state.waiting.iter_mut().find(|(other, _)| *other == number) {
            place.1 = waker.cloned();
        } else {
            state.waiting.push_back((number, waker.cloned()));
            self.is_listed = true;
        }
        self.is_done
    }
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.get_mut().look(Some(context.waker())) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        let number = self.number;
        let mut state = self.notify.0.lock().unwrap();
        state.waiting.retain(|(other, _)| *other != number);
        let was_woken = state.woken.contains(&number);
        state.woken.retain(|other| *other != number);
        drop(state);
        if was_woken {
            self.notify.notify_one();
        }
    }
}

/// For ever: nothing rests here.
pub(super) fn sleep_until(_at: tokio::time::Instant) -> std::future::Pending<()> {
    std::future::pending()
}

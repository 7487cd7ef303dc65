//! The service manager: how far the agent is, that it is alive, and copies of descriptors for a time when neither agent
//! nor keeper lives (sd_notify(3), sd_listen_fds(3), "File Descriptor Store" in systemd's documentation).
//!
//! Driven by `agent`, which decides what is said when and what is kept under which name. Without a service manager
//! every call does nothing. Nobody waits for the manager's answer and nothing depends on it, so what it cannot be
//! told is a line in the log.

use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

use sd_notify::NotifyState;

/// Times of this protocol are microseconds in 32 bits here; the longest is over an hour.
const MOST: Duration = Duration::from_micros(u32::MAX as u64);

/// What the manager tells a service by its environment: none of a program's that the agent starts.
pub const VARIABLES: [&str; 8] = [
    "CREDENTIALS_DIRECTORY",
    "NOTIFY_SOCKET",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// The service can be used.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// What `systemctl status` shows.
pub fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// The service is about to end, and may take so long.
pub fn stopping(within: Duration) {
    tell(&[NotifyState::Stopping, extension(within)]);
}

/// A start, or a stop, may take so long from now on.
pub fn extend(within: Duration) {
    tell(&[extension(within)]);
}

/// The service is alive; to be called more often than [`watchdog`] says.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// After which silence the manager ends the service, if it does.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|silence| !silence.is_zero())
}

/// Has the manager keep a copy of this descriptor, and give it to the next process of the service. What it has
/// already it does not take twice (`service_add_fd_store`, systemd `src/core/service.c`).
pub fn keep(name: &str, descriptor: BorrowedFd<'_>) {
    // Without the polling, for none of these ever hangs up (FDPOLL=0, systemd 246).
    let state = [NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")];
    if let Err(error) = sd_notify::notify_with_fds(&state, &[descriptor]) {
        tracing::warn!(%error, name, "the service manager has no copy of what holds readers");
    }
}

/// Has the manager close what it keeps under this name.
pub fn forget(name: &str) {
    tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
}

/// The numbers and names of the descriptors that the manager gave to this process, which are close-on-exec from now
/// on. To be called once, before anything else opens or closes descriptors.
///
/// # Errors
/// The manager's variables contradict each other or name what is not open.
pub fn given() -> std::io::Result<Vec<(RawFd, String)>> {
    Ok(sd_notify::listen_fds_with_names()?.collect())
}

fn extension(within: Duration) -> NotifyState<'static> {
    NotifyState::ExtendTimeoutUsec(u32::try_from(within.min(MOST).as_micros()).unwrap_or(u32::MAX))
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager does not hear");
    }
}

//! A stand-in for a service manager: hears what a service says (sd_notify(3)) and keeps the descriptors it hands over.
//!
//! Driven by tests, which start agents under it. The descriptors are real ones, received over a real socket; they
//! close when the manager is dropped, or when the service asks for it.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use tempfile::TempDir;

use crate::sys;

/// Longest message; systemd's own limit.
const MESSAGE: usize = 4096;
/// Descriptors of one message.
const MOST: usize = 253;
/// Ends the thread.
const END: &str = "END-OF-TEST";

#[derive(Debug, Default)]
struct State {
    messages: Vec<String>,
    kept: Vec<(String, Arc<OwnedFd>)>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    grown: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The manager.
#[derive(Debug)]
pub struct Manager {
    directory: TempDir,
    shared: Arc<Shared>,
}

impl Manager {
    /// Starts one that listens.
    pub fn start() -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("ossc-manager-").tempdir().context("a directory")?;
        let manager = Self { directory, shared: Arc::default() };
        let socket = UnixDatagram::bind(manager.socket()).context("bind the socket of the manager")?;
        let shared = Arc::clone(&manager.shared);
        std::thread::spawn(move || {
            while let Ok((text, descriptors)) = receive(&socket) {
                if text == END {
                    return;
                }
                obey(&mut shared.lock(), text, descriptors);
                shared.grown.notify_all();
            }
        });
        Ok(manager)
    }

    /// What NOTIFY_SOCKET names.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("notify")
    }

    /// What it keeps now, by name.
    #[must_use]
    pub fn kept(&self) -> Vec<(String, Arc<OwnedFd>)> {
        self.shared.lock().kept.clone()
    }

    /// All that was said so far.
    #[must_use]
    pub fn messages(&self) -> Vec<String> {
        self.shared.lock().messages.clone()
    }

    /// Waits until what was said and what is kept (the number of descriptors) are as wanted.
    pub fn wait_for(
        &self,
        what: &str,
        limit: Duration,
        mut wanted: impl FnMut(&[String], usize) -> bool,
    ) -> anyhow::Result<()> {
        let state = self.shared.lock();
        let (state, timeout) = self
            .shared
            .grown
            .wait_timeout_while(state, limit, |state| !wanted(&state.messages, state.kept.len()))
            .unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            bail!(
                "the service manager waited for {what} and heard {:#?}; it keeps {:?}",
                state.messages,
                state.kept
            );
        }
        Ok(())
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let end = |path: &Path| UnixDatagram::unbound()?.send_to(END.as_bytes(), path);
        if let Err(error) = end(&self.socket()) {
            eprintln!("the service manager of a test goes on: {error}");
        }
    }
}

fn obey(state: &mut State, text: String, descriptors: Vec<OwnedFd>) {
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let name = value("FDNAME").unwrap_or("stored").to_owned();
    if value("FDSTORE") == Some("1") {
        for fd in descriptors {
            // As systemd does: the same open file is not kept twice.
            if !state.kept.iter().any(|(known, kept)| *known == name && sys::is_same_file(kept, &fd)) {
                state.kept.push((name.clone(), Arc::new(fd)));
            }
        }
    }
    if value("FDSTOREREMOVE") == Some("1") {
        state.kept.retain(|(known, _)| *known != name);
    }
    state.messages.push(text);
}

fn receive(socket: &UnixDatagram) -> anyhow::Result<(String, Vec<OwnedFd>)> {
    let mut bytes = [0; MESSAGE];
    let mut control = nix::cmsg_space!([i32; MOST]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            descriptors.extend(numbers.into_iter().map(sys::received));
        }
    }
    let length = message.bytes;
    Ok((String::from_utf8_lossy(bytes.get(..length).unwrap_or_default()).into_owned(), descriptors))
}

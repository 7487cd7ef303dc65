//! Signals as events of a loop: which end the agent, which go on to the command. Driven by the loops of
//! `agent` and `trace`.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A signal the agent acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caught(pub nix::sys::signal::Signal);

/// Receives what a service manager, a terminal or a person sends to end, reload or poke a program.
#[derive(Debug)]
pub struct Signals([(nix::sys::signal::Signal, Signal); KINDS.len()]);

/// What [`Signals`] receives.
const KINDS: [nix::sys::signal::Signal; 6] = {
    use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
    [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2]
};

impl Signals {
    /// Takes the signals over from their default action.
    pub fn take() -> io::Result<Self> {
        let take = |kind: nix::sys::signal::Signal| {
            Ok::<_, io::Error>((kind, signal(SignalKind::from_raw(kind as i32))?))
        };
        let [a, b, c, d, e, f] = KINDS;
        Ok(Self([take(a)?, take(b)?, take(c)?, take(d)?, take(e)?, take(f)?]))
    }

    /// The next signal. Cancel safe.
    pub async fn next(&mut self) -> Caught {
        std::future::poll_fn(|context| {
            for (kind, signal) in &mut self.0 {
                if signal.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(Caught(*kind));
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

impl Caught {
    /// Whether it is what a service manager sends to stop or restart a service.
    pub fn is_from_manager(self) -> bool {
        self.0 == nix::sys::signal::Signal::SIGTERM
    }

    /// Whether it asks the agent itself to end.
    pub fn ends_agent(self) -> bool {
        use nix::sys::signal::Signal::{SIGINT, SIGQUIT, SIGTERM};
        matches!(self.0, SIGTERM | SIGINT | SIGQUIT)
    }
}

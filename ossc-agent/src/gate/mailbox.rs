//! How the rest of the agent speaks to the gate's thread: a queue, and a descriptor that wakes the thread
//! out of its poll. Posting never blocks; after the thread has ended it has no effect.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::{fmt, io};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::demand::Guarded;
use crate::bpf::stop::KernelInode;
use crate::keeper::Pending;
use crate::store::Inode;

/// What the thread is told.
pub(super) enum Message {
    /// The file is about to be marked; what the stop gate's programs call it.
    Watch(Arc<dyn Guarded>, Option<KernelInode>),
    /// Every file that has a mark is known: take over these readers, then listen to the kernel.
    Begin(Vec<Pending>),
    /// The file is complete and its mark is gone.
    Release(Inode),
    /// The file cannot be completed.
    Fail(Inode, Errno),
    /// A demand has an outcome.
    Done {
        /// Which held reader asked.
        ticket: u64,
        /// Whether its bytes are there.
        outcome: Result<(), Errno>,
    },
    /// From now on nobody is held; dropped once those held have their answer.
    Stop(Sender<()>),
    /// Demands that fail fail nobody any more.
    Spare,
    /// End the thread and leave everybody held to the next agent.
    Leave(Sender<()>),
    /// End the thread.
    Quit,
}

/// The sending side.
#[derive(Clone)]
pub(super) struct Mailbox {
    messages: Sender<Message>,
    wake: Arc<EventFd>,
}

impl Mailbox {
    pub(super) fn new() -> io::Result<(Self, Receiver<Message>)> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let (messages, received) = mpsc::channel();
        Ok((Self { messages, wake: Arc::new(wake) }, received))
    }

    /// Leaves a message and wakes the thread.
    pub(super) fn post(&self, message: Message) {
        self.leave(message);
        // Fails only when the counter is at its limit, and then the thread is awake already.
        self.wake.write(1).ok();
    }

    /// Leaves a message for when the thread next looks, which it does before it judges a file it does not
    /// know.
    pub(super) fn leave(&self, message: Message) {
        // Fails only when the thread is gone; who would need the answer learns it from the closed reply.
        self.messages.send(message).ok();
    }

    /// Readable when something was posted.
    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Makes `wake_fd` quiet again; to be called before the messages are taken.
    pub(super) fn quiet(&self) {
        // Fails only when it is quiet.
        self.wake.read().ok();
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox").finish_non_exhaustive()
    }
}

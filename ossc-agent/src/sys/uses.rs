//! When files were last opened or closed (inotify(7)): how long nobody has used one. Driven by `agent`.
//!
//! A file that is open for hours shows at neither end of them; who asks looks besides whether it is open now (`lease`).
//! Descriptors of fanotify events raise nothing here.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

/// Watches over files, each known by a number of the caller's.
#[derive(Debug)]
pub struct Uses {
    inotify: Inotify,
    files: HashMap<WatchDescriptor, usize>,
}

impl Uses {
    /// With no file yet.
    pub fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        Ok(Self { inotify, files: HashMap::new() })
    }

    /// Watches the file behind a descriptor. `ENOSPC`: fs.inotify.max_user_watches is used up.
    pub fn watch(&mut self, file: BorrowedFd<'_>, number: usize) -> io::Result<()> {
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        let what = AddWatchFlags::IN_OPEN | AddWatchFlags::IN_CLOSE;
        self.files.insert(self.inotify.add_watch(link.as_str(), what)?, number);
        Ok(())
    }

    /// The files that were opened or closed since this was called last; all of them if the kernel lost count.
    pub fn take(&self) -> Vec<usize> {
        let mut used = Vec::new();
        loop {
            match self.inotify.read_events() {
                Ok(events) => {
                    for event in events {
                        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                            used.extend(self.files.values());
                        }
                        used.extend(self.files.get(&event.wd));
                    }
                }
                Err(Errno::EINTR) => {}
                Err(_) => return used,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn opening_and_closing_are_uses() {
        let dir = tempfile::tempdir().unwrap();
        let mut uses = Uses::new().unwrap();
        for number in 0..2 {
            let file = File::create(dir.path().join(number.to_string())).unwrap();
            uses.watch(file.as_fd(), number).unwrap();
        }
        assert_eq!(uses.take(), [0, 1], "the descriptors above were closed");
        let reader = File::open(dir.path().join("1")).unwrap();
        assert_eq!(uses.take(), [1]);
        assert_eq!(uses.take(), [] as [usize; 0]);
        drop(reader);
        assert_eq!(uses.take(), [1]);
    }
}

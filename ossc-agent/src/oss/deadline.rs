//! Waiting with an end. Everything this part waits for comes from the network and may never come; the waits
//! that end in a plain I/O error go through here with a limit named by the caller, and the error says how long
//! it was. (`body` has its own, which also looks at how fast bytes come.)

use std::future::Future;
use std::io;
use std::time::Duration;

/// The future's result, or `TimedOut` after `limit`.
pub(super) async fn within<T>(limit: Duration, future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(limit, future).await.unwrap_or_else(|_| {
        let text = format!("nothing came within {} s", limit.as_secs());
        Err(io::Error::new(io::ErrorKind::TimedOut, text))
    })
}

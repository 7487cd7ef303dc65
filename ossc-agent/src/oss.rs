//! OSS client: what there is (`list`, `head`) and its bytes (ranged GETs on kept-alive connections).
//! The agent makes one `Client` per bucket and prefix; each fetch worker has its own `Connection`s from it.
//! Every reply is checked against what was asked for before a byte of it is handed out; errors classify
//! themselves (`Error::is_retryable` and its like). Which ranges to ask for, and when to try data again, is
//! left to `fetch`.
//!
//! Needs a tokio runtime with I/O and time, but keeps nothing of one: a client may be used from several threads
//! with a current-thread runtime each.

mod audit;
mod body;
mod buffer;
mod client;
mod clock;
mod config;
mod connection;
mod credentials;
mod deadline;
mod dial;
mod endpoint;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod http;
mod list;
mod metadata;
mod proxy;
mod reach;
mod reply;
mod requests;
mod retry;
mod sign;
mod tls;
mod uri;

#[cfg(test)]
mod tests;

pub use self::audit::{Audit, PeerRequest};
pub use self::body::Body;
pub use self::client::Client;
pub use self::config::{Config, DEFAULT_REQUEST_TIMEOUT};
pub use self::connection::Connection;
pub use self::credentials::{CredentialSource, Credentials, CredentialsError, EcsRamRole, Oidc, Secret};
pub use self::error::{Error, ServiceError};
pub use self::reach::Reach;
pub use self::requests::Watchers;

//! Stand-alone OSS test server.
//!
//! Speaks enough of the OSS protocol for reading: ListObjectsV2, HeadObject, GetObjectMeta, GetObject with ranges and
//! conditions, signatures V4 and V1, and the services that issue credentials. It shares no code with the agent, so
//! that it cannot approve the agent's mistakes, and it misbehaves on demand. Tests run it in their own process:
//!
//! ```
//! use oss_server::{Config, Fault, Object, Rule, Server};
//!
//! let server = Server::start(Config::default())?;
//! server.put("models/a.bin", Object::synthetic(1, 700 << 30));
//! server.faults().add(Rule::new(Fault::Short { after: 1000 }).key("models/*").nth(2));
//! server.set_rate(100_000_000);
//! println!("{} has {} requests", server.endpoint(), server.log().entries().len());
//! # anyhow::Ok(())
//! ```
//!
//! The program `oss-server` is the same server for demonstrations and benches.
//!
//! A request passes these parts: `server` accepts, `connection` loops, `request` parses, `service` decides with
//! `address`, `faults`, `auth`, `list`, `get` and `metadata`, and `send` replies under the limits of `rate`.

mod address;
mod auth;
mod clock;
mod config;
mod connection;
mod content;
mod error;
mod faults;
mod get;
mod hex;
mod list;
mod log;
mod metadata;
mod objects;
mod range;
mod rate;
mod request;
mod response;
mod send;
mod server;
mod service;
mod stream;
mod sync;
pub mod synthetic;
mod tls;
mod xml;

pub use auth::{Authorization, Keys};
pub use config::{ACCESS_KEY_ID, ACCESS_KEY_SECRET, AccessKey, Config, MetadataConfig};
pub use faults::{Fault, Faults, Rule, RuleHandle};
pub use log::{End, Entry, Log, Operation};
pub use metadata::Metadata;
pub use objects::Object;
pub use server::Server;

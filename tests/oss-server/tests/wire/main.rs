//! The server over real sockets: what a client sees, what the log says, and how each fault looks on the wire.
//!
//! The client is a raw socket, so that nothing repairs, retries or reorders behind the tests' back.

#[cfg(test)]
mod basics;
#[cfg(test)]
mod client;
#[cfg(test)]
mod credentials;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod program;

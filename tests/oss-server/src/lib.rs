//! Stand-alone OSS test server.

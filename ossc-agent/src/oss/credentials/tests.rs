//! Credential sources and their cache.

//! Sockets: source address or device before connect, buffer sizes.

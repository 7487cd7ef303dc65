//! The eBPF object: programs that watch the target's processes open, map, read and fault the watched
//! files, and tell `ossc-agent` through a ring buffer. Compiled for the kernel's BPF machine by ossc-agent/build.rs.
//!
//! They only look: nothing here changes what a reader gets. A program that cannot find out what it needs
//! returns without a record; a record that finds the ring full is counted.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "every look at kernel memory goes through a raw pointer")]

mod filter;
mod folio;
mod kernel;
mod map;
mod maps;
mod memory;
mod object;
mod open;
mod pages;
mod read;
mod stall;
mod syscall;
mod tree;

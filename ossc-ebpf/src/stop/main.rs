//! The eBPF object of the stop gate: programs that stop a process before it can look at a mapping whose bytes are
//! not all there, and that tell which range a read call in flight asks for. Loaded by `ossc-agent`'s `bpf::stop`.
//!
//! Unlike the tracing programs these decide what a reader sees, for every process but the agent. What they cannot
//! find out or have no room for they decide on the safe side: the process is stopped once too often, or killed.
//! An object of its own, because it lives on in the keeper when the agent has died, and because a machine that
//! cannot have one of the two may have the other.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "every look at kernel memory goes through a raw pointer")]
#![allow(dead_code, reason = "the two objects share kernel.rs, and neither uses all of it")]

mod calls;
mod family;
mod hold;
#[path = "../kernel.rs"]
mod kernel;
mod mapping;
mod maps;
#[path = "../object.rs"]
mod object;
mod reads;
mod seen;
mod signals;

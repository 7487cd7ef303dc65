//! Fixed-layout records that both sides of the kernel line read: the eBPF programs of `ossc-ebpf`
//! write them, `ossc-agent`'s `bpf` part decodes them. No logic lives here.
#![no_std]

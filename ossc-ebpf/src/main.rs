//! The eBPF object. Compiled for the kernel's BPF machine by ossc-agent/build.rs.
fn main() {}

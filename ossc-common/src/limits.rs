//! Sizes of the maps, shared by the side that declares them and the side that fills them.

/// Bytes of the ring buffer of records: 87 000 records, 0.4 s of 200 000 records a second, so that the
/// reading thread may lose the processor for that long. A power of two and whole pages, as the kernel asks.
pub const RING_BYTES: u32 = 4 << 20;
/// Milliseconds between two wake-ups of the reading thread. A wake-up per record is an interrupt to oneself, 4 us
/// of each read(2) in a virtual machine; in this time 1000 records come at 200 000 a second, a percent of the ring.
pub const WAKE_INTERVAL_MS: u16 = 5;
/// Processes that can be targets at a time: a preallocated map of about 1 MiB, half of the default
/// kernel.pid_max of 32768.
pub const TARGETS_MAX: u32 = 16384;
/// Files that can be watched at a time; the largest models have a few hundred shards.
pub const WATCHED_MAX: u32 = 16384;
/// Threads that can be inside mmap(2) of a watched file at a time; the oldest is forgotten beyond that.
pub const MAPS_IN_FLIGHT_MAX: u32 = 4096;
/// Threads whose last read is remembered; of one that is forgotten, a read may be recorded twice.
pub const READERS_MAX: u32 = 4096;
/// Cgroups that can be named as targets: each is one helper call per event of a process of no other target.
pub const CGROUPS_MAX: u32 = 16;

/// Slot of the loss counters: records that found the ring buffer full.
pub const LOST_RECORDS: u32 = 0;
/// Slot of the loss counters: children of targets that found the target map full.
pub const LOST_CHILDREN: u32 = 1;
/// Number of loss counters.
pub const LOSSES: u32 = 2;

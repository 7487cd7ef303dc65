//! The store as its users see it, on a disk file system (where the test binary is), on
//! loop devices and on tmpfs. Needs root.

mod disks;
mod errors;
mod interleaving;
mod lifecycle;
mod model;
mod ready_map;
mod room;
mod scratch;

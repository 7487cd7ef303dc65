//! The store as its users see it, on a disk file system (where the test binary is) and on tmpfs.

mod errors;
mod lifecycle;
mod model;
mod scratch;

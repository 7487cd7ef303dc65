//! Files: confined opening, preallocation, early writeback, file system facts.

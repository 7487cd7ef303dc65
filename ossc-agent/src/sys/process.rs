//! Processes: limits, held starts, own identity.

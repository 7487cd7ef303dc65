//! The client against small servers with canned replies.

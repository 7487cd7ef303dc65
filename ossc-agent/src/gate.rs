//! Holding readers. (stub)

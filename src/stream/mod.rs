//! The heart: what to do with each message.

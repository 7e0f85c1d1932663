//! What a person, or a program, sees while work is under way.

pub mod human;
pub mod metrics;
pub mod progress;

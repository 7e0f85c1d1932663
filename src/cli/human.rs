//! Sizes and times for people.

pub(super) use crate::observe::human::{bytes, duration};

//! Promise: the numbers of a receiver are true, tell idle from stuck, and cost the stream nothing.

mod contrib;
mod cost;
mod harness;
mod strangers;
mod truth;

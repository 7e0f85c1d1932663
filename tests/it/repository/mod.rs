//! Promise: a base backup in the archive is whole, or it is not there; and a cluster comes back from it.

mod encrypting;
mod harness;
mod keeping;
mod reading;
mod restoring;
mod taking;

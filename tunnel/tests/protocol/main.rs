//! Devices that talk over a wire made of vectors: the protocol without sockets, files or time.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod bench;
mod clocks;
mod congestion;
mod day;
mod flood;
mod groups;
mod hostile;
mod indices;
mod initiations;
mod many;
mod peers;
mod reorder;
mod secrets;
mod sessions;
mod shards;
mod sim;

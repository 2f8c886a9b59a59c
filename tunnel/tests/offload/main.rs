//! Super-packets: cut, joined, and cut again.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod coalesce;
mod packets;
mod properties;
mod segment;

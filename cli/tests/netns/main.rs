//! This machine as a Peer, with real packets: `spanwire-tunnel` here and at two leaders in namespaces of their own. Needs root.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod machine;
mod migrate;
mod world;

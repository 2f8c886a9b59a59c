//! This machine as a Peer, with real packets: `spanwire-tunnel` here, or the kernel's WireGuard (`scripts/test-kernel connect`), and at
//! two leaders in namespaces of their own; a plain client with them; and what `migrate kilo` runs on nodes. Needs root.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod machine;
mod migrate;
mod plain;
mod world;

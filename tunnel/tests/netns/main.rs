//! The device in network namespaces, against other implementations. Needs root and Linux.
//!
//! `SPANWIRE_WG_PEER=kernel` puts the kernel's WireGuard on the other side of the `interop` tests instead of wireguard-go.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod conformance;
mod interop;
mod lifecycle;
mod offloads;
mod serve;
mod traffic;
mod world;

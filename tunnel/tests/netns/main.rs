//! The device in network namespaces, against other implementations. Needs root and Linux.
//!
//! `SPANWIRE_WG_PEER` puts another WireGuard than the newest wireguard-go on the other side of the `interop` tests: `kernel`,
//! or `debian` for its wireguard-go. What takes minutes is ignored: `make soak-tunnel`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod addresses;
mod clients;
mod conformance;
mod declined;
mod dropin;
mod flood;
mod handover;
mod inherited;
mod initiations;
mod interop;
mod kept;
mod lifecycle;
mod limits;
mod namespaces;
mod nat;
mod nested;
mod offloads;
mod others;
mod refused;
mod roaming;
mod routing;
mod serve;
mod shards;
mod soak;
mod traffic;
mod volume;
mod vrf;
mod world;

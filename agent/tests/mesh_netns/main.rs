//! Whole agents, from files, in network namespaces: two locations of two nodes, flannel's vxlan inside each, a router
//! between them that lets nothing through but WireGuard. Judged by ping, `ip`, `nft` and `wg`.
//!
//! Needs root. `SPANWIRE_TEST_BACKEND=kernel` puts the kernel's WireGuard in the place of spanwire-tunnel. Everything lives
//! in namespaces that end with the test, however it ends.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;
mod boot;
mod cni;
mod encryption;
mod failover;
mod failures;
mod families;
mod firewalls;
mod landing;
mod marks;
mod mesh;
mod moves;
mod names;
mod neighbours;
mod netem;
mod preshared;
mod printers;
mod scenes;
mod uplinks;
mod views;
mod vxlan;
mod wireguard;
mod world;

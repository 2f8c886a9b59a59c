//! Tests of what a machine should look like.

#![cfg(test)]
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the crate is pure; its tests read committed files and ask Linux"
)]

mod calico;
mod cni;
mod failover;
mod firewall;
mod ipsec;
mod ipv6;
mod local_routes;
mod mtus;
mod neighbours;
mod netns;
mod nft_syntax;
mod preshared;
mod properties;
mod samples;
mod snapshots;
mod vxlan;

//! The kernel crate against real kernels: each test in a network namespace of its own, judged by `ip`, `nft` and `wg`.
//!
//! Needs root. Which WireGuard is tested says the environment: `SPANWIRE_TEST_BACKEND` is `wireguard-go` (default),
//! `tunnel` (with `SPANWIRE_TUNNEL` naming the binary), or `kernel`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod changes;
mod clashes;
mod echo;
mod firewall_hooks;
mod firewall_sets;
mod firewalls;
mod guard;
mod ipv6;
mod judged;
mod lab;
mod links;
mod look;
mod nft;
mod routes;
mod rules;
mod sysctls;
mod taps;
mod userspace;
mod vxlan;
mod ways;
mod wireguard;

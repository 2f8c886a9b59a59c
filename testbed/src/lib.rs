//! What tests, benchmarks and the lab share. No product code depends on this crate.
//!
//! * [`programs`]: only what `scripts/programs` lists is started, so that a program that `scripts/setup` does not install
//!   is missed on every machine and not only on a fresh one. [`command()`] and [`Command`] look there.
//! * [`Namespace`], [`isolated`]: network namespaces that end with the test, however it ends. They need root.
//! * [`World::two_locations`]: nodes and pods behind two LANs and a router, as flannel leaves them.
//! * [`services`]: servers everywhere in that world, and kube-proxy's ways to them.
//! * [`chart::capabilities`]: what the containers of the chart may do.
//! * [`wait_until`], [`Ping`]: what happens while a test waits.

pub mod chart;
mod command;
mod namespace;
mod ping;
pub mod programs;
pub mod services;
mod wait;
mod world;

pub use self::{
    command::Command,
    namespace::{Namespace, isolated},
    ping::Ping,
    wait::wait_until,
    world::{FAMILIES, Family, NODES, Node, World, bridge, hop, lan, pod, pods},
};

/// Makes a command of a listed program, or of one that was built and is named by its path; for tests, which fail with
/// what to do when it is refused.
///
/// # Panics
/// The program is not on the list.
#[must_use]
#[track_caller]
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> std::process::Command {
    programs::command(program).unwrap_or_else(|refused| panic!("{refused}"))
}

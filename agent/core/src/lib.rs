//! What a node should do and report, decided from what its agent observes.
//!
//! The agent's logic without its I/O: [`NodeState`] takes observations (`handle_*`) and answers what is to be done
//! (`poll_*`). It never asks for the time, reads nothing and sends nothing; whatever happens on the machine is done by the
//! agent and its reconciler. Decisions about the mesh are not made here either: those are published.
//!
//! ```text
//! snapshot of the mesh ─┐                                     ┌─▶ Target for the reconciler
//! survey of the machine ┤                                     ├─▶ names to resolve
//! outcome, device ──────┼─▶ NodeState { plan, facts, peers } ─┼─▶ stimuli to send
//! addresses of names ───┤                                     ├─▶ status of the MeshNode
//! time ─────────────────┘                                     └─▶ when to be called again
//! ```

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "an Instant can be had from the clock alone, and tests need one to count from"
    )
)]

pub mod advice;
mod allowance;
pub mod api_server;
pub mod encryption;
pub mod endpoints;
pub mod enforcement;
pub mod fights;
pub mod following;
pub mod liveness;
pub mod preshared;
pub mod snapshot;
pub mod state;
pub mod target;
pub mod trouble;

pub use api_server::ApiServer;
pub use following::Following;
pub use snapshot::Snapshot;
pub use state::NodeState;
pub use target::{DeviceReading, Outcome, PeerUpdates, Survey, Target};
pub use trouble::Trouble;

//! The Spanwire operator: decides the mesh and publishes it.
//!
//! | part | what it does |
//! |---|---|
//! | [`watch`] | watches Nodes, MeshNodes, Locations, Peers, LocationSlices and Leases |
//! | [`state`] | holds what was observed, and decides what is to be written; sans I/O |
//! | [`batch`] | the writes, as data |
//! | [`writer`] | carries them out, upon the versions that were decided on |
//! | [`elector`] | elects the replica that leads; the others stay warm |
//! | [`runtime`] | puts these together |

#![forbid(unsafe_code)]

pub mod api;
pub mod args;
pub mod batch;
pub mod elector;
pub mod metrics;
pub mod retire;
pub mod runtime;
pub mod serve;
pub mod state;
pub mod watch;
pub mod writer;

//! The Spanwire operator: decides the mesh and publishes it.
//!
//! | part | what it does |
//! |---|---|
//! | [`watch`] | tells of Nodes, MeshNodes, Locations, Peers, LocationSlices and Leases |
//! | [`index`] | knows all that, and decides what is to be written; sans I/O |
//! | [`publish`] | writes it, upon the versions that were decided on |
//! | [`lease`] | one of the replicas leads; the others stay warm |
//! | [`runtime`] | puts these together |

#![forbid(unsafe_code)]

pub mod api;
pub mod args;
pub mod index;
pub mod lease;
pub mod metrics;
pub mod publish;
pub mod retire;
pub mod runtime;
pub mod serve;
pub mod watch;
pub mod write;

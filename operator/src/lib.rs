//! The Spanwire operator: decides the mesh and publishes it.
//!
//! | part | what it does |
//! |---|---|
//! | [`state`] | holds what was observed, and decides what is to be written; sans I/O |
//! | [`batch`] | the writes, as data |
//! | [`pace`] | when the next decision is made; sans I/O |
//! | [`queue`] | in which order writes are done, and what becomes of those that fail; sans I/O |
//! | [`writer`] | carries them out, upon the versions that were decided on |
//! | [`services`] | follows the networks of services |
//! | [`cluster_info`] | follows where machines that join find the API server |
//! | [`elector`] | elects the replica that leads; the others stay warm |
//! | [`eventloop`] | drives the state |
//! | [`runtime`] | puts these together |

#![forbid(unsafe_code)]

pub mod api;
pub mod args;
pub mod batch;
pub mod cluster_info;
pub mod definitions;
pub mod elector;
pub mod eventloop;
pub mod installation;
pub mod metrics;
pub mod notifier;
pub mod pace;
pub mod queue;
pub mod retire;
pub mod rival;
pub mod runtime;
pub mod serve;
pub mod services;
pub mod state;
pub mod writer;

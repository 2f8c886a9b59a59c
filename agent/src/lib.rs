//! The Spanwire node agent: makes a node do what the mesh asks of it.

#![forbid(unsafe_code)]

pub mod api;
pub mod args;
pub mod chance;
pub mod cleanup;
pub mod contact;
pub mod disk;
pub mod endpoints;
pub mod identity;
pub mod lease;
pub mod links;
pub mod machine;
pub mod metrics;
pub mod reconcile;
pub mod report;
pub mod resolve;
pub mod runtime;
pub mod serve;
pub mod settled;
pub mod snapshot;
pub mod source;
pub mod touch;
pub mod worker;

//! The Spanwire node agent: makes a node do what the mesh asks of it.
//!
//! What is to be done and reported is decided by [`spanwire_core`]; here is the I/O around it.

#![forbid(unsafe_code)]

pub mod admin;
pub mod answered;
pub mod api_server;
pub mod args;
pub mod atomic_file;
pub mod bench;
pub mod causes;
pub mod checkpoint;
pub mod cleanup;
pub mod clock;
pub mod draining;
pub mod encryption;
pub mod eventloop;
pub mod guard;
pub mod identity;
pub mod kubelet;
pub mod lease;
pub mod metrics;
pub mod ping;
pub mod preshared;
pub mod prober;
pub mod processors;
pub mod reconciler;
pub mod resolve;
pub mod runtime;
pub mod source;
pub mod status_writer;
pub mod stimulus;

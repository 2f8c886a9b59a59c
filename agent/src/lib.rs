//! The Spanwire node agent: makes a node do what the mesh asks of it.

#![forbid(unsafe_code)]

pub mod args;
pub mod contact;
pub mod disk;
pub mod endpoints;
pub mod identity;
pub mod links;
pub mod settled;
pub mod snapshot;
pub mod source;

//! `kubectl spanwire`: shows, explains and checks a mesh.
//!
//! | part | what it does |
//! |---|---|
//! | [`args`] | the command line |
//! | [`files`], [`objects`] | objects from files and from the API server, and the facts that they are |
//! | [`cluster`], [`settings`] | what is read from the API server; the settings of the operator |
//! | [`plan`], [`changes`] | what would be decided, and what differs from now |
//! | [`answer`], [`table`] | what is written, and how a command ends |
//!
//! What a command says is made by pure functions of what was read, so that it is tested without a cluster.

#![forbid(unsafe_code)]

pub mod answer;
pub mod args;
pub mod changes;
pub mod cluster;
pub mod files;
pub mod objects;
pub mod plan;
pub mod settings;
pub mod table;

mod commands;

pub use commands::run;

//! `kubectl spanwire`: shows, explains and checks a mesh.
//!
//! | part | what it does |
//! |---|---|
//! | [`args`] | the command line |
//! | [`files`], [`objects`] | objects from files and from the API server, and the facts that they are |
//! | [`cluster`], [`settings`] | what is read from the API server; the settings of the operator |
//! | [`plan`], [`changes`] | what would be decided, and what differs from now |
//! | [`status`], [`findings`], [`figures`] | the mesh on one screen; what is wrong; what agents answer |
//! | [`target`], [`services`] | what is named on the command line, and its addresses; the endpoints and ports of a service |
//! | [`explain`], [`ways`] | the way of a packet, as planned and as kernels route it |
//! | [`ping`] | how long a way is, as agents measure it |
//! | [`mod@bench`] | how much goes over it, and what that costs the nodes |
//! | [`encryption`] | whether what goes between locations is encrypted, by the packets that agents count |
//! | [`graph`], [`showconf`] | the published mesh as a picture; the configuration of a device |
//! | [`map`] | what the live page shows of the mesh, and its log |
//! | [`peer`], [`keypair`], [`qr`] | Peers, the key pair of a new one, and its configuration for a phone |
//! | [`connect`], [`machine`] | what this machine has as a Peer, and that it has it |
//! | [`migrate`] | what is Kilo's as Spanwire's |
//! | [`bundle`] | what was read, without keys |
//! | [`answer`], [`table`], [`colour`] | what is written, and how a command ends |
//!
//! What a command says is made by pure functions of what was read, so that it is tested without a cluster.

#![forbid(unsafe_code)]

pub mod answer;
pub mod args;
pub mod bench;
pub mod bundle;
pub mod changes;
pub mod cluster;
pub mod colour;
pub mod connect;
pub mod encryption;
pub mod explain;
pub mod figures;
pub mod files;
pub mod findings;
pub mod firewall;
pub mod graph;
pub mod keypair;
pub mod machine;
pub mod map;
pub mod migrate;
pub mod objects;
pub mod peer;
pub mod ping;
pub mod plan;
pub mod qr;
pub mod services;
pub mod settings;
pub mod showconf;
pub mod status;
pub mod table;
pub mod target;
pub mod ways;

mod commands;

pub use commands::{run, show};

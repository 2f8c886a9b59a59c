//! What Spanwire's programs share in talking to the API server: reading it. Writes are each program's own.
//!
//! | part | what it does |
//! |---|---|
//! | [`connect`] | finds the API server and makes a client |
//! | [`client`] | the HTTP client, which notices when a connection is dead |
//! | [`endpoints`] | watches where the API server really runs |
//! | [`kubeconfig`] | which API servers a kubeconfig names, and where they are |
//! | [`model`] | the kinds that are watched; each is registered there and nowhere else |
//! | [`observed`] | decodes objects one by one, so that one that cannot be read harms no other |
//! | [`complaints`] | what is logged of those; sans I/O |
//! | [`watch`] | watches kinds, and re-establishes the watches |
//! | [`optional`] | watches kinds of other projects, which may not exist; each is registered there |
//! | [`refusals`] | when to believe that the API server does not have one; sans I/O |
//! | [`store`] | holds the objects of one kind, as the events of a watch put them together; sans I/O |
//! | [`backoff`] | waits between attempts |

#![forbid(unsafe_code)]

pub mod backoff;
pub mod client;
pub mod complaints;
pub mod connect;
pub mod endpoints;
pub mod kubeconfig;
pub mod model;
pub mod observed;
pub mod optional;
pub mod refusals;
pub mod store;
pub mod watch;

/// What programs log where `RUST_LOG` does not say it. kube's own modules log at WARN and ERROR each attempt that fails while
/// the API server is away; the programs log that once themselves, where they know what it means.
pub const LOG_FILTER: &str = "info,kube_client=off,kube_runtime=off";

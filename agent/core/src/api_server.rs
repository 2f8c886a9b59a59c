//! Where the API server is.

use std::{collections::BTreeSet, net::SocketAddr};

/// Where the API server is, as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiServer {
    /// Where the node reaches it without the mesh; the mesh is not used for these.
    pub exempt: BTreeSet<SocketAddr>,
    /// Where it really runs, as far as that is known.
    pub endpoints: BTreeSet<SocketAddr>,
}

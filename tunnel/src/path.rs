//! The two ends of a datagram's way through the network.

use std::net::{IpAddr, SocketAddr};

use crate::id::PeerId;

/// Where a datagram comes from or goes to, and which of this machine's addresses it is written to or from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path {
    /// The other side.
    pub remote: SocketAddr,
    /// This side; `None` lets the kernel choose.
    pub local: Option<IpAddr>,
    /// The interface that it came in by; zero when that is not known, and for what is sent.
    pub interface: u32,
    /// How many routers may pass what is sent on; zero leaves it to the kernel, and stands for what came.
    pub hops: u8,
    /// Which peer's it is, of what is sent; none for what came.
    pub peer: Option<PeerId>,
}

impl Path {
    /// Returns the way back of what came this way.
    pub fn reversed(self) -> Self {
        Self { interface: 0, ..self }
    }
}

impl From<SocketAddr> for Path {
    fn from(remote: SocketAddr) -> Self {
        Self {
            remote,
            local: None,
            interface: 0,
            hops: 0,
            peer: None,
        }
    }
}

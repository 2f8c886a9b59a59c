//! What a peer is called inside a device, and what tells whom a datagram is for.

/// A peer's number in its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

/// Whom an admitted datagram is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressee {
    /// The peer that it claims to be from.
    Peer(PeerId),
    /// Who has this receiver index.
    Index(u32),
}

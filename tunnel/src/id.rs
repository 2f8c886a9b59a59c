//! What a peer is called inside a device, and in the messages for it.

/// A peer's number in its device, and the upper 24 bits of the indices in its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

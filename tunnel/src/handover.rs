//! Another process takes over running devices: an upgrade that loses no interface, port, address, route or setting.
//!
//! What cannot move are the sessions: boringtun exports no keys. The new process starts a handshake with every peer at
//! once, and until the answer packets wait, or are lost and retransmitted by their senders.
//!
//! The new process asks on the socket of the old one, `hand-over=1` for the device of a UAPI socket, `hand-over 1` for all
//! devices of a control socket. The number is the version of this:
//!
//! ```text
//! old: reads no packet any more, and sends     hand-over=1, descriptors, configuration ([`format`])
//! new: has understood everything               taken
//! old: has no way back any more                yours
//! new: goes on
//! ```
//!
//! At every moment exactly one of the two carries packets, or none for a moment, and they wait in the kernel. Until `yours`
//! is sent, anything but the right answer in time makes the old process go on, and makes the new one end: the devices are
//! never with both, and with neither only if the new process dies after it has taken them. A process that asks in the
//! middle waits in the socket, or its connection is closed and it asks again, and the new process answers it.
//!
//! A process that cannot hand over says `error REASON`, as the control socket always does.
//!
//! Nothing here knows a device: the old process gives what [`mod@format`] describes ([`protocol::Request`]), the new one
//! gets it ([`receiver::Offer`]). What is made of it is in [`crate::runtime::adopt`].

pub mod format;
pub mod protocol;
pub mod receiver;

/// What became of the devices of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// They have ended.
    Ended,
    /// Another process has them.
    HandedOver,
}

//! A cipher that hides nothing, to measure what everything but the cipher costs.
//!
//! Only in builds with `RUSTFLAGS="--cfg spanwire_null_cipher"`, which the benchmark makes for itself: no feature of this
//! crate and no build of the product can switch it on. It carries packets between two such builds, each with one peer,
//! once a real handshake gave them a session.

use std::net::IpAddr;

/// Of a data message: type, receiver, counter.
const HEADER: usize = 16;
const TAG: usize = 16;

/// Writes a message of the right length. Its receiver is the first peer, in a session that a real one never has at first.
pub(super) fn seal(packet: &[u8], room: &mut [u8]) -> usize {
    let length = HEADER + packet.len() + TAG;
    room[..HEADER].fill(0);
    room[0] = super::DATA;
    room[HEADER..HEADER + packet.len()].copy_from_slice(packet);
    room[HEADER + packet.len()..length].fill(0);
    length
}

/// Returns whether a datagram is such a message.
pub(super) fn is_one(datagram: &[u8]) -> bool {
    super::index(datagram) == Some(0) && datagram.first() == Some(&super::DATA)
}

/// Returns the packet in such a message, and its source.
pub(super) fn open<'a>(datagram: &[u8], scratch: &'a mut [u8]) -> Option<(&'a mut [u8], IpAddr)> {
    let packet = datagram.get(HEADER..datagram.len().checked_sub(TAG)?)?;
    let (length, source): (usize, IpAddr) = match packet.first()? >> 4 {
        4 => {
            let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
            (crate::offload::headers::word(packet, 2), source.into())
        }
        6 => {
            let source: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
            (crate::offload::headers::word(packet, 4) + 40, source.into())
        }
        _ => return None,
    };
    let room = scratch.get_mut(..length)?;
    room.copy_from_slice(packet.get(..length)?);
    Some((room, source))
}

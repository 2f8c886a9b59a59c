//! How what peers are sent comes to the network, and is counted.

use std::{net::SocketAddr, time::Instant};

use crate::{device::Wire, path::Path, peer::Local};

/// Sends to one peer from the address that it last wrote to, unless it does not answer, and counts the bytes. An initiation that
/// is repeated goes to two endpoints perhaps.
pub(super) fn sticking<'a>(
    now: Instant,
    wire: &'a mut impl Wire,
    remote: SocketAddr,
    configured: Option<SocketAddr>,
    local: &'a mut Local,
    tx_bytes: &'a mut u64,
) -> impl FnMut(&[u8]) + 'a {
    move |datagram| {
        let (path, other) = local.choose(now, remote, configured, datagram);
        for path in [Some(path), other].into_iter().flatten() {
            counted(wire, path, tx_bytes)(datagram);
        }
    }
}

/// Sends this way and counts the bytes.
pub(super) fn counted<'a>(
    wire: &'a mut impl Wire,
    to: Path,
    tx_bytes: &'a mut u64,
) -> impl FnMut(&[u8]) + 'a {
    move |datagram| {
        *tx_bytes += datagram.len() as u64;
        wire.send(to, datagram);
    }
}

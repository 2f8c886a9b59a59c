//! Sends a datagram into the tunnel, so that WireGuard has a reason to shake hands and the other side one to answer.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

/// The discard service (RFC 863); the other kernel throws the datagram away, or answers 'port unreachable'.
const DISCARD: u16 = 9;

/// Sends the datagram, from the node's own overlay address: it is the one that every leader accepts, of standby leaders
/// too. Whether it arrives is seen by what the WireGuard device counts.
///
/// # Errors
/// When there is no such address or no route, that is: no device yet.
pub fn touch(own: &BTreeSet<IpAddr>, overlay: IpAddr) -> io::Result<()> {
    let any = match overlay {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let from = own.iter().copied().find(|own| own.is_ipv4() == overlay.is_ipv4());
    let socket = UdpSocket::bind(SocketAddr::new(from.unwrap_or(any), 0))?;
    socket.set_nonblocking(true)?;
    socket.send_to(&[], SocketAddr::new(overlay, DISCARD)).map(|_| ())
}

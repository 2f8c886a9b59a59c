//! Sends stimuli.

use std::{io, net::UdpSocket};

use spanwire_core::liveness::Stimulus;

/// Sends the datagram. Whether it arrives is seen by the counters of the WireGuard device.
///
/// # Errors
/// When there is no such address or no route, that is: no device yet.
pub fn send(stimulus: &Stimulus) -> io::Result<()> {
    let socket = UdpSocket::bind(stimulus.source)?;
    socket.set_nonblocking(true)?;
    socket.send_to(&[], stimulus.destination).map(|_| ())
}

//! The two UDP sockets of a device, one per family, on one port.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::sys;

/// Room for bursts while the loop is at something else.
const BUFFER: usize = 8 << 20;
/// How often another port is tried when the one picked for IPv4 is taken for IPv6.
const ATTEMPTS: usize = 100;

/// Sockets bound to one port. A family that the machine does not have is left out.
#[derive(Debug)]
pub struct Sockets {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
    port: u16,
}

impl Sockets {
    /// Binds to `port`, or for zero to any that is free in both families.
    pub fn bind(port: u16, mark: u32) -> io::Result<Self> {
        let mut attempts = if port == 0 { ATTEMPTS } else { 1 };
        loop {
            attempts -= 1;
            match Self::try_bind(port, mark) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempts > 0 => {}
                bound => return bound,
            }
        }
    }

    fn try_bind(port: u16, mark: u32) -> io::Result<Self> {
        let v4 = present(open((Ipv4Addr::UNSPECIFIED, port).into(), mark))?;
        let port = v4
            .as_ref()
            .map_or(Ok(port), |socket| socket.local_addr().map(|addr| addr.port()))?;
        let v6 = present(open((Ipv6Addr::UNSPECIFIED, port).into(), mark))?;
        let port = v6
            .as_ref()
            .map_or(Ok(port), |socket| socket.local_addr().map(|addr| addr.port()))?;
        if v4.is_none() && v6.is_none() {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        Ok(Self { v4, v6, port })
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Those that exist.
    pub fn sockets(&self) -> impl Iterator<Item = &UdpSocket> {
        self.v4.iter().chain(&self.v6)
    }

    /// Puts another mark on what is sent.
    pub fn set_mark(&self, mark: u32) -> io::Result<()> {
        self.sockets()
            .try_for_each(|socket| Ok(setsockopt(socket, sockopt::Mark, &mark)?))
    }

    /// Sends a datagram.
    pub fn send(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        let socket = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        let socket = socket.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        socket.send_to(datagram, to).map(drop)
    }
}

fn open(addr: SocketAddr, mark: u32) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if mark != 0 {
        socket.set_mark(mark)?;
    }
    // Larger than the system's limit where the process may; what it gets otherwise is enough to work.
    if setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).is_err() {
        let _ = socket.set_recv_buffer_size(BUFFER);
    }
    if setsockopt(&socket, sockopt::SndBufForce, &BUFFER).is_err() {
        let _ = socket.set_send_buffer_size(BUFFER);
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    let socket = UdpSocket::from(socket);
    sys::allow_fragments(&socket, addr.is_ipv6())?;
    Ok(socket)
}

/// A machine without IPv6 (or IPv4) is no error.
fn present(opened: io::Result<UdpSocket>) -> io::Result<Option<UdpSocket>> {
    match opened {
        Ok(socket) => Ok(Some(socket)),
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

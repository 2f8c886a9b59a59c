//! The two UDP sockets of a device, one per family, on one port.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    net::if_::if_nametoindex,
    sys::socket::{getsockopt, setsockopt, sockopt},
};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use crate::{
    gso_queue::Batch,
    path::Path,
    sys::{self, OuterHeader},
};

pub(crate) use crate::sys::{Arrival, receive};

/// Room for bursts while the loop is at something else.
const BUFFER: usize = 8 << 20;
/// One for each family.
pub(crate) const MAX_SOCKETS: usize = 2;
/// How often another port is tried when the one picked for IPv4 is taken for IPv6.
const ATTEMPTS: usize = 100;

/// How long a receiver that cannot be sent batches is spared them. Its route may change meanwhile.
const REFUSED_FOR: Duration = Duration::from_secs(60);
/// So many such receivers are remembered; what is forgotten is found out again at the cost of a call.
const MAX_REFUSED: usize = 64;

/// What a socket and its user save each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpOffloads {
    /// One call sends many datagrams (`UDP_SEGMENT`, Linux 4.18).
    pub gso: bool,
    /// One call receives many datagrams (`UDP_GRO`, Linux 5.0).
    pub gro: bool,
}

/// Addresses of this machine that could not be sent from: to one receiver, or, for they are no addresses of this machine any
/// more, to all.
#[derive(Debug, Default)]
pub struct Gone(BTreeSet<(IpAddr, Option<SocketAddr>)>);

impl Gone {
    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether what goes this way could not be sent.
    pub fn has(&self, path: Path) -> bool {
        let has = |local| self.0.contains(&(local, None)) || self.0.contains(&(local, Some(path.remote)));
        !self.is_empty() && path.local.is_some_and(has)
    }
}

/// What of a batch could not be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unsent {
    /// How many datagrams.
    pub datagrams: usize,
    /// How long they are together.
    pub bytes: usize,
}

impl Unsent {
    /// All of it.
    pub fn all(batch: &Batch<'_>) -> Self {
        Self {
            datagrams: batch.each().len(),
            bytes: batch.datagrams.len(),
        }
    }
}

/// Sockets bound to one port. A family that the machine does not have is left out.
#[derive(Debug)]
pub struct UdpSockets {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
    port: u16,
    offloads: UdpOffloads,
    /// Receivers that batches cannot be sent to, and until when not to try.
    refused: Vec<(SocketAddr, Instant)>,
    /// Addresses of this machine that could not be sent from; who is written to from them has not been changed yet.
    gone: Gone,
}

impl UdpSockets {
    /// Binds to `port`, or for zero to any that is free in both families; with offloads as far as the kernel has them and
    /// `offload` allows.
    pub fn bind(port: u16, mark: u32, offload: bool) -> io::Result<Self> {
        let mut attempts = if port == 0 { ATTEMPTS } else { 1 };
        loop {
            attempts -= 1;
            match Self::try_bind(port, mark, offload) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempts > 0 => {}
                bound => return bound,
            }
        }
    }

    fn try_bind(port: u16, mark: u32, offload: bool) -> io::Result<Self> {
        let v4 = present(open((Ipv4Addr::UNSPECIFIED, port).into(), mark, false))?;
        let port = v4
            .as_ref()
            .map_or(Ok(port), |socket| socket.local_addr().map(|addr| addr.port()))?;
        let v6 = present(open((Ipv6Addr::UNSPECIFIED, port).into(), mark, false))?;
        let port = v6
            .as_ref()
            .map_or(Ok(port), |socket| socket.local_addr().map(|addr| addr.port()))?;
        if v4.is_none() && v6.is_none() {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        Ok(Self::with(v4, v6, port, offload))
    }

    /// Sockets on the same port for all shards but the first, whose these are. From now on the kernel gives a datagram to
    /// the shard of its peer. An error when the kernel cannot do that: then all come to these.
    ///
    /// No other process can bind the port: the first socket was bound without the flag to share it (`SO_REUSEPORT`).
    pub fn split(&self, shards: usize, mark: u32) -> io::Result<Vec<Self>> {
        let others: Vec<Self> = (1..shards)
            .map(|_| {
                let one = |socket: Option<&UdpSocket>| {
                    let Some(socket) = socket else { return Ok(None) };
                    SockRef::from(socket).set_reuse_port(true)?;
                    open(socket.local_addr()?, mark, true).map(Some)
                };
                let [v4, v6] = self.by_family().map(one);
                Ok(Self::with(
                    v4?,
                    v6?,
                    self.port,
                    self.offloads.gro || self.offloads.gso,
                ))
            })
            .collect::<io::Result<_>>()?;
        for socket in self.sockets() {
            sys::steer(socket, shards)?;
        }
        Ok(others)
    }

    /// Duplicates the sockets, to send.
    pub fn try_clone(&self) -> io::Result<Self> {
        let one = |socket: &Option<UdpSocket>| socket.as_ref().map(UdpSocket::try_clone).transpose();
        Ok(Self {
            v4: one(&self.v4)?,
            v6: one(&self.v6)?,
            port: self.port,
            offloads: self.offloads,
            refused: Vec::new(),
            gone: Gone::default(),
        })
    }

    /// Goes on with what another process bound ([`port_of`]); a family that it did not have is still left out.
    pub fn adopt(v4: Option<OwnedFd>, v6: Option<OwnedFd>, port: u16, offload: bool) -> io::Result<Self> {
        let adopt = |socket: OwnedFd, v6| {
            let socket = Socket::from(socket);
            prepare(&socket, v6)?;
            Ok::<_, io::Error>(UdpSocket::from(socket))
        };
        let v4 = v4.map(|socket| adopt(socket, false)).transpose()?;
        let v6 = v6.map(|socket| adopt(socket, true)).transpose()?;
        Ok(Self::with(v4, v6, port, offload))
    }

    fn with(v4: Option<UdpSocket>, v6: Option<UdpSocket>, port: u16, offload: bool) -> Self {
        let every = |works: &dyn Fn(&UdpSocket) -> bool| v4.iter().chain(&v6).all(works);
        let gro = every(&|socket| setsockopt(socket, sockopt::UdpGroSegment, &offload).is_ok());
        let offloads = UdpOffloads {
            gso: offload && every(&|socket| getsockopt(socket, sockopt::UdpGsoSegment).is_ok()),
            gro: offload && gro,
        };
        Self {
            v4,
            v6,
            port,
            offloads,
            refused: Vec::new(),
            gone: Gone::default(),
        }
    }

    /// Returns what they and their kernel agreed on.
    pub fn offloads(&self) -> UdpOffloads {
        self.offloads
    }

    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the interface to which they are bound; zero when they are not. `ip vrf exec` binds the sockets of a process to a
    /// VRF.
    pub fn device(&self) -> u32 {
        let name = |socket| SockRef::from(socket).device().ok().flatten();
        let name = self.sockets().find_map(name);
        name.and_then(|name| if_nametoindex(&name[..]).ok())
            .unwrap_or_default()
    }

    /// Returns the sockets for IPv4 and for IPv6.
    pub fn by_family(&self) -> [Option<&UdpSocket>; 2] {
        [self.v4.as_ref(), self.v6.as_ref()]
    }

    /// Returns the sockets that exist.
    pub fn sockets(&self) -> impl Iterator<Item = &UdpSocket> {
        self.v4.iter().chain(&self.v6)
    }

    /// Puts another mark on what is sent.
    pub fn set_mark(&self, mark: u32) -> io::Result<()> {
        self.sockets()
            .try_for_each(|socket| Ok(setsockopt(socket, sockopt::Mark, &mark)?))
    }

    /// Sends datagrams, in one call if kernel, device and path allow; returns what could not be sent.
    pub fn send(&mut self, batch: Batch<'_>) -> Unsent {
        let remote = batch.to.remote;
        if batch.datagrams.len() > batch.size && self.offloads.gso && !is_refused(&mut self.refused, remote) {
            let segment = u16::try_from(batch.size).ok();
            match self.send_from(&batch, batch.datagrams, segment) {
                Ok(()) => return Unsent::default(),
                // EIO: the device cannot compute checksums. The others: a datagram does not fit the path's MTU (the last
                // since Linux 6.13); alone, it is sent in fragments.
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE)
                    ) =>
                {
                    tracing::info!(%error, size = batch.size, "a receiver cannot be sent batches for a minute");
                    refuse(&mut self.refused, remote);
                }
                Err(error) => {
                    tracing::trace!(to = %remote, %error, "cannot send");
                    return Unsent::all(&batch);
                }
            }
        }
        let mut unsent = Unsent::default();
        for datagram in batch.each() {
            if let Err(error) = self.send_from(&batch, datagram, None) {
                tracing::trace!(to = %remote, %error, "cannot send");
                unsent.datagrams += 1;
                unsent.bytes += datagram.len();
            }
        }
        unsent
    }

    /// Sends from the batch's own address, or, when that is not possible any more, from the one that the kernel chooses.
    fn send_from(&mut self, batch: &Batch<'_>, datagrams: &[u8], segment: Option<u16>) -> io::Result<()> {
        let Path {
            remote, local, hops, ..
        } = batch.to;
        let socket = if remote.is_ipv4() { &self.v4 } else { &self.v6 };
        let socket = socket.as_ref().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let to = SockAddr::from(remote);
        let from = local.filter(|_| !self.gone.has(batch.to));
        let header = OuterHeader { tos: batch.tos, hops };
        let sent = sys::send(socket, &to, from, datagrams, segment, header);
        let Some(from) = from else { return sent };
        let whom = match sent.as_ref().map_err(io::Error::raw_os_error) {
            // Another interface may have the same link-local one.
            Err(Some(libc::EINVAL | libc::EADDRNOTAVAIL)) => {
                Some(remote).filter(|_| sys::is_link_local(from))
            }
            Err(Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => Some(remote),
            _ => return sent,
        };
        let sent = sys::send(socket, &to, None, datagrams, segment, header);
        if sent.is_ok() {
            tracing::info!(%from, to = ?whom, "an address cannot be sent from");
            self.gone.0.insert((from, whom));
        }
        sent
    }

    /// Returns the addresses of this machine that could not be sent from since the last call.
    pub fn take_gone(&mut self) -> Gone {
        std::mem::take(&mut self.gone)
    }
}

fn refuse(refused: &mut Vec<(SocketAddr, Instant)>, what: SocketAddr) {
    if refused.len() == MAX_REFUSED {
        refused.remove(0);
    }
    refused.push((what, Instant::now() + REFUSED_FOR));
}

fn is_refused(refused: &mut Vec<(SocketAddr, Instant)>, to: SocketAddr) -> bool {
    let Some(place) = refused.iter().position(|(receiver, _)| *receiver == to) else {
        return false;
    };
    let still = refused[place].1 > Instant::now();
    if !still {
        refused.remove(place);
    }
    still
}

fn open(addr: SocketAddr, mark: u32, shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(shared)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if mark != 0 {
        socket.set_mark(mark)?;
    }
    prepare(&socket, addr.is_ipv6())?;
    socket.bind(&addr.into())?;
    Ok(UdpSocket::from(socket))
}

/// Returns the port that a UDP socket of this family is bound to; `None` for any other descriptor.
pub fn port_of(socket: &impl AsFd, v6: bool) -> Option<u16> {
    let socket = SockRef::from(socket);
    let is_udp = socket.protocol().ok().flatten() == Some(Protocol::UDP);
    let addr = socket.local_addr().ok()?.as_socket()?;
    (is_udp && addr.is_ipv6() == v6 && addr.port() != 0).then_some(addr.port())
}

/// Sets what this version wants of a socket, which another process may have made.
fn prepare(socket: &Socket, v6: bool) -> io::Result<()> {
    // Larger than the system's limit where the process may; what it gets otherwise is enough to work.
    if setsockopt(socket, sockopt::RcvBufForce, &BUFFER).is_err() {
        let _ = socket.set_recv_buffer_size(BUFFER);
    }
    if setsockopt(socket, sockopt::SndBufForce, &BUFFER).is_err() {
        let _ = socket.set_send_buffer_size(BUFFER);
    }
    // Without the outer header's ECN bits (RFC 6040) and destination packets flow all the same.
    let _ = if v6 {
        setsockopt(socket, sockopt::Ipv6RecvTClass, &true).and(setsockopt(
            socket,
            sockopt::Ipv6RecvPacketInfo,
            &true,
        ))
    } else {
        setsockopt(socket, sockopt::IpRecvTos, &true).and(setsockopt(socket, sockopt::Ipv4PacketInfo, &true))
    };
    socket.set_nonblocking(true)?;
    sys::allow_fragments(socket, v6)
}

/// Returns no socket, and no error, on a machine without IPv6 (or IPv4).
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SHARDS: usize = 3;

    fn all() -> Vec<UdpSockets> {
        let first = UdpSockets::bind(0, 0, true).unwrap();
        let others = first.split(SHARDS, 0).unwrap();
        [first].into_iter().chain(others).collect()
    }

    /// Returns which of the sockets a datagram comes to.
    fn receiver(shards: &[UdpSockets], from: &UdpSocket, datagram: &[u8]) -> Vec<usize> {
        from.send_to(datagram, (from.local_addr().unwrap().ip(), shards[0].port()))
            .unwrap();
        let arrives = |shard: &UdpSockets| {
            let mut sockets = shard.sockets();
            sockets.any(|socket| receive(socket, &mut [0; 2048]).is_ok())
        };
        (0..shards.len())
            .filter(|shard| arrives(&shards[*shard]))
            .collect()
    }

    #[test]
    fn the_kernel_gives_every_message_to_the_shard_of_its_peer() {
        let shards = all();
        for ip in ["127.0.0.1", "::1"] {
            let from = UdpSocket::bind((ip, 0)).unwrap();
            for upper in [0_u32, 1, 2, 3, 4, 5, 255, 256, 257, 1000, 0xff_ffff] {
                let index = upper << 8 | 0xa5;
                let want = [crate::index::shard(index, SHARDS)];
                let index = index.to_le_bytes();
                let data = [&[4, 0, 0, 0], &index[..], &[7; 24]].concat();
                assert_eq!(receiver(&shards, &from, &data), want, "data for {upper}");
                let cookie = [&[3, 0, 0, 0], &index[..], &[7; 56]].concat();
                assert_eq!(receiver(&shards, &from, &cookie), want, "cookie for {upper}");
                let response = [&[2, 0, 0, 0, 9, 9, 9, 9], &index[..], &[7; 80]].concat();
                assert_eq!(receiver(&shards, &from, &response), want, "response for {upper}");
            }
            for datagram in [&[1; 148][..], &[0; 60], &[9; 3], &[4, 0, 0, 0], b""] {
                assert_eq!(receiver(&shards, &from, datagram), [0], "{datagram:?}");
            }
        }
    }

    #[test]
    fn a_port_with_several_sockets_is_refused_to_others() {
        let shards = all();
        let port = shards[0].port();
        assert!(UdpSockets::bind(port, 0, true).is_err());
        drop(shards);
        UdpSockets::bind(port, 0, true).unwrap();
    }

    #[test]
    fn what_the_others_had_comes_to_the_first_when_they_are_gone() {
        let mut shards = all();
        shards.truncate(1);
        let from = UdpSocket::bind("127.0.0.1:0").unwrap();
        let data = [&[4, 0, 0, 0, 0xa5, 1, 0, 0][..], &[7; 24]].concat();
        assert_eq!(receiver(&shards, &from, &data), [0]);
        // And they come again in their order.
        shards.extend(shards[0].split(SHARDS, 0).unwrap());
        assert_eq!(receiver(&shards, &from, &data), [1]);
    }

    #[test]
    fn sockets_say_to_which_interface_they_are_bound() {
        let sockets = UdpSockets::bind(0, 0, true).unwrap();
        assert_eq!(sockets.device(), 0);
        for socket in sockets.sockets() {
            SockRef::from(socket).bind_device(Some(b"lo")).unwrap();
        }
        assert_eq!(sockets.device(), 1);
    }

    #[test]
    fn a_clone_sends_from_the_same_port() {
        let first = UdpSockets::bind(0, 0, true).unwrap();
        let mut clone = first.try_clone().unwrap();
        let to = UdpSocket::bind("127.0.0.1:0").unwrap();
        to.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let unsent = clone.send(Batch {
            to: to.local_addr().unwrap().into(),
            tos: 0,
            datagrams: b"hello",
            size: 5,
        });
        let (_, source) = to.recv_from(&mut [0; 9]).unwrap();
        assert_eq!((unsent, source.port()), (Unsent::default(), first.port()));
    }
}

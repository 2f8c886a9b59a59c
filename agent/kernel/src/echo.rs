//! Echo requests, and their answers.
//!
//! Raw sockets and not the 'ping' sockets of Linux: whether those may be opened is a setting of the host
//! (`net.ipv4.ping_group_range`), which allows no group where nothing changed it.
//!
//! A raw socket is given every ICMP message for this machine. A filter in the kernel lets through what answers this process, by
//! the identifier of its requests, so that neither the pings of others nor a flood of answers wake it.
//!
//! A request can also be sent to a neighbour whatever the routes are: as a packet socket's frame to the neighbour's link-layer
//! address. Such a packet passes no rules, routes, nft or conntrack of this machine; the neighbour forwards it like any.

mod neighbour;
mod packet;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsRawFd as _, RawFd},
    time::Duration,
};

use nix::{
    libc,
    net::if_::if_nametoindex,
    sys::{
        resource::{UsageWho, getrusage},
        socket::{ControlMessage, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, recvfrom, sendmsg},
        time::TimeValLike as _,
    },
};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use spanwire_host::LinkName;
use spanwire_topology::Family;
use thiserror::Error;
use tokio::io::unix::AsyncFd;

pub use neighbour::{Neighbour, Neighbours};

/// How many answers are taken before anything else is done again: what comes by is bounded by that, not by who sends it.
const BATCH: usize = 64;
/// An answer has 44 bytes at most, but for options, which no kernel sends here.
const LONGEST: usize = 128;

/// Why no echo requests can be sent.
#[derive(Debug, Error)]
#[error("cannot open a socket for echo requests; does this process have NET_RAW?")]
pub struct EchoError(#[source] io::Error);

/// Sends echo requests, and takes the answers.
#[derive(Debug)]
pub struct Echo {
    v4: AsyncFd<Socket>,
    /// A kernel may lack IPv6.
    v6: Option<AsyncFd<Socket>>,
    frames: Socket,
    identifier: u16,
    sequence: u16,
}

impl Echo {
    /// Opens the sockets. `identifier` tells this process's requests from those of others.
    ///
    /// # Errors
    /// When the kernel does not allow it.
    pub fn open(identifier: u16) -> Result<Self, EchoError> {
        let open = |domain, protocol, filter: &[SockFilter]| {
            let socket = Socket::new(domain, Type::RAW.nonblocking(), Some(protocol))?;
            socket.attach_filter(filter)?;
            registered(socket)
        };
        let v4 = open(Domain::IPV4, Protocol::ICMPV4, &packet::answers_v4(identifier)).map_err(EchoError)?;
        let v6 = match open(Domain::IPV6, Protocol::ICMPV6, &packet::answers_v6(identifier)) {
            Ok(socket) => Some(socket),
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            Err(error) => return Err(EchoError(error)),
        };
        // Of no protocol: it sends, and is given nothing.
        let frames = Socket::new(Domain::PACKET, Type::DGRAM.nonblocking(), None).map_err(EchoError)?;
        Ok(Self {
            v4,
            v6,
            frames,
            identifier,
            sequence: 0,
        })
    }

    /// Sends a request as the routes have it, with that source.
    ///
    /// # Errors
    /// When there is no route, no such source, or no room.
    pub fn send(&mut self, to: IpAddr, from: IpAddr, number: u64) -> io::Result<()> {
        self.send_with(to, Some(from), 0, number)
    }

    /// Sends a request by a device, as the routes by that device have it.
    ///
    /// # Errors
    /// When there is no such device, no route by it, or no room.
    pub fn send_by(&mut self, link: &LinkName, to: IpAddr, number: u64) -> io::Result<()> {
        let index = if_nametoindex(link.as_str())?;
        self.send_with(to, None, index, number)
    }

    fn send_with(&mut self, to: IpAddr, from: Option<IpAddr>, link: u32, number: u64) -> io::Result<()> {
        let message = packet::request(Family::of(to), self.identifier, self.next(), number);
        let parts = [io::IoSlice::new(&message)];
        match to {
            IpAddr::V4(to) => {
                let source = from.map(|from| match from {
                    IpAddr::V4(from) => Ok(from),
                    IpAddr::V6(_) => Err(io::ErrorKind::InvalidInput),
                });
                let how = packet_info_v4(source.transpose()?, link)?;
                let how = [ControlMessage::Ipv4PacketInfo(&how)];
                let to = SockaddrIn::from(SocketAddrV4::new(to, 0));
                sendmsg(self.v4.as_raw_fd(), &parts, &how, MsgFlags::empty(), Some(&to))?;
            }
            IpAddr::V6(to) => {
                let source = from.map(|from| match from {
                    IpAddr::V6(from) => Ok(from),
                    IpAddr::V4(_) => Err(io::ErrorKind::InvalidInput),
                });
                let how = packet_info_v6(source.transpose()?, link);
                let how = [ControlMessage::Ipv6PacketInfo(&how)];
                let to = SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, 0));
                let socket = self.v6.as_ref().ok_or(io::ErrorKind::Unsupported)?;
                sendmsg(socket.as_raw_fd(), &parts, &how, MsgFlags::empty(), Some(&to))?;
            }
        }
        Ok(())
    }

    /// Sends a request to a neighbour, which is to forward it.
    ///
    /// # Errors
    /// When the addresses are of different families, the device is gone or down, or there is no room.
    pub fn send_through(
        &mut self,
        neighbour: &Neighbour,
        to: IpAddr,
        from: IpAddr,
        number: u64,
    ) -> io::Result<()> {
        let message = packet::request(Family::of(to), self.identifier, self.next(), number);
        let packet = packet::whole(from, to, &message).ok_or(io::ErrorKind::InvalidInput)?;
        let protocol = match to {
            IpAddr::V4(_) => libc::ETH_P_IP,
            IpAddr::V6(_) => libc::ETH_P_IPV6,
        };
        send_frame(&self.frames, neighbour, protocol, &packet)
    }

    /// Waits for answers, and returns some: by whom, and the number that the request had.
    ///
    /// # Errors
    /// When a socket fails.
    pub async fn receive(&self) -> io::Result<Vec<(IpAddr, u64)>> {
        let v6 = async {
            match &self.v6 {
                Some(socket) => socket.readable().await,
                None => std::future::pending().await,
            }
        };
        let (family, mut ready) = tokio::select! {
            ready = self.v4.readable() => (Family::V4, ready?),
            ready = v6 => (Family::V6, ready?),
        };
        let mut answers = Vec::new();
        for _ in 0..BATCH {
            match ready.try_io(|socket| receive(socket.as_raw_fd(), family, self.identifier)) {
                Ok(answer) => answers.extend(answer?),
                // There are no more.
                Err(_) => break,
            }
        }
        Ok(answers)
    }

    fn next(&mut self) -> u16 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }
}

/// Returns how much of a processor this thread has used so far.
#[must_use]
pub fn processor_time() -> Duration {
    // It fails for an argument that does not exist alone.
    let usage = getrusage(UsageWho::RUSAGE_THREAD).ok();
    let micros = usage.map_or(0, |usage| {
        (usage.user_time() + usage.system_time()).num_microseconds()
    });
    Duration::from_micros(u64::try_from(micros).unwrap_or_default())
}

#[expect(
    unsafe_code,
    reason = "nothing else waits for a socket that is none of tokio's"
)]
fn registered(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: the socket owns its descriptor, and is not replaced or closed while it is registered.
    Ok(unsafe { AsyncFd::register(socket)? })
}

/// Receives a message; `None` where it is no answer.
fn receive(socket: RawFd, family: Family, identifier: u16) -> io::Result<Option<(IpAddr, u64)>> {
    let mut bytes = [0; LONGEST];
    let (length, from) = recvfrom::<SockaddrStorage>(socket, &mut bytes)?;
    let from = from.and_then(|from| {
        let v4 = from.as_sockaddr_in().map(|from| IpAddr::V4(from.ip()));
        v4.or_else(|| from.as_sockaddr_in6().map(|from| IpAddr::V6(from.ip())))
    });
    let number = bytes
        .get(..length)
        .and_then(|bytes| packet::answer(family, identifier, bytes));
    Ok(from.zip(number))
}

/// The unspecified address and device 0 leave the choice to the kernel (ip(7), IP_PKTINFO).
fn packet_info_v4(source: Option<Ipv4Addr>, link: u32) -> io::Result<libc::in_pktinfo> {
    let source = source.unwrap_or(Ipv4Addr::UNSPECIFIED);
    Ok(libc::in_pktinfo {
        ipi_ifindex: i32::try_from(link).map_err(io::Error::other)?,
        ipi_spec_dst: libc::in_addr {
            s_addr: u32::from(source).to_be(),
        },
        ipi_addr: libc::in_addr { s_addr: 0 },
    })
}

fn packet_info_v6(source: Option<Ipv6Addr>, link: u32) -> libc::in6_pktinfo {
    let source = source.unwrap_or(Ipv6Addr::UNSPECIFIED);
    libc::in6_pktinfo {
        ipi6_addr: libc::in6_addr {
            s6_addr: source.octets(),
        },
        ipi6_ifindex: link,
    }
}

#[expect(
    unsafe_code,
    reason = "neither nix nor socket2 makes the address of a packet socket"
)]
fn send_frame(socket: &Socket, neighbour: &Neighbour, protocol: i32, packet: &[u8]) -> io::Result<()> {
    let mut address = [0; 8];
    address[..6].copy_from_slice(&neighbour.address);
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: u16::try_from(protocol).map_err(io::Error::other)?.to_be(),
        sll_ifindex: i32::try_from(neighbour.link).map_err(io::Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: address,
    };
    // SAFETY: both pointers are to what lives on this stack and in `packet`, with their lengths.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as u32,
        )
    };
    if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

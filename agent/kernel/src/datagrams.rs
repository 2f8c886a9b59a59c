//! Datagrams through the tunnels, between the overlay addresses of leaders.
//!
//! The sockets are bound to the device as well: nothing leaves by another one, whatever the routes are, and nothing is taken that
//! came in by another one. What programs of this machine send to its own address counts as coming by its device (`rt_iif` in
//! `ip_route_output_key_hash_rcu`). A device that is made again is another device, so the sockets have to be opened again then.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr, UdpSocket as Sender},
};

use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, Socket, Type};
use spanwire_host::LinkName;
use tokio::net::UdpSocket;

/// How many datagrams are taken before anything else is done again.
const BATCH: usize = 64;
/// What waits to be taken, in bytes; the rest of a flood is dropped by the kernel.
const WAITING: usize = 32 * 1024;

/// Sockets on the own overlay addresses.
#[derive(Debug)]
pub struct Datagrams {
    sockets: Vec<Both>,
    link: LinkName,
    index: u32,
    longest: usize,
}

/// A socket of which the first half sends without asking whether that is possible, which tokio's does not know at first.
#[derive(Debug)]
struct Both {
    own: SocketAddr,
    sender: Sender,
    receiver: UdpSocket,
}

impl Datagrams {
    /// Opens a socket on each address that can be had. Of datagrams that are longer than that the rest is cut off.
    ///
    /// # Errors
    /// When there is no such device, or none of its addresses can be had.
    pub fn open(
        link: &LinkName,
        addresses: &BTreeSet<IpAddr>,
        port: u16,
        longest: usize,
    ) -> io::Result<Self> {
        let index = if_nametoindex(link.as_str())?;
        let mut sockets = Vec::new();
        let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in addresses {
            match socket(link, SocketAddr::new(*address, port)) {
                Ok(socket) => sockets.push(socket),
                Err(error) => failure = error,
            }
        }
        if sockets.is_empty() {
            return Err(failure);
        }
        Ok(Self {
            sockets,
            link: link.clone(),
            index,
            longest,
        })
    }

    /// Returns whether these are the sockets of all these addresses on the device that has this name now.
    #[must_use]
    pub fn are_of(&self, link: &LinkName, addresses: &BTreeSet<IpAddr>) -> bool {
        let own = self.sockets.iter().map(|socket| socket.own.ip());
        self.link == *link
            && own.eq(addresses.iter().copied())
            && if_nametoindex(link.as_str()).is_ok_and(|index| index == self.index)
    }

    /// Sends a datagram to the same port of another overlay address.
    ///
    /// # Errors
    /// When there is no own address of its family, no route by the device, or no room.
    pub fn send(&self, to: IpAddr, datagram: &[u8]) -> io::Result<()> {
        let mut sockets = self.sockets.iter();
        let socket = sockets.find(|socket| socket.own.is_ipv4() == to.is_ipv4());
        let socket = socket.ok_or(io::ErrorKind::AddrNotAvailable)?;
        let to = SocketAddr::new(to, socket.own.port());
        socket.sender.send_to(datagram, to).map(drop)
    }

    /// Waits for datagrams, and returns some, each with the address that it came from.
    ///
    /// # Errors
    /// When a socket fails.
    pub async fn receive(&self) -> io::Result<Vec<(IpAddr, Vec<u8>)>> {
        let socket = match &self.sockets[..] {
            [one, other] => tokio::select! {
                is_ready = one.receiver.readable() => is_ready.map(|()| one),
                is_ready = other.receiver.readable() => is_ready.map(|()| other),
            },
            [one, ..] => one.receiver.readable().await.map(|()| one),
            [] => std::future::pending().await,
        }?;
        let mut received = Vec::new();
        let mut datagram = vec![0; self.longest];
        for _ in 0..BATCH {
            match socket.receiver.try_recv_from(&mut datagram) {
                Ok((length, from)) => received.push((from.ip(), datagram[..length].to_vec())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(received)
    }
}

fn socket(link: &LinkName, own: SocketAddr) -> io::Result<Both> {
    let socket = Socket::new(
        Domain::for_address(own),
        Type::DGRAM.nonblocking(),
        Some(Protocol::UDP),
    )?;
    if own.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_recv_buffer_size(WAITING)?;
    socket.bind_device(Some(link.as_str().as_bytes()))?;
    socket.bind(&own.into())?;
    let sender = Sender::from(socket);
    Ok(Both {
        own,
        receiver: UdpSocket::from_std(sender.try_clone()?)?,
        sender,
    })
}

//! The link-layer addresses of neighbours, as the kernel knows them.

use std::{io, net::IpAddr};

use nix::{
    errno::Errno,
    libc::{self, NETLINK_ROUTE, RTM_GETNEIGH},
    net::if_::if_nametoindex,
};
use spanwire_host::LinkName;
use spanwire_topology::MacAddress;

use crate::{
    link,
    netlink::{Message, NetlinkError, Request, Socket, attributes},
};

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
/// Asked for, without an answer so far.
const NUD_INCOMPLETE: u16 = 0x01;
/// Asked for in vain.
const NUD_FAILED: u16 = 0x20;
/// Length of `struct ndmsg`.
const HEADER: usize = 12;

/// Where a neighbour is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The index of the device.
    pub link: u32,
    /// Its link-layer address there.
    pub address: [u8; 6],
}

impl Neighbour {
    /// Returns the neighbour of that link-layer address on a device.
    ///
    /// # Errors
    /// When there is no such device.
    pub fn at(link: &LinkName, address: MacAddress) -> io::Result<Self> {
        Ok(Self {
            link: if_nametoindex(link.as_str())?,
            address: address.bytes(),
        })
    }
}

/// Asks the kernel for neighbours.
pub struct Neighbours {
    socket: Socket,
}

impl Neighbours {
    /// Opens a socket, in a tokio runtime.
    ///
    /// # Errors
    /// When netlink cannot be talked to.
    pub fn open() -> Result<Self, NetlinkError> {
        let socket = Socket::open(NETLINK_ROUTE)?;
        Ok(Self { socket })
    }

    /// Returns where a neighbour is; `None` where there is no such device, or the kernel does not know. It asks the neighbour when
    /// something is sent there by a route.
    ///
    /// # Errors
    /// When netlink fails.
    pub async fn find(
        &mut self,
        link: &LinkName,
        address: IpAddr,
    ) -> Result<Option<Neighbour>, NetlinkError> {
        let Some(device) = link::find(&mut self.socket, link).await? else {
            return Ok(None);
        };
        let request = Request {
            kind: RTM_GETNEIGH,
            flags: 0,
            body: question(device.index, address),
        };
        match self.socket.get(&request).await {
            Ok(messages) => Ok(messages.iter().find_map(|message| answer(message, device.index))),
            Err(NetlinkError::Refused(refusal)) if refusal.errno == Errno::ENOENT => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// `struct ndmsg` and the address.
fn question(link: u32, address: IpAddr) -> Vec<u8> {
    let (family, octets) = match address {
        IpAddr::V4(address) => (libc::AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6, address.octets().to_vec()),
    };
    let mut body = vec![0; HEADER];
    body[0] = family as u8;
    body[4..8].copy_from_slice(&link.to_ne_bytes());
    let length = 4 + octets.len() as u16;
    body.extend_from_slice(&length.to_ne_bytes());
    body.extend_from_slice(&NDA_DST.to_ne_bytes());
    body.extend_from_slice(&octets);
    body
}

fn answer(message: &Message, link: u32) -> Option<Neighbour> {
    let state = u16::from_ne_bytes(message.body.get(8..10)?.try_into().ok()?);
    if state & (NUD_INCOMPLETE | NUD_FAILED) != 0 {
        return None;
    }
    let mut attributes = attributes(message.body.get(HEADER..)?);
    let (_, address) = attributes.find(|(kind, _)| *kind == NDA_LLADDR)?;
    let address = address.try_into().ok()?;
    Some(Neighbour { link, address })
}

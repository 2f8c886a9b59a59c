//! Addresses of devices.

use std::net::IpAddr;

use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope},
};
use nix::libc::{NLM_F_CREATE, NLM_F_REPLACE, RTM_DELADDR, RTM_GETADDR, RTM_NEWADDR};
use spanwire_topology::{Family, Prefix};

use crate::netlink::{Message, NetlinkError, Request, Socket};

/// An address of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Assigned {
    /// The device's index.
    pub(crate) device: u32,
    pub(crate) address: IpAddr,
    /// The length of the network it is in.
    pub(crate) length: u8,
}

impl Assigned {
    /// Returns the network it is in.
    pub(crate) fn network(&self) -> Option<Prefix> {
        Prefix::new(self.address, self.length).ok()
    }
}

/// Reads the addresses of one device, or of all; without link-local ones, which the kernel adds.
pub(crate) async fn addresses(
    socket: &mut Socket,
    device: Option<u32>,
) -> Result<Vec<Assigned>, NetlinkError> {
    let mut message = AddressMessage::default();
    message.header.index = device.unwrap_or(0);
    let messages = socket.dump(&Request::new(RTM_GETADDR, 0, &message)).await?;
    Ok(messages.iter().filter_map(assigned).collect())
}

/// Returns what an address message says; `None` for a link-local one.
pub(crate) fn assigned(message: &Message) -> Option<Assigned> {
    let message: AddressMessage = message.parse()?;
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        // With a far end IFA_ADDRESS is that, and IFA_LOCAL ours; IPv6 has IFA_LOCAL only then.
        if let AddressAttribute::Local(found) = attribute {
            local = Some(*found);
        } else if let AddressAttribute::Address(found) = attribute {
            address = Some(*found);
        }
    }
    let address = local.or(address)?;
    let link_local = match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    (!link_local).then_some(Assigned {
        device: message.header.index,
        address,
        length: message.header.prefix_len,
    })
}

/// Returns the request that gives a device an address of its own network of one.
pub(crate) fn add(device: u32, address: &Prefix) -> Request {
    let mut message = message(device, address.address(), address.length());
    // No route to the network in `main`, where nothing is ours; no duplicate detection where there is no link layer,
    // so that the address can be a source at once.
    message.attributes.push(AddressAttribute::Flags(
        AddressFlags::Noprefixroute | AddressFlags::Nodad,
    ));
    message.header.flags = AddressHeaderFlags::Nodad;
    Request::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &message)
}

/// Returns the request that takes an address from a device. What another program put there may be an address in a network, of which
/// only the network is known here: the address itself is looked up.
pub(crate) async fn delete(
    socket: &mut Socket,
    device: u32,
    address: &Prefix,
) -> Result<Request, NetlinkError> {
    let present = addresses(socket, Some(device)).await?;
    let found = present
        .iter()
        .find(|assigned| assigned.network() == Some(*address));
    let (ip, length) = found.map_or((address.address(), address.length()), |found| {
        (found.address, found.length)
    });
    Ok(Request::new(RTM_DELADDR, 0, &message(device, ip, length)))
}

fn message(device: u32, address: IpAddr, length: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = device;
    message.header.family = family(Family::of(address));
    message.header.prefix_len = length;
    message.header.scope = match address {
        // None that others are to take for an address of the node.
        IpAddr::V4(address) if address.is_link_local() => AddressScope::Link,
        IpAddr::V4(_) | IpAddr::V6(_) => AddressScope::Universe,
    };
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
    ];
    message
}

/// Returns the kernel's number of a family.
pub(crate) fn family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

//! Network devices: what Spanwire must know of all of them, and changes to its own.

use std::net::IpAddr;

use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage};
use nix::{
    errno::Errno,
    libc::{NLM_F_CREATE, NLM_F_EXCL, RTM_DELLINK, RTM_GETLINK, RTM_NEWLINK},
};
use spanwire_host::{LinkName, VxlanSettings};
use spanwire_topology::MacAddress;

use crate::{
    netlink::{Message, NetlinkError, Request, Socket, attributes},
    vxlan,
};

/// A network device as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) index: u32,
    pub(crate) name: LinkName,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    /// `wireguard`, `tun`, `vxlan`, …; empty for hardware.
    pub(crate) kind: String,
    /// Of VXLAN: the address that its packets come from, where it is set.
    pub(crate) local: Option<IpAddr>,
    /// Of VXLAN: how it is set up, where it is like one of Spanwire's.
    pub(crate) vxlan: Option<VxlanSettings>,
}

/// Reads all devices.
pub(crate) async fn devices(socket: &mut Socket) -> Result<Vec<Device>, NetlinkError> {
    let request = Request::new(RTM_GETLINK, 0, &question());
    Ok(socket.dump(&request).await?.iter().filter_map(device).collect())
}

/// Reads the device of that name.
pub(crate) async fn find(socket: &mut Socket, name: &LinkName) -> Result<Option<Device>, NetlinkError> {
    let mut message = question();
    message
        .attributes
        .push(LinkAttribute::IfName(name.as_str().to_owned()));
    match socket.get(&Request::new(RTM_GETLINK, 0, &message)).await {
        Ok(messages) => Ok(messages.iter().find_map(device)),
        Err(NetlinkError::Refused(refusal)) if refusal.errno == Errno::ENODEV => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns what a link message says; read by hand, since the devices of others have attributes that no library knows in full.
pub(crate) fn device(message: &Message) -> Option<Device> {
    const IFLA_ADDRESS: u16 = 1;
    const IFLA_IFNAME: u16 = 3;
    const IFLA_MTU: u16 = 4;
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_INFO_KIND: u16 = 1;
    const IFLA_INFO_DATA: u16 = 2;
    let word = |offset: usize| -> Option<u32> {
        Some(u32::from_ne_bytes(
            message.body.get(offset..offset + 4)?.try_into().ok()?,
        ))
    };
    let (index, flags) = (word(4)?, word(8)?);
    let (mut name, mut mtu, mut kind, mut address, mut data) = (None, None, String::new(), None, None);
    for (attribute, value) in attributes(message.body.get(16..)?) {
        match attribute {
            IFLA_ADDRESS => address = value.try_into().ok().map(MacAddress::new),
            IFLA_IFNAME => name = LinkName::new(&text(value)),
            IFLA_MTU => mtu = Some(u32::from_ne_bytes(value.try_into().ok()?)),
            IFLA_LINKINFO => {
                let info = attributes(value).find(|(attribute, _)| *attribute == IFLA_INFO_KIND);
                kind = info.map_or_else(String::new, |(_, value)| text(value));
                let found = attributes(value).find(|(attribute, _)| *attribute == IFLA_INFO_DATA);
                data = found.filter(|_| kind == vxlan::KIND).map(|(_, value)| value);
            }
            _ => {}
        }
    }
    Some(Device {
        index,
        name: name?,
        mtu: mtu?,
        up: LinkFlags::from_bits_retain(flags).contains(LinkFlags::Up),
        kind,
        local: data.and_then(vxlan_local),
        vxlan: data
            .zip(address)
            .and_then(|(data, address)| vxlan::settings(data, address)),
    })
}

/// Returns the address that a VXLAN device sends from; unset it is left out of a dump.
fn vxlan_local(data: &[u8]) -> Option<IpAddr> {
    const IFLA_VXLAN_LOCAL: u16 = 4;
    const IFLA_VXLAN_LOCAL6: u16 = 17;
    attributes(data).find_map(|(attribute, value)| match attribute {
        IFLA_VXLAN_LOCAL => Some(<[u8; 4]>::try_from(value).ok()?.into()),
        IFLA_VXLAN_LOCAL6 => Some(<[u8; 16]>::try_from(value).ok()?.into()),
        _ => None,
    })
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

fn question() -> LinkMessage {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    message
}

/// Returns the request that makes a WireGuard device of the kernel's.
pub(crate) fn add_wireguard(name: &LinkName, mtu: Option<u32>) -> Request {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.as_str().to_owned()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Wireguard)]),
    ];
    message.attributes.extend(mtu.map(LinkAttribute::Mtu));
    Request::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &message)
}

/// Returns the request that removes a device.
pub(crate) fn delete(index: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    Request::new(RTM_DELLINK, 0, &message)
}

/// Returns the request that sets the MTU of a device.
pub(crate) fn set_mtu(index: u32, mtu: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::Mtu(mtu));
    Request::new(RTM_NEWLINK, 0, &message)
}

/// Returns the request that sets a device up or down.
pub(crate) fn set_up(index: u32, up: bool) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.change_mask = LinkFlags::Up;
    message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
    Request::new(RTM_NEWLINK, 0, &message)
}

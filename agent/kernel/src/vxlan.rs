//! The VXLAN device between followers and leaders: how it is made, and where it sends.
//!
//! It learns nothing and has no entry for what is for all: where frames go is said by one forwarding entry for each link-layer
//! address, and which address a next hop has by one neighbour that does not expire. What is for any other is dropped.

use std::net::IpAddr;

use netlink_packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage};
use nix::libc::{
    AF_BRIDGE, AF_INET, AF_INET6, AF_UNSPEC, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, RTM_DELNEIGH,
    RTM_GETNEIGH, RTM_NEWLINK, RTM_NEWNEIGH,
};
use spanwire_host::{LinkName, Vxlan, VxlanSettings};
use spanwire_topology::MacAddress;

use crate::netlink::{Message, NetlinkError, Request, Socket, attributes};

/// What the kernel calls such a device.
pub(crate) const KIND: &str = "vxlan";

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_IFINDEX: u16 = 8;
/// The entry does not expire.
const NUD_PERMANENT: u16 = 0x80;
/// The entry is one of the device, not of a bridge that it is in.
const NTF_SELF: u8 = 0x02;
/// Length of `struct ndmsg`.
const HEADER: usize = 12;

/// Returns the request that makes the device.
pub(crate) fn add(name: &LinkName, mtu: u32, settings: &VxlanSettings) -> Request {
    let VxlanSettings {
        vni,
        port,
        local,
        address,
    } = *settings;
    let local = match local {
        IpAddr::V4(local) => InfoVxlan::Local(local),
        IpAddr::V6(local) => InfoVxlan::Local6(local),
    };
    let data = vec![
        InfoVxlan::Id(vni),
        local,
        InfoVxlan::Learning(false),
        InfoVxlan::Port(port),
    ];
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.as_str().to_owned()),
        LinkAttribute::Address(address.bytes().to_vec()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vxlan),
            LinkInfo::Data(InfoData::Vxlan(data)),
        ]),
    ];
    Request::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &message)
}

/// Returns what a device of that link-layer address was made with, by its data in a link message; `None` where it is none that
/// Spanwire makes: one that learns, sends what it knows nothing of to some address or group, or takes any network identifier.
pub(crate) fn settings(data: &[u8], address: MacAddress) -> Option<VxlanSettings> {
    const ID: u16 = 1;
    const GROUP: u16 = 2;
    const LOCAL: u16 = 4;
    const LEARNING: u16 = 7;
    const PROXY: u16 = 11;
    const PORT: u16 = 15;
    const GROUP6: u16 = 16;
    const LOCAL6: u16 = 17;
    const COLLECT_METADATA: u16 = 25;
    let (mut vni, mut port, mut local) = (None, None, None);
    for (attribute, value) in attributes(data) {
        match attribute {
            ID => vni = Some(u32::from_ne_bytes(value.try_into().ok()?)),
            PORT => port = Some(u16::from_be_bytes(value.try_into().ok()?)),
            LOCAL | LOCAL6 => local = ip(value),
            GROUP | GROUP6 => return None,
            LEARNING | PROXY | COLLECT_METADATA if value != [0] => return None,
            _ => {}
        }
    }
    Some(VxlanSettings {
        vni: vni?,
        port: port?,
        local: local?,
        address,
    })
}

/// Reads where the device of that index, which was made with these settings, sends.
pub(crate) async fn read(
    socket: &mut Socket,
    device: u32,
    settings: Option<VxlanSettings>,
) -> Result<Vxlan, NetlinkError> {
    let mut vxlan = Vxlan {
        settings,
        ..Vxlan::default()
    };
    let mut body = header(AF_BRIDGE, device, 0, 0);
    for message in socket.dump(&request(RTM_GETNEIGH, 0, body)).await? {
        let Some(Entry { address, to, .. }) = entry(&message).filter(|entry| entry.device == device) else {
            continue;
        };
        // Of some addresses for one the first counts: all are removed together.
        if let (Some(address), Some(to)) = (address, to) {
            vxlan.forwarding.entry(address).or_insert(to);
        }
    }
    body = header(AF_UNSPEC, 0, 0, 0);
    put(&mut body, NDA_IFINDEX, &device.to_ne_bytes());
    for message in socket.dump(&request(RTM_GETNEIGH, 0, body)).await? {
        let entry = entry(&message).filter(|entry| entry.device == device && entry.is_permanent);
        if let Some((Some(address), Some(to))) = entry.map(|entry| (entry.address, entry.to)) {
            vxlan.neighbours.insert(to, address);
        }
    }
    Ok(vxlan)
}

/// Returns the request that has frames for an address sent to one in the LAN, wherever they were sent before.
pub(crate) fn set_forwarding(device: u32, address: MacAddress, to: IpAddr) -> Request {
    let mut body = header(AF_BRIDGE, device, NUD_PERMANENT, NTF_SELF);
    put(&mut body, NDA_LLADDR, &address.bytes());
    put(&mut body, NDA_DST, &octets(to));
    request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body)
}

/// Returns the request that has frames for an address sent nowhere.
pub(crate) fn delete_forwarding(device: u32, address: MacAddress) -> Request {
    let mut body = header(AF_BRIDGE, device, 0, NTF_SELF);
    put(&mut body, NDA_LLADDR, &address.bytes());
    request(RTM_DELNEIGH, 0, body)
}

/// Returns the request that has a next hop have this link-layer address.
pub(crate) fn set_neighbour(device: u32, neighbour: IpAddr, address: MacAddress) -> Request {
    let mut body = header(family(neighbour), device, NUD_PERMANENT, 0);
    put(&mut body, NDA_DST, &octets(neighbour));
    put(&mut body, NDA_LLADDR, &address.bytes());
    request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body)
}

/// Returns the request that removes a next hop.
pub(crate) fn delete_neighbour(device: u32, neighbour: IpAddr) -> Request {
    let mut body = header(family(neighbour), device, 0, 0);
    put(&mut body, NDA_DST, &octets(neighbour));
    request(RTM_DELNEIGH, 0, body)
}

/// Returns the index of the device that a message is about, of a kind that says where something is.
pub(crate) fn device_of(message: &Message) -> Option<u32> {
    Some(u32::from_ne_bytes(message.body.get(4..8)?.try_into().ok()?))
}

/// What a message says of where something is.
struct Entry {
    device: u32,
    is_permanent: bool,
    address: Option<MacAddress>,
    to: Option<IpAddr>,
}

fn entry(message: &Message) -> Option<Entry> {
    let state = u16::from_ne_bytes(message.body.get(8..10)?.try_into().ok()?);
    let mut entry = Entry {
        device: device_of(message)?,
        is_permanent: state & NUD_PERMANENT != 0,
        address: None,
        to: None,
    };
    for (attribute, value) in attributes(message.body.get(HEADER..)?) {
        match attribute {
            NDA_LLADDR => entry.address = value.try_into().ok().map(MacAddress::new),
            NDA_DST => entry.to = ip(value),
            _ => {}
        }
    }
    Some(entry)
}

/// `struct ndmsg` (linux/neighbour.h).
fn header(family: i32, device: u32, state: u16, flags: u8) -> Vec<u8> {
    let mut body = vec![0; HEADER];
    body[0] = u8::try_from(family).unwrap_or_default();
    body[4..8].copy_from_slice(&device.to_ne_bytes());
    body[8..10].copy_from_slice(&state.to_ne_bytes());
    body[10] = flags;
    body
}

fn put(body: &mut Vec<u8>, attribute: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or_default();
    body.extend_from_slice(&length.to_ne_bytes());
    body.extend_from_slice(&attribute.to_ne_bytes());
    body.extend_from_slice(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn request(kind: u16, flags: i32, body: Vec<u8>) -> Request {
    Request { kind, flags, body }
}

fn family(address: IpAddr) -> i32 {
    match address {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from)).ok()
}

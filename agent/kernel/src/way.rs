//! Which way the kernel sends a packet now: what `ip route get` asks, and the WireGuard peer that takes it.
//!
//! A packet that the node forwards is asked about with the device that it comes in by, as `fib_validate_source` and rules
//! with `iif` look at it: that of the route to its sender, or the tunnel. So an answer includes what the reverse path
//! filter says. Rules of a firewall are not asked.

use std::net::IpAddr;

use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteMessage, RouteType};
use nix::{errno::Errno, libc::RTM_GETROUTE};
use spanwire_host::LinkName;
use spanwire_topology::{Family, Prefix, PublicKey};

use crate::{
    address::family,
    error::ReadError,
    kernel::Kernel,
    link,
    netlink::{NetlinkError, Request, Socket},
    route::{ObservedRoute, observe},
};

/// A packet without a mark, as far as routing looks at it. Both addresses are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Who sent it.
    pub source: IpAddr,
    /// Where it is to go.
    pub destination: IpAddr,
    /// It has come out of Spanwire's tunnel.
    pub from_tunnel: bool,
}

/// What the kernel does with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// It is for this machine.
    Here,
    /// It leaves.
    Out(WayOut),
    /// It goes nowhere, for this reason.
    Nowhere(String),
}

/// How a packet leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WayOut {
    /// The device.
    pub device: LinkName,
    /// The next hop, where there is one.
    pub via: Option<IpAddr>,
    /// The routing table that decided.
    pub table: u32,
    /// The largest packet, in bytes.
    pub mtu: u32,
    /// The device is Spanwire's.
    pub tunnel: bool,
    /// The WireGuard peer whose allowed IPs have the destination, where the device is Spanwire's.
    pub peer: Option<PublicKey>,
}

impl Kernel {
    /// Returns what the kernel does with a packet now.
    ///
    /// # Errors
    /// [`ReadError`] says what could not be read.
    pub async fn way(&mut self, packet: &Packet) -> Result<Way, ReadError> {
        let devices = link::devices(&mut self.route).await;
        let devices = devices.map_err(ReadError::netlink("the devices"))?;
        let own = devices
            .iter()
            .find(|device| device.name == self.owned.link && device.kind == self.backend.link_kind());
        let own = own.map(|device| device.index);
        let incoming = if packet.from_tunnel {
            let Some(own) = own else {
                return Ok(Way::Nowhere(
                    "there is no tunnel that it could come from".to_owned(),
                ));
            };
            Some(own)
        } else {
            match get(&mut self.route, packet.source, None).await? {
                Ok(route) if route.kind == RouteType::Local => None,
                Ok(route) => route.device,
                Err(reason) => {
                    let sender = packet.source;
                    return Ok(Way::Nowhere(format!(
                        "there is no way to its sender {sender}: {reason}"
                    )));
                }
            }
        };
        let origin = (packet.source, incoming);
        let route = match get(&mut self.route, packet.destination, Some(origin)).await? {
            Ok(route) if route.kind == RouteType::Local => return Ok(Way::Here),
            Ok(route) => route,
            Err(reason) => return Ok(Way::Nowhere(reason)),
        };
        let leaving = route
            .device
            .and_then(|index| devices.iter().find(|device| device.index == index));
        let Some(device) = leaving else {
            return Ok(Way::Nowhere("its route names no device".to_owned()));
        };
        let tunnel = own == Some(device.index);
        Ok(Way::Out(WayOut {
            device: device.name.clone(),
            via: route.via,
            table: route.table,
            mtu: route.mtu.map_or(device.mtu, |mtu| mtu.min(device.mtu)),
            tunnel,
            peer: if tunnel {
                self.peer_of(packet.destination).await?
            } else {
                None
            },
        }))
    }

    /// Returns the peer of Spanwire's device that is sent what is for this address.
    async fn peer_of(&mut self, destination: IpAddr) -> Result<Option<PublicKey>, ReadError> {
        let Some((device, _)) = self.read_wireguard().await? else {
            return Ok(None);
        };
        let longest = |allowed: &mut dyn Iterator<Item = &Prefix>| {
            allowed
                .filter(|prefix| prefix.contains(destination))
                .map(|prefix| prefix.length())
                .max()
        };
        let matching = device
            .peers
            .iter()
            .filter_map(|(key, peer)| Some((longest(&mut peer.allowed_ips.iter())?, *key)));
        Ok(matching.max().map(|(_, key)| key))
    }
}

/// Asks for the route of a packet; the inner error says why it has none. `origin` is its sender and, where it is forwarded,
/// the index of the device that it comes in by.
async fn get(
    socket: &mut Socket,
    destination: IpAddr,
    origin: Option<(IpAddr, Option<u32>)>,
) -> Result<Result<ObservedRoute, String>, ReadError> {
    let host = Prefix::host(destination);
    let mut message = RouteMessage::default();
    message.header.address_family = family(host.family());
    message.header.destination_prefix_length = host.length();
    if host.family() == Family::V4 {
        // IPv6 always says which table it was, and refuses the flag (inet6_rtm_valid_getroute_req).
        message.header.flags = RouteFlags::LookupTable;
    }
    message
        .attributes
        .push(RouteAttribute::Destination(destination.into()));
    if let Some((source, incoming)) = origin {
        message.header.source_prefix_length = host.length();
        message.attributes.push(RouteAttribute::Source(source.into()));
        message.attributes.extend(incoming.map(RouteAttribute::Iif));
    }
    match socket.get(&Request::new(RTM_GETROUTE, 0, &message)).await {
        Ok(messages) => Ok(match messages.iter().find_map(observe) {
            Some(route) => usable(route),
            None => Err("the kernel names no route".to_owned()),
        }),
        Err(NetlinkError::Refused(refusal)) => Ok(Err(reason(refusal.errno))),
        Err(source) => Err(ReadError::netlink("the route of a packet")(source)),
    }
}

/// IPv6 returns routes that send nothing, IPv4 their error.
fn usable(route: ObservedRoute) -> Result<ObservedRoute, String> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "all others send it somewhere")]
    match route.kind {
        RouteType::Unreachable => Err(reason(Errno::EHOSTUNREACH)),
        RouteType::Prohibit => Err(reason(Errno::EACCES)),
        RouteType::BlackHole => Err(reason(Errno::EINVAL)),
        _ => Ok(route),
    }
}

/// What an error of a route lookup means (`fib_props`, `fib_validate_source`).
fn reason(errno: Errno) -> String {
    #[expect(clippy::wildcard_enum_match_arm, reason = "what the kernel calls it is all there is to say")]
    match errno {
        Errno::EHOSTUNREACH => "an unreachable route".to_owned(),
        Errno::EACCES => "a prohibit route".to_owned(),
        // Since Linux 6.13 also for what `fib_validate_source` refuses.
        Errno::EINVAL => {
            "a blackhole route drops it, or the reverse path filter (rp_filter): this node would answer its sender by another \
             device"
                .to_owned()
        }
        Errno::ENETUNREACH => "no route".to_owned(),
        Errno::EXDEV => {
            "the reverse path filter (rp_filter) drops it: this node would answer its sender by another device".to_owned()
        }
        other => other.desc().to_owned(),
    }
}

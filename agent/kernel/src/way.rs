//! Which way the kernel sends a packet now: what `ip route get` asks, and the WireGuard peer that takes it.
//!
//! A packet that the node forwards is asked about with the device that it comes in by, as `fib_validate_source` and rules
//! with `iif` look at it: that of the route to its sender, the tunnel, or that of the hop between nodes of the location. So an answer includes what the reverse path
//! filter says. What firewalls do with it is judged by their rules, Spanwire's among them.

use std::net::IpAddr;

use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteMessage, RouteType};
use nix::{errno::Errno, libc::RTM_GETROUTE};
use spanwire_host::{Judgement, LinkName, Passing, Transport, judge};
use spanwire_topology::{Family, MacAddress, Prefix, PublicKey};

use crate::{
    address::family,
    error::ReadError,
    kernel::Kernel,
    link::{self, Device},
    netlink::{NetlinkError, Request, Socket},
    route::{ObservedRoute, observe},
    vxlan,
};

/// A packet without a mark, as far as routing looks at it. Both addresses are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Who sent it.
    pub source: IpAddr,
    /// Where it is to go.
    pub destination: IpAddr,
    /// What it carries above IP; `None`: that is not known.
    pub transport: Option<Transport>,
    /// It has come out of Spanwire's tunnel.
    pub from_tunnel: bool,
    /// It has come by the hop from another node of the location.
    pub from_hop: bool,
    /// It answers another one.
    pub answers: bool,
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

/// What firewalls do with a packet; an error says why that is not known.
pub type Judged = Result<Judgement, String>;

/// What the kernel does with a packet, and what firewalls do with it where it does not go nowhere.
pub type JudgedWay = (Way, Option<Judged>);

impl Kernel {
    /// Returns what the kernel does with a packet now.
    ///
    /// # Errors
    /// [`ReadError`] says what could not be read.
    pub async fn way(&mut self, packet: &Packet) -> Result<Way, ReadError> {
        let devices = self.devices().await?;
        let found = self.route_of(packet, None, &devices).await;
        found.map(|(way, _)| way)
    }

    /// Returns what the kernel does with a packet now, and what firewalls do with it where it does not go nowhere. `hop` is the device
    /// of the hop, where there is one alone.
    ///
    /// # Errors
    /// [`ReadError`] says what could not be read.
    pub async fn judged_way(
        &mut self,
        packet: &Packet,
        hop: Option<&LinkName>,
    ) -> Result<JudgedWay, ReadError> {
        let devices = self.devices().await?;
        let (way, incoming) = self.route_of(packet, hop, &devices).await?;
        let outgoing = match &way {
            Way::Nowhere(_) => return Ok((way, None)),
            Way::Here => None,
            Way::Out(out) => Some(out.clone()),
        };
        let incoming = incoming.and_then(|index| devices.iter().find(|device| device.index == index));
        let is_bridge = |name: &LinkName| {
            let device = devices.iter().find(|device| device.name == *name);
            device.is_some_and(|device| device.kind == "bridge")
        };
        let mut passing = Passing {
            source: packet.source,
            destination: packet.destination,
            transport: packet.transport,
            answers: packet.answers,
            incoming: incoming.map(|device| device.name.clone()),
            from_bridge: incoming.is_some_and(|device| device.kind == "bridge"),
            link_source: None,
            way_back: None,
            to_bridge: outgoing.as_ref().is_some_and(|out| is_bridge(&out.device)),
            via: outgoing.as_ref().and_then(|out| out.via),
            outgoing: outgoing.map(|out| out.device),
            own_table: self.owned.nft_table.clone(),
        };
        if let Some(device) = incoming {
            // By another device there may be a way back, too.
            let back = get(&mut self.route, packet.source, None).await?.ok();
            let back = back.filter(|back| back.device == Some(device.index));
            passing.way_back = back.as_ref().map(|_| device.name.clone());
            passing.link_source = match back.and_then(|back| back.via) {
                Some(via) if device.name == self.owned.hop_link => self.neighbour(device, via).await?,
                _ => None,
            };
        }
        let judged = match self.nft.chains_for(&passing).await {
            Ok(chains) => Ok(judge(&passing, &chains)),
            Err(why) => Err(why),
        };
        Ok((way, Some(judged)))
    }

    /// Returns the link-layer address of another node on the VXLAN device.
    async fn neighbour(&mut self, device: &Device, at: IpAddr) -> Result<Option<MacAddress>, ReadError> {
        let vxlan = vxlan::read(&mut self.route, device.index, device.vxlan).await;
        let vxlan = vxlan.map_err(ReadError::netlink("where the VXLAN device sends"))?;
        Ok(vxlan.neighbours.get(&at).copied())
    }

    async fn devices(&mut self) -> Result<Vec<Device>, ReadError> {
        let devices = link::devices(&mut self.route).await;
        devices.map_err(ReadError::netlink("the devices"))
    }

    /// Also returns the index of the device that the packet comes in by, where it does not begin here.
    async fn route_of(
        &mut self,
        packet: &Packet,
        hop: Option<&LinkName>,
        devices: &[Device],
    ) -> Result<(Way, Option<u32>), ReadError> {
        let own = devices
            .iter()
            .find(|device| device.name == self.owned.link && device.kind == self.backend.link_kind());
        let own = own.map(|device| device.index);
        let by_hop = hop.filter(|_| packet.from_hop);
        let by_hop = by_hop.and_then(|hop| devices.iter().find(|device| device.name == *hop));
        let by_hop = by_hop.map(|device| device.index);
        let nowhere = |why: String| Ok((Way::Nowhere(why), None));
        let incoming = if packet.from_tunnel {
            let Some(own) = own else {
                return nowhere("there is no tunnel that it could come from".to_owned());
            };
            Some(own)
        } else {
            match get(&mut self.route, packet.source, None).await? {
                Ok(route) if route.kind == RouteType::Local => None,
                Ok(route) => by_hop.or(route.device),
                Err(reason) => {
                    let sender = packet.source;
                    return nowhere(format!("there is no way to its sender {sender}: {reason}"));
                }
            }
        };
        let origin = Origin {
            source: packet.source,
            incoming,
            transport: packet.transport,
        };
        let route = match get(&mut self.route, packet.destination, Some(origin)).await? {
            Ok(route) if route.kind == RouteType::Local => return Ok((Way::Here, incoming)),
            Ok(route) => route,
            Err(reason) => return nowhere(reason),
        };
        let leaving = route
            .device
            .and_then(|index| devices.iter().find(|device| device.index == index));
        let Some(device) = leaving else {
            return nowhere("its route names no device".to_owned());
        };
        let tunnel = own == Some(device.index);
        let out = WayOut {
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
        };
        Ok((Way::Out(out), incoming))
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

/// What a route may depend on besides the destination.
struct Origin {
    /// The sender.
    source: IpAddr,
    /// The index of the device that it comes in by, where it is forwarded.
    incoming: Option<u32>,
    /// What it carries.
    transport: Option<Transport>,
}

/// Asks for the route of a packet; the inner error says why it has none.
async fn get(
    socket: &mut Socket,
    destination: IpAddr,
    origin: Option<Origin>,
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
    if let Some(origin) = origin {
        message.header.source_prefix_length = host.length();
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Source(origin.source.into()));
        attributes.extend(origin.incoming.map(RouteAttribute::Iif));
        if let Some(Transport {
            protocol,
            source_port,
            destination_port,
        }) = origin.transport
        {
            attributes.push(RouteAttribute::IpProto(protocol.number(host.family())));
            attributes.extend(source_port.map(RouteAttribute::Sport));
            attributes.extend(destination_port.map(RouteAttribute::Dport));
        }
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

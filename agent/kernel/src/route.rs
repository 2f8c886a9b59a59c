//! Routes in Spanwire's tables.
//!
//! How the kernel differs from what was asked, and what is made of it:
//!
//! * an IPv6 route that sends nothing (`throw`, `unreachable`) is dumped with the device `lo`;
//! * an IPv6 metric of 0 becomes 1024 (`ip6_route_info_create`);
//! * an IPv4 metric of 0 is left out of a dump; a delete without metric takes the first route of that destination, which
//!   is the one with metric 0 where there is one;
//! * `onlink` is a flag of the next hop, dumped in the flags of the route.
//!
//! Messages are read by hand: a leader reads tens of thousands of its own routes, which a library that keeps every
//! attribute does several times slower.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
    RouteScope, RouteType,
};
use nix::libc::{NLM_F_CREATE, NLM_F_REPLACE, RTM_DELROUTE, RTM_GETROUTE, RTM_NEWROUTE};
use spanwire_host::{LinkName, Route, RouteKey, RouteKind, TableId};
use spanwire_topology::{Family, Prefix};

use crate::{
    address::family,
    errno::{ErrnoClass, Operation, classify},
    netlink::{Message, NetlinkError, Request, Socket, attributes},
};

/// A route as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObservedRoute {
    pub(crate) family: Family,
    pub(crate) table: u32,
    pub(crate) protocol: u8,
    pub(crate) prefix: Option<Prefix>,
    pub(crate) metric: u32,
    pub(crate) kind: RouteType,
    /// The device's index.
    pub(crate) device: Option<u32>,
    pub(crate) via: Option<IpAddr>,
    pub(crate) onlink: bool,
    pub(crate) src: Option<IpAddr>,
    pub(crate) mtu: Option<u32>,
    /// The devices of its next hops, where it has several.
    pub(crate) hops: Vec<u32>,
    /// The routers of these.
    pub(crate) vias: Vec<IpAddr>,
}

/// Reads the routes of one table, of one protocol or of all.
pub(crate) async fn routes(
    socket: &mut Socket,
    of: Family,
    table: TableId,
    protocol: Option<u8>,
) -> Result<Vec<ObservedRoute>, NetlinkError> {
    let mut message = RouteMessage::default();
    message.header.address_family = family(of);
    message.header.protocol = RouteProtocol::from(protocol.unwrap_or(0));
    message.attributes.push(RouteAttribute::Table(table.0));
    let request = Request::new(RTM_GETROUTE, 0, &message);
    let messages = match socket.dump(&request).await {
        Err(NetlinkError::Refused(refusal))
            if classify(Operation::ReadTable, refusal.errno) == ErrnoClass::Settled =>
        {
            Vec::new()
        }
        other => other?,
    };
    let observed = messages.iter().filter_map(observe);
    // Where the kernel has no IPv6 it dumps the routes of all families instead (`rtnetlink_rcv_msg`).
    let asked = |route: &ObservedRoute| {
        route.table == table.0
            && route.family == of
            && protocol.is_none_or(|protocol| route.protocol == protocol)
    };
    Ok(observed.filter(asked).collect())
}

/// Reads the route that packets with `mark` to `endpoint` take.
pub(crate) async fn towards(
    socket: &mut Socket,
    endpoint: SocketAddr,
    mark: u32,
) -> Result<Option<ObservedRoute>, NetlinkError> {
    let mut message = RouteMessage::default();
    let destination = Prefix::host(endpoint.ip());
    message.header.address_family = family(destination.family());
    message.header.destination_prefix_length = destination.length();
    // The route itself, not a copy with a path MTU that some ICMP message lowered for a while.
    message.header.flags = RouteFlags::FibMatch;
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::from(endpoint.ip())),
        RouteAttribute::Mark(mark),
    ];
    match socket.get(&Request::new(RTM_GETROUTE, 0, &message)).await {
        Ok(messages) => Ok(messages.iter().find_map(observe)),
        // No route there: ENETUNREACH and its kin, or an `unreachable` route's own error.
        Err(NetlinkError::Refused(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a route by that device may be one that Calico has made to the pods of another node: by Felix, by its BIRD, which
/// others run, too, or, as Felix makes those by VXLAN with the protocol of boot scripts, any by a device of Calico's.
pub(crate) fn is_calicos(route: &ObservedRoute, device: &str) -> bool {
    /// Felix's `DeviceRouteProtocol` (felix/config/config_params.go).
    const FELIX: u8 = 80;
    /// `RTPROT_BIRD` (include/uapi/linux/rtnetlink.h).
    const BIRD: u8 = 12;
    let to_a_node = route.kind == RouteType::Unicast && route.via.is_some();
    let is_wide = route.prefix.is_none_or(|prefix| prefix.is_default());
    let of_its_own = matches!(device, "vxlan.calico" | "vxlan-v6.calico" | "tunl0");
    to_a_node && !is_wide && (of_its_own || matches!(route.protocol, FELIX | BIRD))
}

/// The routing table `local`, into which Linux looks first (`RT_TABLE_LOCAL`).
pub(crate) const LOCAL: TableId = TableId(255);

/// Whether it makes what it is for addresses of this machine, and is none of those that the kernel itself makes for addresses of devices.
pub(crate) fn is_made_local(route: &ObservedRoute) -> bool {
    /// `RTPROT_KERNEL` (include/uapi/linux/rtnetlink.h).
    const KERNEL: u8 = 2;
    route.table == LOCAL.0 && route.kind == RouteType::Local && route.protocol != KERNEL
}

/// Length of `struct rtmsg` (include/uapi/linux/rtnetlink.h).
const HEADER: usize = 12;

/// Returns what a route message says.
pub(crate) fn observe(message: &Message) -> Option<ObservedRoute> {
    const RTA_DST: u16 = 1;
    const RTA_OIF: u16 = 4;
    const RTA_PRIORITY: u16 = 6;
    const RTA_PREFSRC: u16 = 7;
    const RTA_METRICS: u16 = 8;
    const RTA_MULTIPATH: u16 = 9;
    const RTA_TABLE: u16 = 15;
    const RTAX_MTU: u16 = 2;

    let (header, rest) = message.body.split_at_checked(HEADER)?;
    let (of, unspecified): (Family, IpAddr) = match header[0] {
        2 => (Family::V4, [0; 4].into()),
        10 => (Family::V6, [0; 16].into()),
        _ => return None,
    };
    let mut route = ObservedRoute {
        family: of,
        table: u32::from(header[4]),
        protocol: header[5],
        prefix: None,
        metric: 0,
        kind: RouteType::from(header[7]),
        device: None,
        via: None,
        onlink: RouteFlags::from_bits_retain(word(header.get(8..)?)?).contains(RouteFlags::Onlink),
        src: None,
        mtu: None,
        hops: Vec::new(),
        vias: Vec::new(),
    };
    let mut destination = unspecified;
    for (attribute, value) in attributes(rest) {
        match attribute {
            RTA_TABLE => route.table = word(value)?,
            RTA_DST => destination = ip(value)?,
            RTA_PRIORITY => route.metric = word(value)?,
            RTA_OIF => route.device = Some(word(value)?),
            RTA_GATEWAY => route.via = ip(value),
            RTA_PREFSRC => route.src = ip(value),
            RTA_METRICS => {
                let mut metrics = attributes(value);
                route.mtu = metrics.find_map(|(metric, value)| word(value).filter(|_| metric == RTAX_MTU));
            }
            RTA_MULTIPATH => {
                let hops = next_hops(value);
                route.hops = hops.iter().map(|(device, _)| *device).collect();
                route.vias = hops.into_iter().filter_map(|(_, via)| via).collect();
            }
            _ => {}
        }
    }
    route.prefix = Prefix::new(destination, header[1]).ok();
    Some(route)
}

fn word(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

/// The router of a route, or of one of its next hops.
const RTA_GATEWAY: u16 = 5;

/// Returns the devices of next hops, with their routers: each a `struct rtnexthop`, which begins with its length, has the device's index
/// at 4, and attributes from 8 on.
fn next_hops(mut bytes: &[u8]) -> Vec<(u32, Option<IpAddr>)> {
    let hop = || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let device = word(bytes.get(4..)?)?;
        let rest = bytes.get(8..length).unwrap_or_default();
        let via =
            attributes(rest).find_map(|(attribute, value)| ip(value).filter(|_| attribute == RTA_GATEWAY));
        // A length of nothing would never end.
        bytes = bytes.get(length.next_multiple_of(4).max(8)..).unwrap_or_default();
        Some((device, via))
    };
    std::iter::from_fn(hop).collect()
}

impl ObservedRoute {
    /// Returns the route in our terms; `None` when we would never have made it.
    pub(crate) fn ours(&self, names: &BTreeMap<u32, LinkName>) -> Option<(RouteKey, Route)> {
        let key = RouteKey {
            table: TableId(self.table),
            prefix: self.prefix?,
            metric: self.metric,
        };
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "of the kernel's kinds we make four"
        )]
        let kind = match self.kind {
            RouteType::Throw => RouteKind::Throw,
            RouteType::Unreachable => RouteKind::Unreachable,
            RouteType::BlackHole => RouteKind::Blackhole,
            RouteType::Unicast => RouteKind::Unicast {
                dev: names.get(&self.device?)?.clone(),
                via: self.via,
                onlink: self.onlink,
                src: self.src,
            },
            _ => return None,
        };
        Some((key, Route { kind, mtu: self.mtu }))
    }
}

/// Returns the request that adds a route or replaces the one with its key; `device` is the index of the route's device.
pub(crate) fn set(protocol: u8, key: &RouteKey, route: &Route, device: Option<u32>) -> Request {
    let mut message = message(protocol, key);
    let header: &mut RouteHeader = &mut message.header;
    match &route.kind {
        RouteKind::Throw => header.kind = RouteType::Throw,
        RouteKind::Unreachable => header.kind = RouteType::Unreachable,
        RouteKind::Blackhole => header.kind = RouteType::BlackHole,
        RouteKind::Unicast { via, onlink, src, .. } => {
            header.kind = RouteType::Unicast;
            // A next hop must be nearer than the route (fib_check_nh); IPv6 has no scopes of routes.
            if via.is_none() && key.prefix.family() == Family::V4 {
                header.scope = RouteScope::Link;
            }
            if *onlink {
                header.flags = RouteFlags::Onlink;
            }
            message.attributes.extend(device.map(RouteAttribute::Oif));
            message
                .attributes
                .extend(via.map(|via| RouteAttribute::Gateway(via.into())));
            message
                .attributes
                .extend(src.map(|src| RouteAttribute::PrefSource(src.into())));
        }
    }
    let mtu = route.mtu.map(RouteMetric::Mtu);
    message
        .attributes
        .extend(mtu.map(|mtu| RouteAttribute::Metrics(vec![mtu])));
    Request::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &message)
}

/// Returns the request that removes a route.
pub(crate) fn delete(protocol: u8, key: &RouteKey) -> Request {
    let mut message = message(protocol, key);
    // Any scope, any kind (fib_table_delete).
    message.header.scope = RouteScope::NoWhere;
    Request::new(RTM_DELROUTE, 0, &message)
}

fn message(protocol: u8, key: &RouteKey) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(key.prefix.family());
    message.header.destination_prefix_length = key.prefix.length();
    message.header.protocol = RouteProtocol::from(protocol);
    message.attributes = vec![
        RouteAttribute::Table(key.table.0),
        RouteAttribute::Destination(RouteAddress::from(key.prefix.address())),
    ];
    if key.metric > 0 {
        message.attributes.push(RouteAttribute::Priority(key.metric));
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One attribute: length, kind, value.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(header: [u8; HEADER], attributes: &[Vec<u8>]) -> Message {
        Message::new(RTM_NEWROUTE, [header.to_vec(), attributes.concat()].concat())
    }

    const UNICAST: [u8; HEADER] = [2, 16, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];

    #[test]
    fn a_route_through_several_devices_says_which() {
        let hop = |device: u32| {
            [
                vec![16, 0, 0, 0],
                device.to_ne_bytes().to_vec(),
                vec![8, 0, 5, 0, 10, 0, 0, 1],
            ]
            .concat()
        };
        let route = observe(&message(
            UNICAST,
            &[
                attribute(1, &[10, 1, 0, 0]),
                attribute(9, &[hop(7), hop(9)].concat()),
            ],
        ))
        .unwrap();
        assert_eq!((route.hops, route.device, route.table), (vec![7, 9], None, 254));
        let router: IpAddr = [10, 0, 0, 1].into();
        assert_eq!((route.via, route.vias), (None, vec![router; 2]));
        assert_eq!(route.prefix, "10.1.0.0/16".parse().ok());
        assert_eq!(
            next_hops(&[0; 24]),
            [(0, None); 3],
            "a length of nothing ends all the same"
        );
    }

    #[test]
    fn what_is_cut_off_is_no_route_and_what_is_unknown_is_passed_over() {
        let whole = message(UNICAST, &[attribute(1, &[10, 1, 0, 0]), attribute(99, &[1])]);
        assert!(observe(&whole).is_some());
        for length in 0..HEADER {
            assert_eq!(
                observe(&Message::new(RTM_NEWROUTE, whole.body[..length].to_vec())),
                None
            );
        }
        let mut foreign = UNICAST;
        foreign[0] = 28;
        assert_eq!(observe(&message(foreign, &[])), None, "MPLS");
        assert_eq!(
            observe(&message(UNICAST, &[attribute(1, &[10, 1])])),
            None,
            "half an address"
        );
    }
}

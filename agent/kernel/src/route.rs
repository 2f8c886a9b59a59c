//! Routes in Spanwire's tables.
//!
//! How the kernel differs from what was asked, and what is made of it:
//!
//! * an IPv6 route that sends nothing (`throw`, `unreachable`) is told with the device `lo`;
//! * an IPv6 metric of 0 becomes 1024 (`ip6_route_info_create`);
//! * an IPv4 metric of 0 is not told at all; a delete without metric takes the first route of that destination, which
//!   is the one with metric 0 where there is one;
//! * `onlink` is a flag of the next hop, told in the flags of the route.

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
    netlink::{Message, NetlinkError, Request, Socket},
};

/// A route as the kernel tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
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
}

/// The routes of one table, of one protocol or of all.
pub(crate) async fn routes(
    socket: &mut Socket,
    of: Family,
    table: TableId,
    protocol: Option<u8>,
) -> Result<Vec<Told>, NetlinkError> {
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
    let told = messages.iter().filter_map(told);
    Ok(told
        .filter(|told| told.table == table.0 && protocol.is_none_or(|protocol| told.protocol == protocol))
        .collect())
}

/// The route that packets with `mark` to `endpoint` take.
pub(crate) async fn towards(
    socket: &mut Socket,
    endpoint: SocketAddr,
    mark: u32,
) -> Result<Option<Told>, NetlinkError> {
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
        Ok(messages) => Ok(messages.iter().find_map(told)),
        // No route there: ENETUNREACH and its kin, or an `unreachable` route's own error.
        Err(NetlinkError::Refused(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a route message says.
pub(crate) fn told(message: &Message) -> Option<Told> {
    let message: RouteMessage = message.parse()?;
    let RouteMessage {
        header, attributes, ..
    } = message;
    let mut told = Told {
        table: u32::from(header.table),
        protocol: u8::from(header.protocol),
        prefix: None,
        metric: 0,
        kind: header.kind,
        device: None,
        via: None,
        onlink: header.flags.contains(RouteFlags::Onlink),
        src: None,
        mtu: None,
        hops: Vec::new(),
    };
    let unspecified: IpAddr = match u8::from(header.address_family) {
        2 => [0; 4].into(),
        10 => [0; 16].into(),
        _ => return None,
    };
    let mut destination = unspecified;
    for attribute in attributes {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "the kernel's list of attributes grows"
        )]
        match attribute {
            RouteAttribute::Table(table) => told.table = table,
            RouteAttribute::Destination(address) => destination = ip(&address)?,
            RouteAttribute::Priority(metric) => told.metric = metric,
            RouteAttribute::Oif(index) => told.device = Some(index),
            RouteAttribute::Gateway(address) => told.via = ip(&address),
            RouteAttribute::PrefSource(address) => told.src = ip(&address),
            RouteAttribute::Metrics(metrics) => told.mtu = mtu(&metrics),
            RouteAttribute::MultiPath(hops) => {
                told.hops = hops.iter().map(|hop| hop.interface_index).collect();
            }
            _ => {}
        }
    }
    told.prefix = Prefix::new(destination, header.destination_prefix_length).ok();
    Some(told)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(address) = address {
        Some(IpAddr::V4(*address))
    } else if let RouteAddress::Inet6(address) = address {
        Some(IpAddr::V6(*address))
    } else {
        None
    }
}

fn mtu(metrics: &[RouteMetric]) -> Option<u32> {
    metrics.iter().find_map(|metric| {
        if let RouteMetric::Mtu(mtu) = metric {
            Some(*mtu)
        } else {
            None
        }
    })
}

impl Told {
    /// The route in our terms; `None` when we would never have made it.
    pub(crate) fn ours(&self, names: &BTreeMap<u32, LinkName>) -> Option<(RouteKey, Route)> {
        let key = RouteKey {
            table: TableId(self.table),
            prefix: self.prefix?,
            metric: self.metric,
        };
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "of the kernel's kinds we make three"
        )]
        let kind = match self.kind {
            RouteType::Throw => RouteKind::Throw,
            RouteType::Unreachable => RouteKind::Unreachable,
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

/// The request that adds a route or replaces the one with its key; `device` is the index of the route's device.
pub(crate) fn set(protocol: u8, key: &RouteKey, route: &Route, device: Option<u32>) -> Request {
    let mut message = message(protocol, key);
    let header: &mut RouteHeader = &mut message.header;
    match &route.kind {
        RouteKind::Throw => header.kind = RouteType::Throw,
        RouteKind::Unreachable => header.kind = RouteType::Unreachable,
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

/// The request that removes a route.
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

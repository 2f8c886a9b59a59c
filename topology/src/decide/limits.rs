//! What no object can have, whatever others claim.
//!
//! What a node says of itself is written with credentials that lie on its disk. It is granted where it harms no other node;
//! where an address or a network is needed that could, an administrator names it in the Location.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use super::place::Placed;
use crate::{
    Claim, Claimant, ClusterFacts, Family, Field, LocationFact, LocationField, LocationName, NodeName,
    Prefix, RejectReason, Rejected,
    claims::{ClaimRequest, ClaimantRef, Purpose},
};

/// Networks that no table may send into a tunnel: "this network", loopback, link-local, multicast and broadcast (the
/// IANA special-purpose registries, RFC 6890).
const NOT_ROUTABLE: [&str; 9] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "255.255.255.255/32",
    "::/128",
    "::1/128",
    "fe80::/10",
    "ff00::/8",
];

/// IPv4 addresses written as IPv6 that are on no wire: mapped ones and, out of use, compatible ones (RFC 4291 section
/// 2.5.5).
const MAPPED: [&str; 2] = ["::ffff:0:0/96", "::/96"];
/// What gateways make the IPv4 internet of: NAT64 (RFC 6052, RFC 8215), SIIT (RFC 2765 section 2.1), 6to4 (RFC 3056) and
/// Teredo (RFC 4380). Each has all IPv4 addresses in it, so who has the network has what the mesh refuses in IPv4.
const TRANSLATED: [&str; 5] = [
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "::ffff:0:0:0/96",
    "2002::/16",
    "2001::/32",
];

/// Private addresses at which all machines of a cloud, or of a VPN, find the same service: metadata with the machine's credentials,
/// resolvers, time, package mirrors. No LAN has them, and who draws them to itself draws the questions of all machines.
///
/// In 100.64.0.0/10, which Tailscale gives to nodes and kops to pods, they are named as narrowly as they are known.
const SERVED_EVERYWHERE: [&str; 12] = [
    // Alibaba's metadata and Tailscale's resolver; Tailscale gives no node an address of this network.
    "100.100.100.0/24",
    // Alibaba's resolvers and mirrors.
    "100.100.2.128/27",
    // Volcano Engine's metadata.
    "100.96.0.96/32",
    // Huawei's resolvers.
    "100.125.1.250/32",
    "100.125.129.250/32",
    // What a VPC of AWS has no routes into: metadata, resolver, time, credentials of pods.
    "fd00:ec2::/32",
    // Metadata: of Google, Oracle, Scaleway, Akamai, Alibaba.
    "fd20:ce::254/128",
    "fd00:c1::a9fe:a9fe/128",
    "fd00:42::42/128",
    "fd00:a9fe:a9fe::1/128",
    "fd00:100::100:200/128",
    // Tailscale's resolver.
    "fd7a:115c:a1e0::53/128",
];

/// How many bits shorter than a pod network that is which they are allocated from, as Kubernetes has it by default: /24 of
/// a /16, /64 of a /56.
const POOL_BITS: u8 = 8;

/// The networks from which pod networks are allocated.
///
/// Nothing in Kubernetes says which they are. Where the configuration names none of a family, it is taken for one what is
/// around the pod networks of at least two nodes, but only as long as at most one node has an address there: a LAN may
/// stand beside the pod networks in one larger network. For the same reason a range that was taken for one takes nothing
/// away from a node that has it: when all nodes of such a LAN but one go, that one stays. Only a pod network that is
/// handed out goes before.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    of_pods: Vec<Prefix>,
    reported: bool,
}

impl Ranges {
    pub(super) fn new(cluster: &ClusterFacts, nodes: &[Placed<'_>]) -> Self {
        let mut around: BTreeMap<Prefix, (&NodeName, bool)> = BTreeMap::new();
        let named = |family: Family| cluster.pods.iter().any(|pods| pods.family() == family);
        let named = [named(Family::V4), named(Family::V6)];
        let mut last = None;
        let allocated = |_: &&Placed<'_>| !cluster.pods_reported;
        for node in nodes.iter().filter(allocated) {
            for pods in &node.fact.prefixes {
                let length = pods.length().saturating_sub(POOL_BITS);
                // Nearly all are of one pool, which then has been found to have many.
                let again = |pool: Prefix| pool.length() == length && pool.contains(pods.address());
                if last.is_some_and(again) {
                    continue;
                }
                if named[usize::from(pods.family() == Family::V6)] || !pods.is_private() {
                    continue;
                }
                let pool = pods.around(length);
                let (first, many) = around.entry(pool).or_insert((node.name, false));
                *many |= *first != node.name;
                last = many.then_some(pool);
            }
        }
        let many = around.into_iter().filter(|(_, (_, many))| *many);
        let mut lans: Vec<(Prefix, usize)> = many.map(|(pool, _)| (pool, 0)).collect();
        for (pool, count) in &mut lans {
            let inside = |node: &&Placed<'_>| {
                let mut addresses = node.fact.addresses.iter();
                addresses.any(|address| pool.contains(*address))
            };
            *count = nodes.iter().filter(inside).take(2).count();
        }
        let derived = lans
            .into_iter()
            .filter(|(_, count)| *count < 2)
            .map(|(pool, _)| pool);
        Self {
            of_pods: cluster.pods.iter().copied().chain(derived).collect(),
            reported: cluster.pods_reported,
        }
    }

    /// Returns whether pod networks are what kubelets report.
    pub(super) const fn reported(&self) -> bool {
        self.reported
    }

    /// Returns the range that a network has a part of.
    pub(super) fn of_pods(&self, prefix: &Prefix) -> Option<Prefix> {
        self.of_pods.iter().find(|range| range.overlaps(prefix)).copied()
    }
}

/// What no object can have, and why.
pub(super) struct Limits<'a> {
    cluster: &'a ClusterFacts,
    ranges: &'a Ranges,
    nodes: &'a [Placed<'a>],
    /// The objects of the locations, by their index.
    objects: &'a [Option<&'a LocationFact>],
    /// The networks of the nodes of each Location that names some.
    of_nodes: Vec<(Prefix, &'a LocationName)>,
    /// What nodes had until a short while ago, each with the first of these.
    former: BTreeMap<IpAddr, &'a Placed<'a>>,
    reserved: Vec<(Family, u128, u128, RejectReason)>,
    translated: Vec<Prefix>,
    served_everywhere: Vec<Prefix>,
    /// Those whose public networks are too many.
    vast: BTreeSet<(ClaimantRef<'a>, Family)>,
}

impl<'a> Limits<'a> {
    pub(super) fn new(
        cluster: &'a ClusterFacts,
        ranges: &'a Ranges,
        nodes: &'a [Placed<'a>],
        (locations, objects): (&[&'a LocationName], &'a [Option<&'a LocationFact>]),
        requests: &[ClaimRequest<'a>],
    ) -> Self {
        let pools = cluster
            .overlay
            .iter()
            .chain(&cluster.automatic)
            .map(|pool| (*pool, RejectReason::OverlayPool(*pool)));
        let range = |(prefix, reason): (Prefix, RejectReason)| {
            let (family, first, last) = prefix.range();
            (family, first, last, reason)
        };
        let reserved = nowhere().chain(pools);
        Self {
            cluster,
            ranges,
            nodes,
            objects,
            of_nodes: networks_of_nodes(locations, objects),
            former: former(nodes),
            reserved: reserved.map(range).collect(),
            translated: parsed(&TRANSLATED).collect(),
            served_everywhere: parsed(&SERVED_EVERYWHERE).collect(),
            vast: vast(requests),
        }
    }

    /// Returns why a claim fails whatever others claim.
    pub(super) fn refusal(&self, request: &ClaimRequest<'a>) -> Option<RejectReason> {
        let prefix = &request.prefix;
        if let Some(reason) = too_large(prefix) {
            return Some(reason);
        }
        let (family, first, last) = prefix.range();
        let mut reserved = self.reserved.iter();
        let overlap = reserved.find(|(of, from, to, _)| *of == family && first <= *to && *from <= last);
        if let Some((.., reason)) = overlap {
            return Some(reason.clone());
        }
        match request.place {
            Some(place) => self.of_node(request, &self.nodes[place]),
            None => self.of_object(request),
        }
    }

    /// Of a Location or a Peer, which administrators write. With the networks of a Location they say what is none from which pod
    /// networks are allocated.
    fn of_object(&self, request: &ClaimRequest<'a>) -> Option<RejectReason> {
        let prefix = &request.prefix;
        let every = prefix.is_host() || request.purpose == Purpose::AllowedIp;
        let server = if every {
            self.api_server(prefix)
        } else {
            within(&self.cluster.api_server, prefix)
        };
        if let Some(server) = server {
            return Some(RejectReason::ApiServer(server));
        }
        if self.vast.contains(&(request.by, prefix.family())) && !prefix.is_private() {
            return Some(RejectReason::VastTogether);
        }
        if request.purpose != Purpose::AllowedIp {
            return None;
        }
        self.translated(prefix)
            .or_else(|| self.services(prefix))
            .or_else(|| {
                let range = self.pod_range(request)?;
                let of_node = |node: &Placed<'_>| {
                    let pods = node.fact.prefixes.iter().find(|pods| pods.overlaps(prefix))?;
                    Some(RejectReason::Pods(node.name.clone(), *pods))
                };
                let named = self.nodes.iter().find_map(of_node);
                Some(named.unwrap_or(RejectReason::PeerInPodRange(range)))
            })
    }

    /// Of a node.
    fn of_node(&self, request: &ClaimRequest<'a>, node: &Placed<'a>) -> Option<RejectReason> {
        let prefix = &request.prefix;
        let object = self.objects[node.site];
        let by_cidrs = || {
            let mut cidrs = object.into_iter().flat_map(|fact| &fact.cidrs);
            cidrs.any(|cidr| cidr.covers(prefix))
        };
        match request.purpose {
            Purpose::Pods => {
                let known = |prefix: &Prefix| self.cluster.pods.iter().any(|pods| pods.covers(prefix));
                self.services(prefix)
                    .or_else(|| self.api_server(prefix).map(RejectReason::ApiServer))
                    .or_else(|| {
                        let allowed = prefix.is_private() || known(prefix) || by_cidrs();
                        (!allowed).then(|| public(LocationField::Cidrs, node))
                    })
                    .or_else(|| {
                        let pooled = self.ranges.of_pods.iter().any(|pods| pods.covers(prefix));
                        let allowed = pooled || request.standing || by_cidrs();
                        (!allowed).then(|| self.served_everywhere(prefix, LocationField::Cidrs, node))?
                    })
            }
            // It has that by the Location already, or has not for the same reason.
            Purpose::Cidr if by_cidrs() => {
                within(&self.cluster.api_server, prefix).map(RejectReason::ApiServer)
            }
            Purpose::Cidr => self
                .translated(prefix)
                .or_else(|| self.services(prefix))
                .or_else(|| self.api_server(prefix).map(RejectReason::ApiServer))
                .or_else(|| (!prefix.is_private()).then(|| public(LocationField::Cidrs, node)))
                .or_else(|| self.served_everywhere(prefix, LocationField::Cidrs, node))
                .or_else(|| self.of_pods(request, LocationField::Cidrs, node)),
            Purpose::Address | Purpose::AllowedIp => {
                let networks = || object.into_iter().flat_map(of_nodes);
                let only = networks().next().is_some();
                let allowed = networks().any(|network| network.covers(prefix)) || lost(request, object);
                // The range of services is often far larger than what is used of it.
                let range = self.service_range(prefix).filter(|_| !allowed);
                let services = range.map(|range| RejectReason::NodeInServices(range, node.location.clone()));
                services
                    .or_else(|| self.of_control_plane(request, node, object))
                    .or_else(|| {
                        let reason = self.served_everywhere(prefix, LocationField::NodeCidrs, node)?;
                        // Who names the network of a VPN names its nodes, not its resolver.
                        let named = networks().any(|network| {
                            let mut served = self.served_everywhere.iter();
                            network.covers(prefix) && served.any(|range| range.covers(network))
                        });
                        (!named && !lost(request, object)).then_some(reason)
                    })
                    .or_else(|| match (only, allowed) {
                        (_, true) => None,
                        (true, false) => Some(RejectReason::NotOfLocation(node.location.clone())),
                        (false, false) => self
                            .of_former(request, node)
                            .or_else(|| self.of_other(request, node))
                            .or_else(|| {
                                (!prefix.is_private()).then(|| public(LocationField::NodeCidrs, node))
                            })
                            .or_else(|| self.of_pods(request, LocationField::NodeCidrs, node)),
                    })
            }
        }
    }

    /// The API server's address is a node's own where the API server runs there: on a node of the control plane, and on one
    /// that had the address before the API server was found at it, as a machine has that joins the control plane and is
    /// labelled last of all.
    fn of_control_plane(
        &self,
        request: &ClaimRequest<'a>,
        node: &Placed<'a>,
        object: Option<&LocationFact>,
    ) -> Option<RejectReason> {
        let prefix = &request.prefix;
        let configured = within(&self.cluster.api_server, prefix);
        let found = || within(&self.cluster.api_endpoints, prefix).filter(|_| !request.standing);
        let server = configured.or_else(found)?;
        let named = object.is_some_and(|object| object.node_cidrs.contains(&server));
        let runs_here = node.fact.control_plane || named || lost(request, object);
        (!runs_here).then(|| RejectReason::NotControlPlane(server, node.location.clone()))
    }

    /// The nodes of the other Location send to their neighbours without the mesh: a node elsewhere that claims an address of one would
    /// take it from them. Sites have the same ranges as often as not, so what stood before that Location said so stays.
    fn of_other(&self, request: &ClaimRequest<'_>, node: &Placed<'_>) -> Option<RejectReason> {
        let prefix = Some(&request.prefix).filter(|_| !request.standing)?;
        let mut networks = self.of_nodes.iter().filter(|(_, of)| *of != node.location);
        let (network, of) = networks.find(|(network, _)| network.covers(prefix))?;
        Some(RejectReason::NodeOfOther(
            *network,
            (*of).clone(),
            node.location.clone(),
        ))
    }

    fn of_former(&self, request: &ClaimRequest<'_>, node: &Placed<'_>) -> Option<RejectReason> {
        let prefix = Some(&request.prefix).filter(|prefix| !request.standing && prefix.is_host())?;
        let holder = self.former.get(&prefix.address())?;
        (holder.site != node.site).then(|| {
            RejectReason::Former(
                holder.name.clone(),
                holder.location.clone(),
                node.location.clone(),
            )
        })
    }

    fn of_pods(
        &self,
        request: &ClaimRequest<'a>,
        field: LocationField,
        node: &Placed<'a>,
    ) -> Option<RejectReason> {
        let range = self.pod_range(request)?;
        Some(RejectReason::PodRange(range, field, node.location.clone()))
    }

    /// Returns the range of pod networks of which a claim takes a part that may be allocated later. Where it is only what seems to be
    /// one, it takes nothing away from a claim that stands.
    fn pod_range(&self, request: &ClaimRequest<'a>) -> Option<Prefix> {
        let range = request.pooled.then(|| self.ranges.of_pods(&request.prefix))??;
        let named = self.cluster.pods.contains(&range);
        (named || !request.standing).then_some(range)
    }

    fn translated(&self, prefix: &Prefix) -> Option<RejectReason> {
        let range = self.translated.iter().find(|range| range.overlaps(prefix));
        range.map(|range| RejectReason::Embedded(*range))
    }

    fn served_everywhere(
        &self,
        prefix: &Prefix,
        field: LocationField,
        node: &Placed<'_>,
    ) -> Option<RejectReason> {
        let range = self
            .served_everywhere
            .iter()
            .find(|range| range.overlaps(prefix))?;
        Some(RejectReason::ServedEverywhere(
            *range,
            field,
            node.location.clone(),
        ))
    }

    fn services(&self, prefix: &Prefix) -> Option<RejectReason> {
        self.service_range(prefix).map(RejectReason::Services)
    }

    /// Returns the range of services that a network has a part of.
    fn service_range(&self, prefix: &Prefix) -> Option<Prefix> {
        let mut services = self.cluster.services.iter();
        services.find(|range| range.overlaps(prefix)).copied()
    }

    /// Returns the address of the API server that is in a network.
    fn api_server(&self, prefix: &Prefix) -> Option<Prefix> {
        let ClusterFacts {
            api_server,
            api_endpoints,
            ..
        } = self.cluster;
        within(api_server, prefix).or_else(|| within(api_endpoints, prefix))
    }
}

/// Returns the networks in `nodeCIDRs` that let no node have any address, and why.
pub(super) fn unusable(locations: &[&LocationName], objects: &[Option<&LocationFact>]) -> Vec<Rejected> {
    let named = locations.iter().zip(objects).flat_map(|(name, object)| {
        let networks = object.iter().flat_map(|fact| &fact.node_cidrs);
        networks.map(move |network| (*name, *network))
    });
    let refused = |(name, network): (&LocationName, Prefix)| {
        let reason = too_large(&network).or_else(|| {
            let mut around = nowhere().filter(|(range, _)| range.covers(&network));
            around.next().map(|(_, reason)| reason)
        })?;
        Some(Rejected {
            by: Claimant::Location(name.clone()),
            claim: Claim::NodeCidr(network),
            reason,
        })
    };
    named.filter_map(refused).collect()
}

fn former<'a>(nodes: &'a [Placed<'a>]) -> BTreeMap<IpAddr, &'a Placed<'a>> {
    let mut former = BTreeMap::new();
    for node in nodes {
        for address in &node.fact.former {
            former.entry(*address).or_insert(node);
        }
    }
    former
}

/// Returns the networks of nodes that Locations name, each with its Location.
fn networks_of_nodes<'a>(
    locations: &[&'a LocationName],
    objects: &[Option<&'a LocationFact>],
) -> Vec<(Prefix, &'a LocationName)> {
    let named = locations.iter().zip(objects);
    let networks = named.flat_map(|(name, object)| {
        let networks = object.iter().flat_map(|fact| of_nodes(fact));
        networks.map(|network| (*network, *name))
    });
    networks.collect()
}

/// Returns the networks in which the nodes of a location may have addresses, as its object says. One that is a large part of the
/// internet counts for nothing: it would let each of them claim what it likes.
fn of_nodes(object: &LocationFact) -> impl Iterator<Item = &Prefix> {
    let networks = object.node_cidrs.iter();
    networks.filter(|network| too_large(network).is_none())
}

fn too_large(prefix: &Prefix) -> Option<RejectReason> {
    if prefix.is_default() {
        return Some(RejectReason::DefaultRoute);
    }
    prefix.is_vast().then_some(RejectReason::Vast)
}

/// Returns the networks of which no address is another machine's, each with what is wrong with it.
fn nowhere() -> impl Iterator<Item = (Prefix, RejectReason)> {
    let unroutable = parsed(&NOT_ROUTABLE).map(|prefix| (prefix, RejectReason::NotRoutable));
    unroutable.chain(parsed(&MAPPED).map(|prefix| (prefix, RejectReason::Embedded(prefix))))
}

fn parsed(texts: &'static [&str]) -> impl Iterator<Item = Prefix> {
    texts.iter().filter_map(|text| text.parse().ok())
}

/// Returns the first of the addresses that is in a network.
fn within(servers: &BTreeSet<SocketAddr>, prefix: &Prefix) -> Option<Prefix> {
    let mut servers = servers.iter().map(|server| server.ip().to_canonical());
    servers.find(|server| prefix.contains(*server)).map(Prefix::host)
}

/// Returns whether a claim stands that the Location may name where its `nodeCIDRs` could not be read.
fn lost(request: &ClaimRequest<'_>, object: Option<&LocationFact>) -> bool {
    let unread = object.is_some_and(|object| object.unread.contains(&Field::Addresses));
    unread && request.standing
}

fn public(field: LocationField, node: &Placed<'_>) -> RejectReason {
    RejectReason::NotPrivate(field, node.location.clone())
}

/// Returns the Locations and Peers whose public networks of one family are together a quarter of all IPv4 addresses, or an
/// eighth of the IPv6 addresses that are in use (2000::/3), or more.
fn vast<'a>(requests: &[ClaimRequest<'a>]) -> BTreeSet<(ClaimantRef<'a>, Family)> {
    let least = |family: Family| match family {
        Family::V4 => 1_u128 << 30,
        Family::V6 => 1_u128 << 122,
    };
    let mut claimed: BTreeMap<(ClaimantRef<'a>, Family), BTreeSet<Prefix>> = BTreeMap::new();
    let of_objects = requests.iter().filter(|request| request.place.is_none());
    for request in of_objects.filter(|request| !request.prefix.is_private() && !request.prefix.is_vast()) {
        let key = (request.by, request.prefix.family());
        claimed.entry(key).or_default().insert(request.prefix);
    }
    let size = |prefixes: &BTreeSet<Prefix>| {
        let mut outer: Option<Prefix> = None;
        let mut size = 0_u128;
        for prefix in prefixes {
            if outer.is_none_or(|outer| !outer.covers(prefix)) {
                let (_, first, last) = prefix.range();
                size = size.saturating_add(last - first + 1);
                outer = Some(*prefix);
            }
        }
        size
    };
    let vast = claimed
        .into_iter()
        .filter(|((_, family), prefixes)| size(prefixes) >= least(*family));
    vast.map(|(key, _)| key).collect()
}

//! What the operator knows of the cluster when it decides: complete, translated, but not yet judged.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use crate::{
    Endpoint, HopMode, Keepalive, LocationName, MeshMode, NodeName, PeerName, Prefix, PublicKey, SecretKeyRef,
};

/// When an object was created, in seconds since the Unix epoch. Of two claims the earlier one stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Created(pub i64);

/// Everything [`decide`](crate::decide()) looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The cluster-wide settings.
    pub cluster: ClusterFacts,
    /// Every Kubernetes node.
    pub nodes: BTreeMap<NodeName, NodeFact>,
    /// Every Location object.
    pub locations: BTreeMap<LocationName, LocationFact>,
    /// Every Peer object.
    pub peers: BTreeMap<PeerName, PeerFact>,
}

/// Settings of the operator that concern the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterFacts {
    /// Pools that the user named: every node gets an overlay address of each. At most one per family.
    pub overlay: BTreeSet<Prefix>,
    /// Pools for families of which `overlay` names none, at most one per family. Each is used only while a node of the
    /// cluster has a pod network or an address of its family, for nothing else could send to its addresses.
    pub automatic: BTreeSet<Prefix>,
    /// The UDP port of WireGuard where a node does not say otherwise.
    pub listen_port: u16,
    /// Where agents, kubelets and pods reach the API server, as configured: behind a name what that is resolved to. Nothing may claim these addresses for the mesh,
    /// but a node of the control plane its own.
    pub api_server: BTreeSet<SocketAddr>,
    /// Where it really runs: the endpoints of the service `kubernetes`. The same holds of these addresses, but that the
    /// network of a Location may have them in it: it is often the LAN of the node that runs the API server.
    pub api_endpoints: BTreeSet<SocketAddr>,
    /// The networks from which services get their addresses. No node and no Peer may claim a part of them.
    pub services: BTreeSet<Prefix>,
    /// The networks from which pod networks are allocated, where they are named. A node claims nothing of them but the
    /// pod network that was allocated to it; pod networks in them may be public.
    pub pods: BTreeSet<Prefix>,
    /// The pod networks of nodes are the addresses of their pods, which their kubelets report: nothing allocates networks of
    /// which a part is known to be for pods, and a node's own address goes before what another node says of its pods.
    pub pods_reported: bool,
    /// The hop that the source of pod networks asks for in locations that name none: a VXLAN where what carries pods takes nothing from
    /// other locations.
    pub hop: HopMode,
    /// The name of the location of nodes about which nothing says anything.
    pub default_location: Option<LocationName>,
    /// Every pair of locations is established from the start: no traffic between two is ever plaintext.
    pub tunnel_only: bool,
}

impl Default for ClusterFacts {
    fn default() -> Self {
        Self {
            overlay: BTreeSet::new(),
            automatic: BTreeSet::new(),
            listen_port: 51820,
            api_server: BTreeSet::new(),
            api_endpoints: BTreeSet::new(),
            services: BTreeSet::new(),
            pods: BTreeSet::new(),
            pods_reported: false,
            hop: HopMode::Cni,
            default_location: None,
            tunnel_only: false,
        }
    }
}

impl ClusterFacts {
    /// Returns the pool of IPv4 overlay addresses of a cluster for which none is named.
    #[must_use]
    pub fn default_overlay() -> Prefix {
        Prefix::new(Ipv4Addr::new(10, 4, 0, 0).into(), 16).expect("16 bits are less than 32")
    }
}

/// The labels of a Kubernetes object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(pub BTreeMap<String, String>);

/// A Kubernetes label selector. The empty selector selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(pub Vec<Requirement>);

/// One requirement of a selector: `matchLabels` become [`Operator::In`] with one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// What is asked of the label's value.
    pub operator: Operator,
}

/// What a requirement asks of a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// The label is there and has one of these values.
    In(BTreeSet<String>),
    /// The label is not there, or has none of these values.
    NotIn(BTreeSet<String>),
    /// The label is there.
    Exists,
    /// The label is not there.
    DoesNotExist,
}

impl Selector {
    /// Returns whether the labels meet every requirement.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| {
            let value = labels.0.get(&requirement.key);
            match &requirement.operator {
                Operator::In(values) => value.is_some_and(|value| values.contains(value)),
                Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
            }
        })
    }
}

/// A value of a node or a location that can be there and not be readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// The location that an annotation names.
    Location,
    /// The location that a topology label names.
    Region,
    /// Where it is reached from outside.
    Endpoints,
    /// Its own addresses, from an annotation.
    Addresses,
    /// Its own addresses, from its status.
    StatusAddresses,
    /// The addresses at which the outside reaches it, from its status.
    External,
    /// Whether it leads.
    Leader,
    /// The interval of keepalives.
    Keepalive,
    /// Networks that its location reaches.
    Cidrs,
    /// Its UDP port.
    ListenPort,
    /// How followers and leaders of a location hand packets to each other.
    Hop,
    /// Which nodes belong to a location.
    Selector,
    /// Which nodes may lead it.
    LeaderSelector,
    /// Who leads whom in it.
    Mode,
    /// How many lead it.
    Seats,
    /// The key of a Peer.
    PublicKey,
    /// Where the preshared key of a Peer is.
    Preshared,
}

/// One Kubernetes node, with what its agent reports.
///
/// What stands in a Node and in the status of a MeshNode is written with credentials that lie on the node's disk:
/// [`decide`](crate::decide()) grants of it what harms no other node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFact {
    /// When the Node object was created.
    pub created: Created,
    /// Its labels, for the selectors of locations.
    pub labels: Labels,
    /// The location named by its annotation.
    pub location: Option<LocationName>,
    /// The location named by its topology label.
    pub region: Option<LocationName>,
    /// `true`: preferred as leader. `false`: never leader.
    pub leader: Option<bool>,
    /// Where it is reached from outside, from its annotation.
    pub endpoints: Vec<Endpoint>,
    /// Addresses at which the outside may reach it (Node addresses of type ExternalIP).
    pub external: BTreeSet<IpAddr>,
    /// Its own addresses in the LAN (Node addresses of type InternalIP, or its annotation).
    pub addresses: BTreeSet<IpAddr>,
    /// `addresses` are those of its annotation.
    pub annotated: bool,
    /// What was among `addresses` until a short while ago: no node of another location gets one of these.
    pub former: BTreeSet<IpAddr>,
    /// It is labelled as a node of the control plane, which no kubelet can do by itself.
    pub control_plane: bool,
    /// Since when its kubelet is silent or not ready, as the node controller has it; the end of all time where it does not say so yet.
    /// `None`: it is ready.
    pub down_since: Option<Created>,
    /// What it says that could not be read.
    pub unread: BTreeSet<Field>,
    /// The networks of its pods.
    pub prefixes: BTreeSet<Prefix>,
    /// Addresses of its pods that lie in none of its own networks: out of one that another node has, or none has any more.
    pub borrowed: BTreeSet<IpAddr>,
    /// Networks other than pods and nodes that its location reaches, from its annotation. Private ranges only.
    pub cidrs: BTreeSet<Prefix>,
    /// The interval of keepalives of its tunnels, from its annotation.
    pub keepalive: Option<Keepalive>,
    /// The UDP port of its WireGuard, from its annotation.
    pub listen_port: Option<u16>,
    /// The key that its agent reported.
    pub public_key: Option<PublicKey>,
    /// Where followers send packets for this node when it leads (the address of the CNI's device), from its agent.
    pub hop: BTreeSet<IpAddr>,
    /// The largest packet that its network takes on the ways to other locations, from its agent.
    pub mtu: Option<u16>,
    /// It runs: where it leads, its Lease is fresh; else its Node is Ready.
    pub alive: bool,
    /// Its agent has not renewed its Lease as a leader, or says that it could not, or nothing got through it when it led: others
    /// go before it.
    pub doubtful: bool,
    /// It is marked unschedulable, or is being drained.
    pub cordoned: bool,
    /// It is a machine of a cloud that delivers by who owns an address, as its `spec.providerID` says.
    pub cloud: bool,
    /// Its agent has found how the CNI carries packets between nodes.
    pub carried: bool,
    /// It was leaving its part as a leader ([`Decision::leaving`](crate::Decision::leaving)), and is waited for no longer.
    pub released: bool,
    /// What its agent, being a leader, reports of its tunnels to other locations: up or not.
    pub links: BTreeMap<LocationName, bool>,
}

/// One Location object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocationFact {
    /// When the object was created.
    pub created: Created,
    /// Which nodes belong here unless their annotation says otherwise. `None`: it selects no node.
    pub selector: Option<Selector>,
    /// Who leads whom.
    pub mode: MeshMode,
    /// How many leaders carry traffic at a time; at least 1.
    pub active: u16,
    /// How many more leaders stand by.
    pub standby: u16,
    /// Which nodes of the location may lead. `None`: all.
    pub leader_selector: Option<Selector>,
    /// Where the first active leader is reached from outside.
    pub endpoint: Option<Endpoint>,
    /// Networks, other than pods and nodes, reachable here.
    pub cidrs: BTreeSet<Prefix>,
    /// What comes from elsewhere to `cidrs` is to get the leader's own address there.
    pub masquerade: bool,
    /// How followers and leaders are to hand packets to each other. `None`: as suits where pod networks come from, and its nodes.
    pub hop: Option<HopMode>,
    /// The networks within which its nodes have their addresses, public ones too. Empty: private addresses of any network.
    pub node_cidrs: BTreeSet<Prefix>,
    /// The interval of keepalives of tunnels from here.
    pub keepalive: Option<Keepalive>,
    /// What it says that could not be read.
    pub unread: BTreeSet<Field>,
}

impl NodeFact {
    /// The most addresses of a node that count.
    pub const MAX_ADDRESSES: usize = 16;
    /// The most endpoints of a node that count.
    pub const MAX_ENDPOINTS: usize = 16;
    /// The most networks of a node that count: those of its pods, then those of its annotation.
    pub const MAX_NETWORKS: usize = 64;
    /// The most of them where they are the addresses of pods, joined where that can be: clouds have up to 250 pods on a node,
    /// which may have two addresses each.
    pub const MAX_POD_ADDRESSES: usize = 512;
    /// The most borrowed addresses of a node that count: the kubelet has up to 250 pods, which may have two addresses each.
    pub const MAX_BORROWED: usize = 512;

    /// Takes over from the fact before what could not be read now. Of a list, what can be read counts beside it, so that a
    /// slip in one network of several takes none of them away.
    pub fn keep(&mut self, before: &Self) {
        for field in self.unread.clone() {
            match field {
                Field::Location => self.location.clone_from(&before.location),
                Field::Region => self.region.clone_from(&before.region),
                Field::Endpoints if self.endpoints.is_empty() => self.endpoints.clone_from(&before.endpoints),
                // None of the annotation can be read, and these are those that it stood for.
                Field::Addresses if !self.annotated && before.annotated => {
                    self.addresses.clone_from(&before.addresses);
                    self.annotated = true;
                }
                Field::Addresses => self.keep_addresses(&before.addresses),
                Field::StatusAddresses if !before.annotated => self.keep_addresses(&before.addresses),
                Field::External => self.keep_external(&before.external),
                Field::Leader => self.leader = before.leader,
                Field::Keepalive => self.keepalive = before.keepalive,
                Field::Cidrs => {
                    let room = Self::MAX_NETWORKS.saturating_sub(self.prefixes.len() + self.cidrs.len());
                    let new = |cidr: &&Prefix| !self.cidrs.contains(*cidr);
                    let kept: Vec<_> = before.cidrs.iter().filter(new).take(room).copied().collect();
                    self.cidrs.extend(kept);
                }
                Field::ListenPort => self.listen_port = before.listen_port,
                Field::Endpoints
                | Field::StatusAddresses
                | Field::Selector
                | Field::LeaderSelector
                | Field::Mode
                | Field::Hop
                | Field::Seats
                | Field::PublicKey
                | Field::Preshared => {}
            }
        }
    }

    /// As many as there is room for.
    pub(crate) fn keep_addresses(&mut self, before: &BTreeSet<IpAddr>) {
        extend(&mut self.addresses, before, Self::MAX_ADDRESSES);
    }

    /// As many as there is room for.
    pub(crate) fn keep_external(&mut self, before: &BTreeSet<IpAddr>) {
        extend(&mut self.external, before, Self::MAX_ADDRESSES);
    }
}

/// Adds as many of the addresses before as there is room for.
fn extend(addresses: &mut BTreeSet<IpAddr>, before: &BTreeSet<IpAddr>, most: usize) {
    let room = most.saturating_sub(addresses.len());
    let kept: Vec<_> = before.difference(addresses).take(room).copied().collect();
    addresses.extend(kept);
}

impl LocationFact {
    /// A Location of which nothing can be read: what is published of it stays.
    #[must_use]
    pub fn unreadable() -> Self {
        let fields = [
            Field::Selector,
            Field::LeaderSelector,
            Field::Endpoints,
            Field::Cidrs,
            Field::Addresses,
            Field::Mode,
            Field::Hop,
            Field::Seats,
            Field::Keepalive,
        ];
        Self {
            active: 1,
            standby: 1,
            unread: fields.into(),
            ..Self::default()
        }
    }

    /// Takes over from the fact before what could not be read now.
    pub fn keep(&mut self, before: &Self) {
        for field in self.unread.clone() {
            match field {
                Field::Selector => self.selector.clone_from(&before.selector),
                Field::LeaderSelector => self.leader_selector.clone_from(&before.leader_selector),
                Field::Endpoints => self.endpoint.clone_from(&before.endpoint),
                Field::Cidrs => self.cidrs.extend(&before.cidrs),
                Field::Addresses => self.node_cidrs.extend(&before.node_cidrs),
                Field::Mode => self.mode = before.mode,
                Field::Hop => self.hop = before.hop,
                Field::Seats => (self.active, self.standby) = (before.active, before.standby),
                Field::Keepalive => self.keepalive = before.keepalive,
                Field::Location
                | Field::Region
                | Field::StatusAddresses
                | Field::External
                | Field::Leader
                | Field::ListenPort
                | Field::PublicKey
                | Field::Preshared => {}
            }
        }
    }
}

/// One Peer object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerFact {
    /// When the object was created.
    pub created: Created,
    /// Its WireGuard key. `None`: it cannot be read, and without one it is no Peer.
    pub public_key: Option<PublicKey>,
    /// The networks behind it.
    pub allowed_ips: BTreeSet<Prefix>,
    /// Where it is reached, where it can be.
    pub endpoint: Option<Endpoint>,
    /// The interval of keepalives that leaders send to it.
    pub keepalive: Option<Keepalive>,
    /// The location it attaches to. `None`: every location whose leaders anyone can reach.
    pub location: Option<LocationName>,
    /// Where its preshared key is, where it has one.
    pub preshared: Option<SecretKeyRef>,
    /// What it says that could not be read. With [`Field::Location`] among it, it is attached nowhere: it would be where it
    /// is not wanted. With [`Field::Preshared`] neither: it would be connected without its preshared key.
    pub unread: BTreeSet<Field>,
}

impl PeerFact {
    /// Takes over from the fact before what could not be read now.
    pub fn keep(&mut self, before: &Self) {
        for field in self.unread.clone() {
            match field {
                Field::PublicKey => self.public_key = self.public_key.or(before.public_key),
                Field::Cidrs => self.allowed_ips.extend(&before.allowed_ips),
                Field::Endpoints => self.endpoint.clone_from(&before.endpoint),
                Field::Location if !before.unread.contains(&field) => {
                    self.location.clone_from(&before.location);
                    self.unread.remove(&field);
                }
                Field::Preshared if before.preshared.is_some() => {
                    self.preshared.clone_from(&before.preshared);
                    self.unread.remove(&field);
                }
                Field::Location
                | Field::Preshared
                | Field::Region
                | Field::Addresses
                | Field::StatusAddresses
                | Field::External
                | Field::Leader
                | Field::Keepalive
                | Field::ListenPort
                | Field::Selector
                | Field::LeaderSelector
                | Field::Mode
                | Field::Hop
                | Field::Seats => {}
            }
        }
    }

    /// Returns its key, where enough of it is known to be in the mesh.
    pub(crate) fn key(&self) -> Option<PublicKey> {
        let vital = [Field::Location, Field::Preshared];
        self.public_key
            .filter(|_| !vital.iter().any(|field| self.unread.contains(field)))
    }
}

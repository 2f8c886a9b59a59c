//! The state of one machine, as far as it is Spanwire's, and the steps that change it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use spanwire_topology::{Keepalive, LocationName, MacAddress, Prefix, PublicKey};

use crate::{ChainName, NftSet, Passage, PresharedKey};

/// The name of a network device: 1 to 15 bytes without '/', white space or ':' (`dev_valid_name` of Linux).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkName(Arc<str>);

impl LinkName {
    /// Returns the name, if it is one.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let bad = |c: char| c == '/' || c == ':' || c.is_whitespace();
        let valid =
            !name.is_empty() && name.len() <= 15 && name != "." && name != ".." && !name.contains(bad);
        valid.then(|| Self(name.into()))
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number of a routing table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableId(pub u32);

/// What is Spanwire's on one machine: as it is, or as it should be.
///
/// Devices of others appear in routes by name only. The reader of the actual state keys everything as the kernel does, so
/// two entries can never stand for one kernel object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Spanwire's devices. Routes through one vanish with it.
    pub devices: BTreeMap<LinkName, Device>,
    /// Routes in Spanwire's tables, with Spanwire's protocol; shared, because there are thousands.
    pub routes: Arc<BTreeMap<RouteKey, Route>>,
    /// Rules in Spanwire's priority band.
    pub rules: BTreeSet<Rule>,
    /// The nft table.
    pub nft: Option<NftTable>,
    /// Rules in chains of others that let packets of the mesh through.
    pub passages: BTreeMap<ChainName, Passage>,
    /// Kernel settings that the path needs, with their values; never reset by `diff` when no longer wanted, since others
    /// may need them too: cleanup puts back what was found.
    pub sysctls: BTreeMap<Sysctl, String>,
}

impl Host {
    /// Returns how the WireGuard device of that name is set up, where there is one.
    #[must_use]
    pub fn wireguard(&self, device: &LinkName) -> Option<&WireGuard> {
        match &self.devices.get(device)?.kind {
            DeviceKind::WireGuard(wireguard) => Some(wireguard),
            DeviceKind::Vxlan(_) => None,
        }
    }

    /// Returns the set-up of every WireGuard device, to change it.
    pub fn wireguards_mut(&mut self) -> impl Iterator<Item = (&LinkName, &mut WireGuard)> {
        self.devices
            .iter_mut()
            .filter_map(|(name, device)| match &mut device.kind {
                DeviceKind::WireGuard(wireguard) => Some((name, wireguard)),
                DeviceKind::Vxlan(_) => None,
            })
    }

    /// Returns how the VXLAN device of that name is set up, where there is one.
    #[must_use]
    pub fn vxlan(&self, device: &LinkName) -> Option<&Vxlan> {
        match &self.devices.get(device)?.kind {
            DeviceKind::Vxlan(vxlan) => Some(vxlan),
            DeviceKind::WireGuard(_) => None,
        }
    }
}

/// A device of Spanwire's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Largest inner packet, in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Its addresses, each as a network of one (link-local ones, which the kernel adds, are not kept).
    pub addresses: BTreeSet<Prefix>,
    /// What it is.
    pub kind: DeviceKind,
}

/// What a device is, with what only such a device has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// A tunnel to leaders and Peers.
    WireGuard(WireGuard),
    /// What carries packets between followers and leaders of one location.
    Vxlan(Vxlan),
}

/// The set-up of a VXLAN device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vxlan {
    /// What it is made with. Actual: `None` where it is none that Spanwire makes, as one that learns or floods.
    pub settings: Option<VxlanSettings>,
    /// The addresses in the LAN to which frames for a link-layer address are sent. What is for any other is dropped.
    pub forwarding: BTreeMap<MacAddress, IpAddr>,
    /// The link-layer addresses of next hops; actual: those that do not expire.
    pub neighbours: BTreeMap<IpAddr, MacAddress>,
}

/// What a VXLAN device is made with. Nothing of it changes while the device is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VxlanSettings {
    /// The VXLAN network identifier, of 24 bits.
    pub vni: u32,
    /// The UDP port at which it receives, and to which it sends.
    pub port: u16,
    /// The address in the LAN from which it sends, and of whose family it receives.
    pub local: IpAddr,
    /// Its link-layer address.
    pub address: MacAddress,
}

/// The set-up of a WireGuard device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WireGuard {
    /// The public half of its private key; the private key itself is in the kernel alone.
    pub public_key: Option<PublicKey>,
    /// The UDP port it listens on.
    pub listen_port: u16,
    /// The mark on the packets it sends.
    pub mark: u32,
    /// Its peers.
    pub peers: BTreeMap<PublicKey, WireGuardPeer>,
}

impl WireGuard {
    /// Returns what the device has besides its peers; `None` where it has no key.
    #[must_use]
    pub fn settings(&self) -> Option<WireGuardSettings> {
        Some(WireGuardSettings {
            public_key: self.public_key?,
            listen_port: self.listen_port,
            mark: self.mark,
        })
    }
}

/// A peer of a WireGuard device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WireGuardPeer {
    /// Actual: where it was last heard, or was set to be. Wanted: where to look for it now; `None` leaves it alone.
    pub endpoint: Option<SocketAddr>,
    /// Interval of keepalives; `None` is off.
    pub keepalive: Option<Keepalive>,
    /// Peers of one group may send from each other's networks. Wanted only of a WireGuard that has groups.
    pub group: Option<LocationName>,
    /// Only who has the same preshared key can talk to this node.
    pub preshared: Option<PresharedKey>,
    /// The networks it may send from and that are sent to it; thousands in a large mesh, so shared.
    pub allowed_ips: Arc<BTreeSet<Prefix>>,
}

/// What identifies a route for the kernel, within Spanwire's protocol number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteKey {
    /// The table.
    pub table: TableId,
    /// The destination.
    pub prefix: Prefix,
    /// The metric (for IPv6 never 0: the kernel turns that into 1024).
    pub metric: u32,
}

/// A route apart from its key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// What happens to the packet.
    pub kind: RouteKind,
    /// The largest packet, in bytes, where smaller than the device's.
    pub mtu: Option<u32>,
}

/// What a route does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteKind {
    /// Send it.
    Unicast {
        /// Through this device.
        dev: LinkName,
        /// To this neighbour.
        via: Option<IpAddr>,
        /// The neighbour need not be on a connected network (`onlink`).
        onlink: bool,
        /// The source address for packets that have none yet.
        src: Option<IpAddr>,
    },
    /// Leave this table; go on with the next rule.
    Throw,
    /// Tell the sender 'unreachable'.
    Unreachable,
    /// Discard the packet; the sender hears nothing.
    Blackhole,
}

/// A routing policy rule in Spanwire's priority band.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Its family: a rule is of one.
    pub family: spanwire_topology::Family,
    /// Its priority; smaller is earlier.
    pub priority: u32,
    /// Which packets.
    pub selector: RuleSelector,
    /// What then.
    pub action: RuleAction,
}

/// Which packets a rule is for; everything given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleSelector {
    /// Arrived through this device.
    pub iif: Option<LinkName>,
    /// The packet's mark under `mask` is `value`: (value, mask, inverted).
    pub mark: Option<(u32, u32, bool)>,
    /// From this network.
    pub from: Option<Prefix>,
    /// To this network.
    pub to: Option<Prefix>,
    /// IP protocol number (6 TCP, 17 UDP).
    pub protocol: Option<u8>,
    /// Source port.
    pub sport: Option<u16>,
    /// Destination port.
    pub dport: Option<u16>,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RuleAction {
    /// Look the packet up in this table; go on with the next rule if nothing fits.
    Lookup(TableId),
    /// Go on at the rule of this priority (used to skip Spanwire's own tables).
    Goto(u32),
    /// Go on with the next rule.
    Nop,
}

/// The nft table, replaced or changed atomically.
///
/// Actual: the wanted one that is in force, provided that the kernel has it just as it was loaded; any other one (or an empty
/// one) where it was changed or where that is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NftTable {
    /// Its name.
    pub name: String,
    /// Its sets, in the order in which they are made.
    pub sets: Vec<NftSet>,
    /// Its chains, as nft writes them within a table.
    pub chains: String,
}

/// A kernel setting by its path below `/proc/sys`, parts joined by '/': `net/ipv4/ip_forward`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sysctl(pub String);

impl Sysctl {
    /// Returns the setting that makes the machine forward IPv6.
    #[must_use]
    pub fn ipv6_forwarding() -> Self {
        Self("net/ipv6/conf/all/forwarding".to_owned())
    }

    /// Whether the setting is one of this device, and so comes and goes with it.
    #[must_use]
    pub fn of_link(&self, link: &LinkName) -> bool {
        let mut parts = self.0.split('/');
        matches!(
            (parts.next(), parts.next(), parts.next(), parts.next()),
            (Some("net"), Some("ipv4" | "ipv6"), Some("conf" | "neigh"), Some(name)) if name == link.as_str()
        )
    }
}

/// One change to a Host. Steps are applied in order; each stands for one request to the kernel (or, where a peer has
/// more allowed IPs than one message holds, for several).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make a WireGuard device with this MTU. It is down and has no peer.
    AddWireGuard(LinkName, u32, WireGuardSettings),
    /// Make a VXLAN device with this MTU, which learns and floods nothing. It is down and has no entry.
    AddVxlan(LinkName, u32, VxlanSettings),
    /// Remove a device with everything that hangs on it.
    DeleteDevice(LinkName),
    /// Set a device's MTU.
    SetMtu(LinkName, u32),
    /// Set a device up or down.
    SetUp(LinkName, bool),
    /// Add an address to a device.
    AddAddress(LinkName, Prefix),
    /// Remove an address from a device.
    DeleteAddress(LinkName, Prefix),
    /// Change key, port and mark of a WireGuard device; its peers stay.
    SetWireGuard(LinkName, WireGuardSettings),
    /// Add or change a peer of a WireGuard device. Allowed IPs move away from the peer that had them.
    SetPeer(LinkName, PublicKey, PeerChange),
    /// Remove a peer of a WireGuard device.
    DeletePeer(LinkName, PublicKey),
    /// Have a VXLAN device send frames for a link-layer address to an address in the LAN.
    SetForwarding(LinkName, MacAddress, IpAddr),
    /// Have a VXLAN device send frames for a link-layer address nowhere.
    DeleteForwarding(LinkName, MacAddress),
    /// Have a next hop on a device have this link-layer address, without asking for it.
    SetNeighbour(LinkName, IpAddr, MacAddress),
    /// Forget the link-layer address of a next hop.
    DeleteNeighbour(LinkName, IpAddr),
    /// Add a route, or replace the one with the same key.
    SetRoute(RouteKey, Route),
    /// Remove a route.
    DeleteRoute(RouteKey),
    /// Add a rule.
    AddRule(Rule),
    /// Remove a rule.
    DeleteRule(Rule),
    /// Replace the nft table by this one.
    SetNft(NftTable),
    /// Remove the nft table.
    DeleteNft,
    /// Have these rules, and no others of Spanwire's, in a chain of another program.
    SetPassage(ChainName, Passage),
    /// Remove Spanwire's rules from a chain of another program.
    DeletePassage(ChainName),
    /// Write a kernel setting.
    SetSysctl(Sysctl, String),
}

/// What a WireGuard device has besides its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireGuardSettings {
    /// The key whose private half the device gets.
    pub public_key: PublicKey,
    /// The UDP port.
    pub listen_port: u16,
    /// The mark on what it sends.
    pub mark: u32,
}

/// What is to change of a peer; the peer is made if there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerChange {
    /// A peer that is there is removed first, in the same request: its session ends.
    pub recreate: bool,
    /// Where to look for it; `None` leaves it alone.
    pub endpoint: Option<SocketAddr>,
    /// `Some(None)` turns keepalives off; `None` leaves them alone.
    pub keepalive: Option<Option<Keepalive>>,
    /// `Some(None)` takes it out of its group; `None` leaves it where it is.
    pub group: Option<Option<LocationName>>,
    /// `Some(None)` takes its preshared key from it; `None` leaves it as it is.
    pub preshared: Option<Option<PresharedKey>>,
    /// Allowed IPs to add.
    pub add: BTreeSet<Prefix>,
    /// Allowed IPs to remove.
    pub remove: BTreeSet<Prefix>,
}

impl PeerChange {
    /// Whether it changes nothing of a peer that is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

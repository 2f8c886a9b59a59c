//! A machine in memory that takes steps as Linux takes them: for tests.
//!
//! It refuses what the kernel refuses (a route through a device that is down, a source that is no address of the
//! machine, a second rule like the first), and forgets what the kernel forgets (routes through a device that goes, IPv4
//! routes whose source goes). It is stricter in two things that Linux lets pass and that a good sequence of steps never
//! does: taking an allowed IP from a peer that does not have it, and a jump to a rule that is not there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use spanwire_topology::{Family, MacAddress, Prefix, PublicKey};
use thiserror::Error;

use crate::{
    Device, DeviceKind, Host, LinkName, OtherLink, Owned, PeerChange, Route, RouteKey, RouteKind, Rule,
    RuleAction, Step, Sysctl, Vxlan, VxlanSettings, WireGuard, WireGuardSettings,
};

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FakeKernel {
    owned: Owned,
    links: BTreeMap<LinkName, OtherLink>,
    host: Host,
}

/// Why a step is refused; named after the error that Linux gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// It is there already.
    #[error("file exists")]
    Exists,
    /// There is no such device.
    #[error("no such device")]
    NoDevice,
    /// There is no such thing.
    #[error("no such entry")]
    NoEntry,
    /// The device is down.
    #[error("network is down")]
    Down,
    /// The neighbour is in no connected network.
    #[error("nexthop has invalid gateway")]
    Gateway,
    /// The source is no address of this machine.
    #[error("invalid prefsrc address")]
    Source,
    /// Neither table nor priority are Spanwire's.
    #[error("not ours")]
    Foreign,
    /// Something makes no sense.
    #[error("invalid argument")]
    Invalid,
}

impl FakeKernel {
    /// Makes a machine with these devices of others, and nothing of Spanwire.
    #[must_use]
    pub fn new(owned: Owned, links: BTreeMap<LinkName, OtherLink>) -> Self {
        Self::with(owned, links, Host::default())
    }

    /// Makes a machine that has got into this state, by whatever means.
    #[must_use]
    pub fn with(owned: Owned, links: BTreeMap<LinkName, OtherLink>, host: Host) -> Self {
        Self { owned, links, host }
    }

    /// Returns what of Spanwire there is.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// A device of others appears, or changes its addresses.
    pub fn add_link(&mut self, name: LinkName, link: OtherLink) {
        self.links.insert(name, link);
    }

    /// A device of others goes, and with it what depends on it.
    pub fn remove_link(&mut self, name: &LinkName) {
        let Some(link) = self.links.remove(name) else {
            return;
        };
        self.lose_device(name);
        for (address, _) in link.addresses {
            self.lose_source(address);
        }
    }

    /// Does a step.
    ///
    /// # Errors
    /// [`Refused`] where Linux would refuse it; nothing is changed then.
    pub fn apply(&mut self, step: &Step) -> Result<(), Refused> {
        match step {
            Step::AddWireGuard(name, mtu, settings) => self.add_wireguard(name, *mtu, settings),
            Step::AddVxlan(name, mtu, settings) => self.add_vxlan(name, *mtu, *settings),
            Step::DeleteDevice(name) => self.delete_device(name),
            Step::SetMtu(name, mtu) => self.device(name).map(|device| device.mtu = *mtu),
            Step::SetUp(name, up) => self.set_up(name, *up),
            Step::AddAddress(name, address) => match self.device(name)?.addresses.insert(*address) {
                true => Ok(()),
                false => Err(Refused::Exists),
            },
            Step::DeleteAddress(name, address) => self.delete_address(name, *address),
            Step::SetWireGuard(name, settings) => {
                let wireguard = self.wireguard(name)?;
                wireguard.public_key = Some(settings.public_key);
                wireguard.listen_port = settings.listen_port;
                wireguard.mark = settings.mark;
                Ok(())
            }
            Step::SetPeer(name, key, change) => set_peer(self.wireguard(name)?, *key, change),
            Step::DeletePeer(name, key) => found(self.wireguard(name)?.peers.remove(key).is_some()),
            Step::SetForwarding(name, address, to) => {
                self.vxlan(name)?.forwarding.insert(*address, *to);
                Ok(())
            }
            Step::DeleteForwarding(name, address) => {
                found(self.vxlan(name)?.forwarding.remove(address).is_some())
            }
            Step::SetNeighbour(name, neighbour, address) => self.set_neighbour(name, *neighbour, *address),
            Step::DeleteNeighbour(name, neighbour) => {
                found(self.vxlan(name)?.neighbours.remove(neighbour).is_some())
            }
            Step::SetRoute(key, route) => self.set_route(*key, route),
            Step::DeleteRoute(key) => found(self.routes().remove(key).is_some()),
            Step::AddRule(rule) => self.add_rule(rule),
            Step::DeleteRule(rule) => self.delete_rule(rule),
            Step::SetNft(table) => {
                self.host.nft = Some(table.clone());
                Ok(())
            }
            Step::DeleteNft => found(self.host.nft.take().is_some()),
            Step::SetPassage(chain, passage) => {
                self.host.passages.insert(chain.clone(), passage.clone());
                Ok(())
            }
            Step::DeletePassage(chain) => found(self.host.passages.remove(chain).is_some()),
            Step::SetSysctl(sysctl, value) => self.set_sysctl(sysctl, value),
        }
    }

    fn device(&mut self, name: &LinkName) -> Result<&mut Device, Refused> {
        self.host.devices.get_mut(name).ok_or(Refused::NoDevice)
    }

    fn wireguard(&mut self, name: &LinkName) -> Result<&mut WireGuard, Refused> {
        match &mut self.device(name)?.kind {
            DeviceKind::WireGuard(wireguard) => Ok(wireguard),
            DeviceKind::Vxlan(_) => Err(Refused::Invalid),
        }
    }

    fn vxlan(&mut self, name: &LinkName) -> Result<&mut Vxlan, Refused> {
        match &mut self.device(name)?.kind {
            DeviceKind::Vxlan(vxlan) => Ok(vxlan),
            DeviceKind::WireGuard(_) => Err(Refused::Invalid),
        }
    }

    /// Neighbours are lost when the device goes down, so one that is down gets none.
    fn set_neighbour(
        &mut self,
        name: &LinkName,
        neighbour: IpAddr,
        address: MacAddress,
    ) -> Result<(), Refused> {
        if !self.device(name)?.up {
            return Err(Refused::Down);
        }
        self.vxlan(name)?.neighbours.insert(neighbour, address);
        Ok(())
    }

    fn routes(&mut self) -> &mut BTreeMap<RouteKey, Route> {
        Arc::make_mut(&mut self.host.routes)
    }

    fn add_wireguard(
        &mut self,
        name: &LinkName,
        mtu: u32,
        settings: &WireGuardSettings,
    ) -> Result<(), Refused> {
        if self.host.devices.contains_key(name) || self.links.contains_key(name) {
            return Err(Refused::Exists);
        }
        let wireguard = WireGuard {
            public_key: Some(settings.public_key),
            listen_port: settings.listen_port,
            mark: settings.mark,
            peers: BTreeMap::new(),
        };
        self.add_device(name, mtu, DeviceKind::WireGuard(wireguard));
        Ok(())
    }

    fn add_vxlan(&mut self, name: &LinkName, mtu: u32, settings: VxlanSettings) -> Result<(), Refused> {
        if self.host.devices.contains_key(name) || self.links.contains_key(name) {
            return Err(Refused::Exists);
        }
        let vxlan = Vxlan {
            settings: Some(settings),
            ..Vxlan::default()
        };
        self.add_device(name, mtu, DeviceKind::Vxlan(vxlan));
        Ok(())
    }

    fn add_device(&mut self, name: &LinkName, mtu: u32, kind: DeviceKind) {
        let device = Device {
            mtu,
            up: false,
            addresses: BTreeSet::new(),
            kind,
        };
        self.host.devices.insert(name.clone(), device);
    }

    fn delete_device(&mut self, name: &LinkName) -> Result<(), Refused> {
        let device = self.host.devices.remove(name).ok_or(Refused::NoDevice)?;
        self.host.sysctls.retain(|sysctl, _| !sysctl.of_link(name));
        self.lose_device(name);
        for address in device.addresses {
            self.lose_source(address.address());
        }
        Ok(())
    }

    /// Routes through a device go when it goes or is set down, and so do its IPv6 addresses.
    fn set_up(&mut self, name: &LinkName, up: bool) -> Result<(), Refused> {
        let device = self.device(name)?;
        device.up = up;
        if up {
            return Ok(());
        }
        let (kept, lost) = std::mem::take(&mut device.addresses)
            .into_iter()
            .partition(|address: &Prefix| address.family() == Family::V4);
        device.addresses = kept;
        if let DeviceKind::Vxlan(vxlan) = &mut device.kind {
            vxlan.neighbours.clear();
        }
        self.lose_device(name);
        for address in lost {
            self.lose_source(address.address());
        }
        Ok(())
    }

    fn delete_address(&mut self, name: &LinkName, address: Prefix) -> Result<(), Refused> {
        found(self.device(name)?.addresses.remove(&address))?;
        self.lose_source(address.address());
        Ok(())
    }

    fn lose_device(&mut self, name: &LinkName) {
        let through = |route: &Route| matches!(&route.kind, RouteKind::Unicast { dev, .. } if dev == name);
        self.routes().retain(|_, route| !through(route));
    }

    /// IPv4 routes go with their source; IPv6 routes lose it and stay.
    fn lose_source(&mut self, address: IpAddr) {
        self.routes().retain(|_, route| {
            let RouteKind::Unicast { src, .. } = &mut route.kind else {
                return true;
            };
            if *src != Some(address) {
                return true;
            }
            *src = None;
            Family::of(address) == Family::V6
        });
    }

    fn set_route(&mut self, key: RouteKey, route: &Route) -> Result<(), Refused> {
        if ![self.owned.table, self.owned.return_table].contains(&key.table) {
            return Err(Refused::Foreign);
        }
        if key.prefix.family() == Family::V6 && key.metric == 0 {
            return Err(Refused::Invalid);
        }
        if let RouteKind::Unicast {
            dev,
            via,
            onlink,
            src,
        } = &route.kind
        {
            self.check_device(dev, *via, *onlink)?;
            if let Some(src) = src {
                self.check_source(*src, key.prefix.family())?;
            }
        }
        self.routes().insert(key, route.clone());
        Ok(())
    }

    fn check_device(&self, dev: &LinkName, via: Option<IpAddr>, onlink: bool) -> Result<(), Refused> {
        let own = self.host.devices.get(dev);
        let connected = match (own, self.links.get(dev)) {
            (Some(device), _) if !device.up => return Err(Refused::Down),
            (Some(_), _) => false,
            (None, None) => return Err(Refused::NoDevice),
            (None, Some(link)) => via.is_some_and(|via| link.networks().any(|network| network.contains(via))),
        };
        if via.is_none() || onlink || connected {
            Ok(())
        } else {
            Err(Refused::Gateway)
        }
    }

    fn check_source(&self, src: IpAddr, family: Family) -> Result<(), Refused> {
        let own = self.host.devices.values().flat_map(|device| &device.addresses);
        let others = self.links.values().flat_map(|link| &link.addresses);
        let known = own.map(Prefix::address).any(|address| address == src)
            || others.map(|(address, _)| *address).any(|address| address == src);
        if known && Family::of(src) == family {
            Ok(())
        } else {
            Err(Refused::Source)
        }
    }

    fn add_rule(&mut self, rule: &Rule) -> Result<(), Refused> {
        // Its rules may have to be ahead of others.
        let band = 1..self.owned.rule_priority + Owned::RULE_BAND;
        if !band.contains(&rule.priority) {
            return Err(Refused::Foreign);
        }
        if let RuleAction::Goto(target) = rule.action {
            if target <= rule.priority {
                return Err(Refused::Invalid);
            }
            found(self.lands(rule.family, target))?;
        }
        if self.host.rules.insert(rule.clone()) {
            Ok(())
        } else {
            Err(Refused::Exists)
        }
    }

    fn lands(&self, family: Family, priority: u32) -> bool {
        let mut rules = self.host.rules.iter();
        rules.any(|rule| rule.family == family && rule.priority == priority)
    }

    fn delete_rule(&mut self, rule: &Rule) -> Result<(), Refused> {
        found(self.host.rules.remove(rule))?;
        let jumps = self.host.rules.iter().any(|other| {
            other.family == rule.family
                && matches!(other.action, RuleAction::Goto(target) if !self.lands(rule.family, target))
        });
        if jumps {
            self.host.rules.insert(rule.clone());
            return Err(Refused::Invalid);
        }
        Ok(())
    }

    fn set_sysctl(&mut self, sysctl: &Sysctl, value: &str) -> Result<(), Refused> {
        let mut parts = sysctl.0.split('/').skip(2);
        let (group, name) = (parts.next(), parts.next());
        if let (Some("conf" | "neigh"), Some(name)) = (group, name) {
            let any = ["all", "default", "lo"].contains(&name);
            let mut names = self.links.keys().chain(self.host.devices.keys());
            found(any || names.any(|link| link.as_str() == name))?;
        }
        self.host.sysctls.insert(sysctl.clone(), value.to_owned());
        Ok(())
    }
}

/// As the dump of its [`Host`].
impl fmt::Display for FakeKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.host.fmt(f)
    }
}

fn found(is: bool) -> Result<(), Refused> {
    if is { Ok(()) } else { Err(Refused::NoEntry) }
}

/// An allowed IP belongs to one peer: giving it to one takes it from the other.
fn set_peer(wireguard: &mut WireGuard, key: PublicKey, change: &PeerChange) -> Result<(), Refused> {
    let PeerChange { add, remove, .. } = change;
    let has = wireguard.peers.get(&key).map(|peer| &peer.allowed_ips);
    found(remove.is_empty() || has.is_some_and(|has| remove.is_subset(has)))?;
    if change.recreate {
        wireguard.peers.remove(&key);
    }
    for peer in wireguard.peers.values_mut() {
        Arc::make_mut(&mut peer.allowed_ips).retain(|prefix| !add.contains(prefix));
    }
    let peer = wireguard.peers.entry(key).or_default();
    peer.endpoint = change.endpoint.or(peer.endpoint);
    peer.keepalive = change.keepalive.unwrap_or(peer.keepalive);
    if let Some(group) = &change.group {
        peer.group.clone_from(group);
    }
    if let Some(preshared) = &change.preshared {
        peer.preshared.clone_from(preshared);
    }
    let allowed = Arc::make_mut(&mut peer.allowed_ips);
    allowed.extend(add);
    allowed.retain(|prefix| !remove.contains(prefix));
    Ok(())
}

//! Takes the inventory of what is not Spanwire's: devices, the CNI, the ways to the endpoints, what the WireGuard in use can.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use netlink_packet_route::route::RouteType;
use spanwire_host::{
    Cni, CniRoute, Elsewhere, Encapsulation, Filter, Inventory, LinkName, OtherLink, OtherRule, Sysctl,
    TableId, Unread,
};
use spanwire_topology::{Family, Prefix};

use crate::{
    Kernel, address, error::ReadError, firewall::legacy, ipsec, link, resolvers, route, rule, watched::Hook,
    wireguard::Backend,
};

/// The routing table `main`.
const MAIN: TableId = TableId(254);

impl Kernel {
    /// Takes the inventory of what is not Spanwire's, and of the ways to `endpoints` outside of the mesh. Of a node that
    /// `leads` also what filters packets for itself.
    ///
    /// # Errors
    /// [`ReadError`] says what could not be read.
    pub async fn inventory(
        &mut self,
        endpoints: impl IntoIterator<Item = &SocketAddr>,
        leads: bool,
    ) -> Result<Inventory, ReadError> {
        let devices = link::devices(&mut self.route).await;
        let devices = devices.map_err(ReadError::netlink("the devices"))?;
        let addresses = address::addresses(&mut self.route, None).await;
        let addresses = addresses.map_err(ReadError::netlink("the addresses"))?;
        let mut inventory = Inventory {
            links: self.other_links(&devices, &addresses),
            ..Inventory::default()
        };
        let mut ways = Vec::new();
        for endpoint in endpoints {
            let way = route::towards(&mut self.route, *endpoint, self.owned.mark).await;
            ways.extend(way.map_err(ReadError::netlink("the way to an endpoint"))?);
        }
        let mut defaults = Vec::new();
        let mut calicos = BTreeMap::new();
        for family in [Family::V4, Family::V6] {
            let routes = self.routes(family, MAIN).await?;
            enter_metrics(&mut inventory.links, &routes, &devices);
            calicos.extend(routes.iter().filter_map(|route| to_a_block(route, &devices)));
            let found = routes.into_iter().filter(is_default).collect::<Vec<_>>();
            inventory.routers.extend(
                found
                    .iter()
                    .flat_map(|route| route.via.iter().chain(&route.vias).copied()),
            );
            if !found.is_empty() {
                inventory.default_routes.insert(family);
            }
            defaults.extend(found);
            let local = self.routes(family, route::LOCAL).await?;
            inventory
                .local_routes
                .extend(made_local(&local, &devices, &addresses));
            self.enter_rules(&mut inventory, family).await?;
        }
        inventory.cni = cni(&devices, &inventory.links, calicos);
        enter_uplinks(&mut inventory, &devices, &ways, &defaults);
        let on = |value: Option<i32>| value == Some(0);
        inventory.ipv6_disabled = !on(self.ipv6_setting("default", "disable_ipv6"))
            && !on(self.ipv6_setting(self.owned.link.as_str(), "disable_ipv6"));
        inventory.ipv6_forwarded = self.ipv6_forwarded();
        inventory.groups = self.has_groups().await?;
        inventory.ipsec = ipsec::policies().await;
        inventory.resolvers = resolvers::resolvers(&resolvers::FILES);
        self.enter_filters(&mut inventory, leads).await;
        Ok(inventory)
    }

    /// Returns the devices that are up and not Spanwire's.
    fn other_links(
        &self,
        devices: &[link::Device],
        addresses: &[address::Assigned],
    ) -> BTreeMap<LinkName, OtherLink> {
        let own = [&self.owned.link, &self.owned.hop_link];
        let others = devices
            .iter()
            .filter(|device| device.up && !own.contains(&&device.name));
        let described = others.map(|device| {
            let of_it = addresses
                .iter()
                .filter(|assigned| assigned.device == device.index && !assigned.address.is_loopback());
            let other = OtherLink {
                mtu: device.mtu,
                addresses: of_it
                    .map(|assigned| (assigned.address, assigned.length))
                    .collect(),
                metrics: BTreeMap::new(),
                tunnel_from: device.local,
                cni: is_cni(&device.name),
                ipv6_disabled: self.ipv6_setting(device.name.as_str(), "disable_ipv6") != Some(0),
                // Nothing advertises on loopback, where the setting is 1 as well.
                advertisements: device.name.as_str() != "lo"
                    && self.ipv6_setting(device.name.as_str(), "accept_ra") == Some(1),
            };
            (device.name.clone(), other)
        });
        described.collect()
    }

    async fn routes(
        &mut self,
        family: Family,
        table: TableId,
    ) -> Result<Vec<route::ObservedRoute>, ReadError> {
        let routes = route::routes(&mut self.route, family, table, None).await;
        routes.map_err(ReadError::netlink("the routes"))
    }

    /// Enters the rules of others, and of the tables that these name what decides about packets of the mesh.
    async fn enter_rules(&mut self, inventory: &mut Inventory, family: Family) -> Result<(), ReadError> {
        let rules = rule::rules(&mut self.route, family).await;
        let rules = rules.map_err(ReadError::netlink("the rules"))?;
        let others = rules.into_iter().filter(|rule| !self.is_own_rule(rule));
        let others = others.filter_map(|rule| rule.other).collect::<Vec<_>>();
        let tables: BTreeSet<TableId> = others.iter().filter_map(OtherRule::table_to_read).collect();
        for table in tables {
            let routes = self.routes(family, table).await?;
            let mut wide = routes.iter().filter(|route| is_wide(route)).peekable();
            if wide.peek().is_some() {
                inventory.wide_tables.insert((family, table));
                if wide.all(forbids) {
                    inventory.closed_tables.insert((family, table));
                }
            }
            let is_its = |rule: &OtherRule| rule.mark.is_some() && rule.table == Some(table);
            if others.iter().any(is_its) {
                let to = routes.iter().filter(|route| ends_a_look_up(route));
                let to = to.filter_map(|route| route.prefix).collect();
                inventory.marked_routes.insert((family, table), to);
            }
        }
        inventory.rules.extend(others);
        Ok(())
    }

    /// Enters what others filter packets by, and what of it could not be read.
    async fn enter_filters(&mut self, inventory: &mut Inventory, leads: bool) {
        let mut unread = BTreeSet::new();
        inventory.filters = self.filters(Hook::Forward, &mut unread).await;
        if leads {
            inventory.inputs = self.filters(Hook::Input, &mut unread).await;
        } else {
            self.nft.forget_inputs();
        }
        for (at, hook) in [
            (Elsewhere::Prerouting, Hook::Prerouting),
            (Elsewhere::Output, Hook::Output),
            (Elsewhere::Postrouting, Hook::Postrouting),
            (Elsewhere::Ingress, Hook::Ingress),
            (Elsewhere::Egress, Hook::Egress),
            (Elsewhere::FromPods, Hook::FromPorts),
            (Elsewhere::ToPods, Hook::ToPorts),
        ] {
            let found = self.filters(hook, &mut unread).await;
            inventory.elsewhere.insert(at, found);
        }
        inventory.unread = unread;
    }

    /// Reads what others filter packets by at a hook.
    async fn filters(&mut self, hook: Hook, unread: &mut BTreeSet<Unread>) -> Arc<Vec<Filter>> {
        with(self.nft.filters(hook, unread).await, legacy(hook, unread))
    }

    /// Reads a number of `net/ipv6/conf`; `None` where the kernel has no IPv6 or no such device, or does not say.
    fn ipv6_setting(&self, device: &str, name: &str) -> Option<i32> {
        let sysctl = Sysctl(format!("net/ipv6/conf/{device}/{name}"));
        self.sysctls.read(&sysctl)?.parse().ok()
    }

    /// Whether IPv6 was forwarded before Spanwire came.
    fn ipv6_forwarded(&self) -> bool {
        let forwarding = Sysctl::ipv6_forwarding();
        let found = match self.sysctls.remembered().get(&forwarding) {
            Some(remembered) => Some(remembered.found.clone()),
            None => self.sysctls.read(&forwarding),
        };
        found.is_some_and(|value| value != "0")
    }

    /// Where there is no device yet, the process that will make it is taken for the tunnel of this version; the steps after
    /// the next inventory are right in any case. So is one that does not answer.
    async fn has_groups(&mut self) -> Result<bool, ReadError> {
        if self.backend == Backend::Kernel {
            return Ok(false);
        }
        let name = self.owned.link.clone();
        match self.device(&name).has_groups().await {
            Err(ReadError::Userspace(error)) if error.is_unanswered() => Ok(true),
            other => other,
        }
    }
}

fn with(filters: Arc<Vec<Filter>>, others: Vec<Filter>) -> Arc<Vec<Filter>> {
    if others.is_empty() {
        return filters;
    }
    Arc::new(filters.iter().cloned().chain(others).collect())
}

fn is_default(route: &route::ObservedRoute) -> bool {
    route.kind == RouteType::Unicast && route.prefix.is_some_and(|prefix| prefix.is_default())
}

/// Returns a route to neighbours, with its device and where it leads.
fn connected(route: &route::ObservedRoute) -> Option<(&route::ObservedRoute, u32, Prefix)> {
    let direct = route.kind == RouteType::Unicast && route.via.is_none();
    Some((route, route.device.filter(|_| direct)?, route.prefix?))
}

/// Returns the networks that routes of others make addresses of this machine, with their devices.
fn made_local(
    routes: &[route::ObservedRoute],
    devices: &[link::Device],
    addresses: &[address::Assigned],
) -> Vec<(Prefix, LinkName)> {
    let is_assigned = |prefix: &Prefix| {
        let is_it = |assigned: &address::Assigned| Prefix::host(assigned.address) == *prefix;
        prefix.is_host() && addresses.iter().any(is_it)
    };
    let made = |route: &route::ObservedRoute| {
        let prefix = route.prefix.filter(|_| route::is_made_local(route))?;
        let device = devices.iter().find(|device| Some(device.index) == route.device)?;
        // Kernels before 4.18 do not say that they have made those for addresses of IPv6.
        (!prefix.address().is_loopback() && !is_assigned(&prefix)).then(|| (prefix, device.name.clone()))
    };
    routes.iter().filter_map(made).collect()
}

/// Enters with which metric each device has its networks.
fn enter_metrics(
    links: &mut BTreeMap<LinkName, OtherLink>,
    routes: &[route::ObservedRoute],
    devices: &[link::Device],
) {
    for (route, index, prefix) in routes.iter().filter_map(connected) {
        let device = devices.iter().find(|device| device.index == index);
        let link = device.and_then(|device| links.get_mut(&device.name));
        if let Some(link) = link
            && link.networks().any(|network| network == prefix)
        {
            link.metrics.insert(prefix, route.metric);
        }
    }
}

/// Enters the devices on the ways to the endpoints, or else on the default routes, and the smallest MTU there.
fn enter_uplinks(
    inventory: &mut Inventory,
    devices: &[link::Device],
    ways: &[route::ObservedRoute],
    defaults: &[route::ObservedRoute],
) {
    let mtus: BTreeMap<u32, u32> = devices.iter().map(|device| (device.index, device.mtu)).collect();
    let smallest = |ways: &[route::ObservedRoute]| ways.iter().filter_map(|way| mtu(way, &mtus)).min();
    inventory.underlay_mtu = smallest(ways).or_else(|| smallest(defaults));
    let uplinks = if ways.is_empty() { defaults } else { ways };
    let numbers: BTreeSet<u32> = uplinks
        .iter()
        .flat_map(|way| way.device.iter().chain(&way.hops).copied())
        .collect();
    let uplinks = devices.iter().filter(|device| numbers.contains(&device.index));
    inventory.uplinks = uplinks.map(|device| device.name.clone()).collect();
}

/// Whether it ends the look-up of a packet: not by going on with the next rule, nor by taking the packet for this machine, as what is to be
/// taken by a proxy is (TPROXY).
fn ends_a_look_up(route: &route::ObservedRoute) -> bool {
    forbids(route) || route.kind == RouteType::Unicast
}

fn forbids(route: &route::ObservedRoute) -> bool {
    matches!(
        route.kind,
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit
    )
}

/// Whether it is for everything, or for half of it, as programs write it that leave the default route alone. That a VPN which is not
/// connected forbids everything ("kill switch") is as much an end of a look-up as its route.
fn is_wide(route: &route::ObservedRoute) -> bool {
    ends_a_look_up(route) && route.prefix.is_some_and(|prefix| prefix.length() <= 1)
}

pub(crate) fn mtu(way: &route::ObservedRoute, mtus: &BTreeMap<u32, u32>) -> Option<u32> {
    let devices = way.device.iter().chain(&way.hops);
    devices
        .filter_map(|index| mtus.get(index).copied())
        .chain(way.mtu)
        .min()
}

/// Whether the name is one that CNIs and container engines give to bridges, tunnels and pods' devices.
pub(crate) fn is_cni(name: &LinkName) -> bool {
    const NAMES: [&str; 17] = [
        "cni",
        "flannel",
        "veth",
        "cali",
        "wireguard.cali",
        "wg-v6.cali",
        "eni",
        "azv",
        "vxlan.calico",
        "vxlan-v6.calico",
        "tunl0",
        "kube-",
        "docker",
        "podman",
        "lxc",
        "cilium_",
        "nodelocaldns",
    ];
    NAMES.iter().any(|start| name.as_str().starts_with(start)) || is_dockers_bridge(name.as_str())
}

/// Whether the name is that of a bridge of a network that a user of Docker made: `br-` and the start of the network's ID.
fn is_dockers_bridge(name: &str) -> bool {
    let id = name.strip_prefix("br-").unwrap_or_default();
    id.len() == 12 && id.chars().all(|c| c.is_ascii_hexdigit())
}

/// Returns Calico's route to a block of another node, with the block.
fn to_a_block(route: &route::ObservedRoute, devices: &[link::Device]) -> Option<(Prefix, CniRoute)> {
    let device = devices.iter().find(|device| Some(device.index) == route.device)?;
    let is_calicos = route::is_calicos(route, device.name.as_str());
    let (via, link) = (route.via.filter(|_| is_calicos)?, device.name.clone());
    Some((route.prefix?, CniRoute { link, via }))
}

/// flannel's VXLAN devices, one per family, make the CNI an overlay. Its other devices (flannel-wg, flannel.ipip, flannel0
/// of the udp back-end) are none that a leader can be reached by. Calico is known by its devices and pods; where flannel
/// has a device as well, Calico enforces policies alone (Canal). Where there is neither everything is reached directly.
///
/// flannel leaves the devices of the back-end that it had before, with their addresses and routes, until the node boots. So
/// the back-end that it has is that of the device which was made last.
fn cni(
    devices: &[link::Device],
    links: &BTreeMap<LinkName, OtherLink>,
    calicos: BTreeMap<Prefix, CniRoute>,
) -> Cni {
    let flannel = |device: &&link::Device| device.up && device.name.as_str().starts_with("flannel");
    let of_flannel = devices.iter().filter(flannel);
    let (overlays, others): (Vec<_>, Vec<_>) = of_flannel.partition(|device| device.kind == "vxlan");
    let made_last = overlays.iter().map(|device| device.index).max();
    let other = others.into_iter().max_by_key(|device| device.index);
    match other.filter(|other| Some(other.index) > made_last) {
        Some(device) => Cni::Unsupported {
            link: device.name.clone(),
        },
        None if overlays.is_empty() => calico(devices, links, calicos),
        None => Cni::Overlay {
            links: overlays.into_iter().map(|device| device.name.clone()).collect(),
        },
    }
}

/// Its devices count where this node has an address on them: the kernel makes `tunl0` in every network namespace.
fn calico(
    devices: &[link::Device],
    links: &BTreeMap<LinkName, OtherLink>,
    routes: BTreeMap<Prefix, CniRoute>,
) -> Cni {
    let encapsulation = |device: &&link::Device| match (device.name.as_str(), device.kind.as_str()) {
        ("vxlan.calico" | "vxlan-v6.calico", "vxlan") => Some(Encapsulation::Vxlan),
        ("tunl0", "ipip") => Some(Encapsulation::Ipip),
        _ => None,
    };
    let used = devices.iter().filter(|device| {
        links
            .get(&device.name)
            .is_some_and(|link| !link.addresses.is_empty())
    });
    let used: BTreeMap<LinkName, Encapsulation> = used
        .filter_map(|device| Some((device.name.clone(), encapsulation(&device)?)))
        .collect();
    let has_pods = links.keys().any(|name| name.as_str().starts_with("cali"));
    if used.is_empty() && !has_pods {
        return Cni::Direct;
    }
    Cni::Calico {
        links: used,
        routes: Arc::new(routes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_of_pods_and_of_the_cni_are_known_by_their_names() {
        let is = |name: &str| is_cni(&LinkName::new(name).unwrap());
        for name in [
            "cni0",
            "flannel.1",
            "flannel-v6.1",
            "veth12ab",
            "cali1234",
            "eni0a1b2c3d4e5",
            "azv0a1b2c3d",
            "vxlan.calico",
            "wireguard.cali",
            "wg-v6.cali",
            "cilium_wg0",
            "tunl0",
            "kube-ipvs0",
            "docker0",
            "br-0a1b2c3d4e5f",
            "podman1",
        ] {
            assert!(is(name), "{name}");
        }
        for name in [
            "eth0",
            "ens3",
            "wlan0",
            "wg0",
            "lan",
            "br-lan",
            "br-ex",
            "wireguard0",
        ] {
            assert!(!is(name), "{name}");
        }
    }

    fn device(index: u32, name: &str, kind: &str) -> link::Device {
        link::Device {
            index,
            name: link_name(name),
            mtu: 1450,
            up: true,
            kind: kind.to_owned(),
            local: None,
            vxlan: None,
        }
    }

    fn link_name(name: &str) -> LinkName {
        LinkName::new(name).unwrap()
    }

    /// Returns the CNI of a machine with these devices, made one after the other, of which those marked have an address.
    fn found(devices: &[(&str, &str, bool)], routes: BTreeMap<Prefix, CniRoute>) -> Cni {
        let other = |addressed: bool| OtherLink {
            addresses: addressed
                .then(|| ("10.244.1.0".parse().unwrap(), 32))
                .into_iter()
                .collect(),
            ..OtherLink::default()
        };
        let links = devices.iter();
        let links = links.map(|(name, _, addressed)| (link_name(name), other(*addressed)));
        let numbered = (1..).zip(devices);
        let devices: Vec<_> = numbered
            .map(|(index, (name, kind, _))| device(index, name, kind))
            .collect();
        cni(&devices, &links.collect(), routes)
    }

    #[test]
    fn only_flannels_vxlan_is_an_overlay() {
        let overlay = Cni::Overlay {
            links: ["flannel-v6.1", "flannel.1"].map(link_name).into(),
        };
        let flannels = [
            ("eth0", "", true),
            ("flannel.1", "vxlan", true),
            ("flannel-v6.1", "vxlan", true),
        ];
        assert_eq!(found(&flannels, BTreeMap::new()), overlay);
        // Canal: Calico's pods on flannel's network.
        let canal = [&flannels[..], &[("cali12ab", "veth", false)]].concat();
        assert_eq!(found(&canal, BTreeMap::new()), overlay);
        assert_eq!(
            found(&[("eth0", "", true), ("cni0", "bridge", true)], BTreeMap::new()),
            Cni::Direct
        );
        let unsupported = |name: &str| Cni::Unsupported {
            link: link_name(name),
        };
        for (name, kind) in [
            ("flannel-wg", "wireguard"),
            ("flannel-wg", "tun"),
            ("flannel.ipip", "ipip"),
        ] {
            assert_eq!(
                found(&[("cni0", "bridge", true), (name, kind, true)], BTreeMap::new()),
                unsupported(name)
            );
        }
    }

    #[test]
    fn of_two_back_ends_of_flannel_the_later_one_is_in_use() {
        let (vxlan, v6) = (("flannel.1", "vxlan", true), ("flannel-v6.1", "vxlan", true));
        let overlay = |links: &[&str]| Cni::Overlay {
            links: links.iter().map(|name| link_name(name)).collect(),
        };
        for (name, kind) in [
            ("flannel-wg", "wireguard"),
            ("flannel.ipip", "ipip"),
            ("flannel0", "tun"),
        ] {
            let other = (name, kind, true);
            let link = link_name(name);
            let none = BTreeMap::new;
            assert_eq!(
                found(&[vxlan, other], none()),
                Cni::Unsupported { link: link.clone() }
            );
            assert_eq!(found(&[vxlan, v6, other], none()), Cni::Unsupported { link });
            assert_eq!(found(&[other, vxlan], none()), overlay(&["flannel.1"]));
            // It has been made again, as flannel does with one that fits no more.
            assert_eq!(
                found(&[v6, other, vxlan], none()),
                overlay(&["flannel-v6.1", "flannel.1"])
            );
        }
    }

    #[test]
    fn calico_is_known_by_its_devices_and_pods() {
        let calico = |links: &[(&str, Encapsulation)], routes: &BTreeMap<Prefix, CniRoute>| Cni::Calico {
            links: links.iter().map(|(name, how)| (link_name(name), *how)).collect(),
            routes: Arc::new(routes.clone()),
        };
        let none = BTreeMap::new();
        let eth0 = ("eth0", "", true);
        assert_eq!(
            found(&[eth0, ("vxlan.calico", "vxlan", true)], none.clone()),
            calico(&[("vxlan.calico", Encapsulation::Vxlan)], &none)
        );
        assert_eq!(
            found(&[eth0, ("tunl0", "ipip", true)], none.clone()),
            calico(&[("tunl0", Encapsulation::Ipip)], &none)
        );
        // Every network namespace has a tunl0 where the kernel has IPIP at all.
        assert_eq!(
            found(&[eth0, ("tunl0", "ipip", false)], BTreeMap::new()),
            Cni::Direct
        );
        let routes: BTreeMap<Prefix, CniRoute> = [(
            "10.244.9.0/26".parse().unwrap(),
            CniRoute {
                link: link_name("eth0"),
                via: "192.168.1.9".parse().unwrap(),
            },
        )]
        .into();
        // Others run BIRD, too.
        assert_eq!(found(&[eth0], routes.clone()), Cni::Direct);
        let pods = [eth0, ("cali12ab", "veth", false)];
        assert_eq!(found(&pods, routes.clone()), calico(&[], &routes));
    }
}

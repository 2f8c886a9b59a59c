//! How Calico's Felix is configured: with its eBPF data path a packet that is routed to a device which Felix does not know is
//! dropped, and the tunnel is such a device; its own WireGuard takes what is for pods of other nodes, and of what arrives by it drops
//! what is not from the node that sends it, as what a leader sends on is; sans I/O.
//!
//! Felix takes a setting from its environment too, which nothing in the cluster tells.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kube::runtime::watcher::Event;
use regex::Regex;
use spanwire_cluster::{observed::Observed, optional::OptionalEvent, store::ObjectStore, watch::filter_map};
use spanwire_crds::translate::{FelixConfiguration, FelixSpec};
use spanwire_topology::{Decision, HopMode, Location, LocationName, MeshMode, NodeName, carrier};

use super::{OperatorState, status::Degraded};

/// The configuration of all nodes.
const DEFAULT: &str = "default";
/// The UDP port of Calico's own WireGuard where nothing else is configured, and that of its device for IPv6
/// (`felix/config/config_params.go`).
const PORT: u16 = 51_820;
const PORT_V6: u16 = 51_821;

/// What is known of Felix.
#[derive(Debug, Default)]
pub(super) struct Felix {
    /// The name of the tunnel's device on nodes.
    link: String,
    texts: Texts,
    objects: ObjectStore<String, Arc<FelixSpec>>,
    /// What follows for nodes about which no object says anything.
    others: Verdict,
    /// What follows for those that have one.
    of_nodes: BTreeMap<String, Verdict>,
}

/// What to say of nodes on which it is so.
#[derive(Debug, Default)]
struct Texts {
    dropped: String,
    wrapped: String,
    /// By UDP port.
    taken: BTreeMap<u16, String>,
}

/// What Felix does on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Verdict {
    /// It drops what is routed to the tunnel.
    drops: bool,
    /// The UDP ports of its own WireGuard, where that carries what is for pods.
    ports: BTreeSet<u16>,
}

impl Felix {
    pub(super) fn new(link: String) -> Self {
        let texts = Texts {
            dropped: format!(
                "Calico's eBPF data path drops what is routed to {link}, which it does not know: set spec.bpfL3IfacePattern of the \
                 FelixConfiguration {DEFAULT}, and of that of the node if it has one, to match it, as ^{link}$ does"
            ),
            wrapped: format!(
                "Calico's own WireGuard (wireguardEnabled of the FelixConfiguration {DEFAULT}, or of that of the node) takes what \
                 comes from other locations for pods of other nodes of this one, and these drop it, for it is not from this node: set \
                 spec.hop of the Location to VXLAN, or switch it off"
            ),
            taken: BTreeMap::new(),
        };
        Self {
            link,
            texts,
            ..Self::default()
        }
    }

    /// Handles an event; returns whether Felix drops something else than before.
    fn handle(&mut self, event: OptionalEvent<Observed<FelixConfiguration>>) -> bool {
        match event {
            OptionalEvent::Absent => self.objects = ObjectStore::default(),
            // What is known stays.
            OptionalEvent::Refused => return false,
            OptionalEvent::Objects(event) => {
                // One that cannot be read says nothing.
                let gone = match &event {
                    Event::Apply(object) if object.object.is_none() => Some(object.name()),
                    Event::Delete(object) => Some(object.name()),
                    Event::Apply(_) | Event::Init | Event::InitApply(_) | Event::InitDone => None,
                };
                if let Some(name) = gone {
                    self.objects.forget(name.to_owned());
                } else {
                    let read = |object: Observed<FelixConfiguration>| {
                        Some((object.name().to_owned(), Arc::new(object.object?.spec)))
                    };
                    if let Some(event) = filter_map(event, read) {
                        self.objects.handle(event);
                    }
                }
            }
        }
        let (others, of_nodes) = self.judge();
        let changed = others != self.others || of_nodes != self.of_nodes;
        (self.others, self.of_nodes) = (others, of_nodes);
        let verdicts = self.of_nodes.values().chain([&self.others]);
        let ports = verdicts.flat_map(|verdict| &verdict.ports);
        self.texts.taken = ports.map(|port| (*port, taken(*port))).collect();
        changed
    }

    fn judge(&self) -> (Verdict, BTreeMap<String, Verdict>) {
        let none = FelixSpec::default();
        let spec = |name: &str| self.objects.objects().get(name);
        let default = spec(DEFAULT).map_or(&none, |spec| &**spec);
        let verdict = |node: &FelixSpec| Verdict {
            drops: drops(&self.link, node, default),
            ports: ports(node, default),
        };
        let of_nodes = self.objects.objects().iter().filter_map(|(name, spec)| {
            let node = name.strip_prefix("node.")?;
            Some((node.to_owned(), verdict(spec)))
        });
        (verdict(&none), of_nodes.collect())
    }

    fn on(&self, node: &NodeName) -> &Verdict {
        self.of_nodes.get(node.as_str()).unwrap_or(&self.others)
    }

    /// Returns whether it is as if there were none.
    fn does_nothing(&self) -> bool {
        let nothing = Verdict::default();
        self.of_nodes
            .values()
            .chain([&self.others])
            .all(|verdict| *verdict == nothing)
    }

    /// Returns whether pods of another node, which get through this leader what comes from other locations, get it by Calico's
    /// WireGuard.
    fn wraps(&self, leader: &NodeName, location: &Location) -> bool {
        let encrypts = |node: &NodeName| !self.on(node).ports.is_empty();
        if location.settings.hop == HopMode::Vxlan || !encrypts(leader) {
            return false;
        }
        location.members.keys().any(|node| {
            let is_behind = match location.settings.mode {
                MeshMode::Leaders => node != leader,
                MeshMode::Nodes => node != leader && carrier(location, node) == Some(leader),
            };
            is_behind && encrypts(node)
        })
    }
}

/// Returns what to say of a leader whose UDP port is that of Calico's WireGuard, too.
fn taken(port: u16) -> String {
    format!(
        "the UDP port {port} of its WireGuard is that of Calico's own WireGuard, too, so one of the two does not come up: set \
         wireguardListeningPort (of IPv6: wireguardListeningPortV6) of the FelixConfiguration {DEFAULT} to another, or listenPort of the chart"
    )
}

/// Returns the UDP ports at which Calico's WireGuard listens. A device for one family has its port in both.
fn ports(node: &FelixSpec, all: &FelixSpec) -> BTreeSet<u16> {
    let v4 = node.wireguard_enabled.or(all.wireguard_enabled).unwrap_or(false);
    let v6 = node
        .wireguard_enabled_v6
        .or(all.wireguard_enabled_v6)
        .unwrap_or(false);
    let port = node.wireguard_listening_port.or(all.wireguard_listening_port);
    let port_v6 = node
        .wireguard_listening_port_v6
        .or(all.wireguard_listening_port_v6);
    let v4 = v4.then(|| port.unwrap_or(PORT));
    let v6 = v6.then(|| port_v6.unwrap_or(PORT_V6));
    v4.into_iter().chain(v6).collect()
}

/// Returns whether Felix drops what is routed to a device. What is set for the node goes before what is set for all. A pattern that
/// cannot be read here may be one that Felix reads: then it is not said.
fn drops(link: &str, node: &FelixSpec, all: &FelixSpec) -> bool {
    let enabled = node.bpf_enabled.or(all.bpf_enabled).unwrap_or(false);
    let patterns = [
        node.bpf_l3_iface_pattern
            .as_ref()
            .or(all.bpf_l3_iface_pattern.as_ref()),
        node.bpf_data_iface_pattern
            .as_ref()
            .or(all.bpf_data_iface_pattern.as_ref()),
    ];
    // Felix knows no device by an empty pattern; in that of the LAN's devices which it has by itself there is no tunnel.
    let mut patterns = patterns
        .into_iter()
        .flatten()
        .filter(|pattern| !pattern.is_empty());
    enabled && patterns.all(|pattern| Regex::new(pattern).is_ok_and(|pattern| !pattern.is_match(link)))
}

impl OperatorState {
    /// Handles what is observed of FelixConfigurations.
    pub fn handle_felix(&mut self, event: OptionalEvent<Observed<FelixConfiguration>>) {
        let faulty = match &event {
            OptionalEvent::Absent => self.unreadable.clear(FelixConfiguration::OBJECT_KIND.1),
            OptionalEvent::Refused => false,
            OptionalEvent::Objects(event) => self.unreadable.handle(event),
        };
        self.dirty |= self.felix.handle(event) || faulty;
    }

    /// The active leaders of each location at which Calico's Felix keeps packets of the mesh from getting through, with why.
    pub(super) fn leaders_hindered_by_felix(
        &self,
        decision: &Decision,
    ) -> BTreeMap<LocationName, Vec<Degraded<'_>>> {
        let mut of_locations = BTreeMap::new();
        if self.felix.does_nothing() {
            return of_locations;
        }
        for (name, location) in &decision.mesh.locations {
            let leaders = location.leaders.iter();
            let known = leaders.filter_map(|leader| self.facts.nodes.get_key_value(&leader.node));
            let hindered = known.flat_map(|(node, _)| self.hindered(node, location));
            let hindered: Vec<Degraded<'_>> = hindered.collect();
            if !hindered.is_empty() {
                of_locations.insert(name.clone(), hindered);
            }
        }
        of_locations
    }

    fn hindered<'a>(&'a self, node: &'a NodeName, location: &Location) -> impl Iterator<Item = Degraded<'a>> {
        let (felix, texts) = (&self.felix, &self.felix.texts);
        let verdict = felix.on(node);
        let port = location.members.get(node).map(|member| member.listen_port);
        let taken = port.filter(|port| verdict.ports.contains(port));
        let taken = taken.and_then(|port| texts.taken.get(&port));
        let dropped = verdict.drops.then_some(&texts.dropped);
        let is_active = location.active().any(|active| active == node);
        let wrapped = (is_active && felix.wraps(node, location)).then_some(&texts.wrapped);
        let all = [dropped, taken, wrapped].into_iter().flatten();
        all.map(move |text| (node, text.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(enabled: Option<bool>, l3: Option<&str>, data: Option<&str>) -> FelixSpec {
        FelixSpec {
            bpf_enabled: enabled,
            bpf_l3_iface_pattern: l3.map(str::to_owned),
            bpf_data_iface_pattern: data.map(str::to_owned),
            ..FelixSpec::default()
        }
    }

    #[test]
    fn calicos_wireguard_listens_at_a_port_for_each_family_for_which_it_is_on() {
        let wireguard = |v4: Option<bool>, port, v6: Option<bool>, port_v6| FelixSpec {
            wireguard_enabled: v4,
            wireguard_listening_port: port,
            wireguard_enabled_v6: v6,
            wireguard_listening_port_v6: port_v6,
            ..FelixSpec::default()
        };
        let none = wireguard(None, None, None, None);
        let on = wireguard(Some(true), None, Some(true), None);
        let ports = |node: &FelixSpec, all: &FelixSpec| ports(node, all).into_iter().collect::<Vec<_>>();
        assert_eq!(ports(&none, &none), [0; 0]);
        assert_eq!(
            ports(&none, &wireguard(Some(false), Some(7), None, Some(8))),
            [0; 0]
        );
        assert_eq!(ports(&none, &on), [51_820, 51_821]);
        assert_eq!(
            ports(&none, &wireguard(Some(true), Some(51_833), None, None)),
            [51_833]
        );
        assert_eq!(
            ports(&none, &wireguard(None, None, Some(true), Some(51_834))),
            [51_834]
        );
        // What is set for the node counts.
        assert_eq!(ports(&wireguard(Some(false), None, None, None), &on), [51_821]);
        assert_eq!(ports(&wireguard(None, Some(9), Some(false), None), &on), [9]);
    }

    #[test]
    fn with_ebpf_a_device_that_no_pattern_matches_is_dropped_at() {
        let none = spec(None, None, None);
        let lan = Some("^(eth|en.*)");
        for (expected, node, all) in [
            (false, &none, spec(None, None, None)),
            (false, &none, spec(Some(false), None, None)),
            (true, &none, spec(Some(true), None, None)),
            (true, &none, spec(Some(true), Some(""), lan)),
            (true, &none, spec(Some(true), Some("^wg0$"), lan)),
            (false, &none, spec(Some(true), Some("^spanwire0$"), lan)),
            // A part of the name is enough, as for Felix.
            (false, &none, spec(Some(true), Some("span"), None)),
            (false, &none, spec(Some(true), None, Some("^(eth.*|spanwire0)$"))),
            // It is not known what Felix makes of it.
            (false, &none, spec(Some(true), Some("("), None)),
            // What is said of the node counts.
            (
                false,
                &spec(Some(false), None, None),
                spec(Some(true), None, None),
            ),
            (true, &spec(Some(true), None, None), spec(None, None, None)),
            (
                false,
                &spec(None, Some("spanwire.*"), None),
                spec(Some(true), Some("^wg0$"), None),
            ),
            (
                true,
                &spec(None, Some("^wg0$"), None),
                spec(Some(true), Some("spanwire.*"), None),
            ),
        ] {
            assert_eq!(drops("spanwire0", node, &all), expected, "{node:?} {all:?}");
        }
    }
}

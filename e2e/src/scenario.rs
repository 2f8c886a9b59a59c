//! A scenario: what a lab consists of, as users write it in a file.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::profile::Profile;

/// As many nodes of a location have room for their pods' addresses in a LAN of the cni `cloud`.
const CLOUD_NODES: usize = 8;

/// A cluster of several locations, and what lies between them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scenario {
    /// What holds for all locations.
    #[serde(default)]
    pub network: Network,
    /// The locations; the control plane runs on the first node of the first.
    pub locations: Vec<Location>,
    /// What other programs and networks do to hosts, by node.
    #[serde(default)]
    pub hosts: BTreeMap<String, Vec<Profile>>,
    /// Values for the chart, as in a values file.
    #[serde(default)]
    pub values: serde_json::Map<String, serde_json::Value>,
    /// The cluster has what Kubernetes' own tests expect of one.
    #[serde(default)]
    pub conformance: bool,
}

/// Properties of the network as a whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Network {
    /// IP families of nodes, pods and services, the first one being preferred.
    pub families: Vec<Family>,
    /// MTU of every segment.
    pub mtu: u16,
    /// How the CNI carries packets inside a location.
    pub cni: Cni,
    /// How kube-proxy works.
    pub proxy: Proxy,
    /// Whether the locations reach each other's nodes by plain routing.
    pub routers: Routers,
    /// A LAN drops packets whose source or destination is not one of its own or the world's.
    pub strict_lans: bool,
    /// Strict reverse path filter on every device of every node.
    pub strict_reverse_path: bool,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            families: vec![Family::V4],
            mtu: 1500,
            cni: Cni::Vxlan,
            proxy: Proxy::Nftables,
            routers: Routers::Closed,
            strict_lans: true,
            strict_reverse_path: false,
        }
    }
}

/// An IP family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    #[serde(rename = "ipv4")]
    V4,
    /// IPv6.
    #[serde(rename = "ipv6")]
    V6,
}

/// A back-end of flannel, or what the lab imitates: Calico in one of its modes, or a cloud's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Cni {
    /// Flannel: packets between nodes travel in VXLAN.
    Vxlan,
    /// Flannel: packets between nodes travel as they are; wants `strictLans: false`.
    HostGw,
    /// Calico: packets between nodes travel in VXLAN.
    CalicoVxlan,
    /// Calico: the same between subnets, as they are inside of one. A location has two subnets, of which the second begins with
    /// its third node.
    CalicoCrossSubnet,
    /// Calico: BGP, and packets between nodes travel as they are.
    CalicoBgp,
    /// A cloud's: pods have addresses of the LAN, which delivers by who owns an address; no node has a network.
    Cloud,
}

impl Cni {
    /// Returns whether it is Calico's.
    pub fn is_calico(self) -> bool {
        match self {
            Self::Vxlan | Self::HostGw | Self::Cloud => false,
            Self::CalicoVxlan | Self::CalicoCrossSubnet | Self::CalicoBgp => true,
        }
    }

    /// Returns whether it is flannel's.
    pub fn is_flannel(self) -> bool {
        match self {
            Self::Vxlan | Self::HostGw => true,
            Self::CalicoVxlan | Self::CalicoCrossSubnet | Self::CalicoBgp | Self::Cloud => false,
        }
    }

    /// Returns whether addresses of pods are seen on the LAN.
    pub fn is_bare(self) -> bool {
        match self {
            Self::Vxlan | Self::CalicoVxlan => false,
            Self::HostGw | Self::CalicoCrossSubnet | Self::CalicoBgp | Self::Cloud => true,
        }
    }
}

/// A mode of kube-proxy; flannel uses the same kind of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proxy {
    /// nftables.
    Nftables,
    /// iptables.
    Iptables,
}

/// What the routers let through between locations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Routers {
    /// Nothing but port forwards; the internet drops private addresses.
    Closed,
    /// Every LAN reaches every other LAN by plain routing.
    Open,
}

/// One location: a LAN behind a router.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Location {
    /// Its name.
    pub name: String,
    /// MTU of its LAN, if it is not the network's.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// Calico's mode here, if it is not the network's.
    #[serde(default)]
    pub cni: Option<Cni>,
    /// Its nodes.
    pub nodes: Vec<Node>,
}

/// One node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// The UDP port of the router's internet address that is forwarded to this node's WireGuard port.
    #[serde(default)]
    pub forward: Option<u16>,
    /// Annotations, besides the location and, with a `forward`, the endpoint.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Settings of its kernel below `net`, made before it has any device; by name.
    #[serde(default)]
    pub sysctls: BTreeMap<String, i64>,
    /// It has a second network card, with an address and pods of its own; with the cni `cloud`.
    #[serde(default)]
    pub second_card: bool,
}

impl Scenario {
    /// Reads a scenario from a file and checks it.
    pub fn load(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is not a scenario", path.display()))
    }

    /// Reads a scenario from YAML and checks it.
    pub fn parse(text: &str) -> Result<Self> {
        let scenario: Self = serde_saphyr::from_str(text)?;
        scenario.check()?;
        Ok(scenario)
    }

    /// Returns whether a family is in use.
    pub fn has(&self, family: Family) -> bool {
        self.network.families.contains(&family)
    }

    /// Returns how the CNI carries packets inside a location.
    pub fn cni_of(&self, location: &Location) -> Cni {
        location.cni.unwrap_or(self.network.cni)
    }

    /// Returns the same with another CNI, and what each needs besides.
    ///
    /// # Errors
    /// It does not fit to the rest of the scenario.
    pub fn with_cni(mut self, cni: Cni) -> Result<Self> {
        self.network.cni = cni;
        self.network.strict_lans = self.network.strict_lans && cni != Cni::HostGw;
        // What is imitated of a cloud's own rules is made with iptables, which nftables rules of kube-proxy would not see.
        if cni == Cni::Cloud {
            self.network.proxy = Proxy::Iptables;
        }
        self.check()?;
        Ok(self)
    }

    /// Returns the same nodes in one location, the first.
    ///
    /// # Errors
    /// They do not fit into one.
    pub fn in_one_location(mut self) -> Result<Self> {
        let mut locations = self.locations.into_iter();
        let mut one = locations.next().context("there is no location")?;
        for node in locations.flat_map(|location| location.nodes) {
            one.nodes.push(Node {
                forward: None,
                ..node
            });
        }
        self.locations = vec![one];
        self.check()?;
        Ok(self)
    }

    fn check(&self) -> Result<()> {
        let nodes = self.locations.iter().flat_map(|l| &l.nodes);
        ensure!(nodes.clone().next().is_some(), "there is no node in it");
        ensure!(self.locations.len() <= 80, "at most 80 locations are possible");
        let mut names = BTreeSet::new();
        for name in self
            .locations
            .iter()
            .map(|l| &l.name)
            .chain(nodes.map(|n| &n.name))
        {
            check_name(name)?;
            ensure!(
                names.insert(name),
                "the name {name} stands for two things; name locations and nodes apart"
            );
        }
        for name in self
            .locations
            .iter()
            .flat_map(|l| &l.nodes)
            .flat_map(|n| n.sysctls.keys())
        {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            ensure!(
                name.starts_with("net.") && name.bytes().all(plain),
                "the sysctl {name:?} is none of a node's network: say net.…"
            );
        }
        for location in &self.locations {
            let mut ports = BTreeSet::new();
            for port in location.nodes.iter().filter_map(|n| n.forward) {
                ensure!(
                    ports.insert(port),
                    "location {} forwards port {port} to two nodes",
                    location.name
                );
            }
            ensure!(
                location.nodes.len() <= 200,
                "location {} has more than 200 nodes",
                location.name
            );
        }
        let network = &self.network;
        match network.families.as_slice() {
            [Family::V4] | [Family::V4, Family::V6] => {}
            other => bail!("families {other:?}: say [ipv4] or [ipv4, ipv6]"),
        }
        ensure!(
            network.cni != Cni::HostGw || !network.strict_lans,
            "cni host-gw puts pod addresses on the LAN, which a strict LAN drops: say strictLans: false"
        );
        let calico = network.cni.is_calico();
        for location in &self.locations {
            ensure!(
                location.cni.is_none_or(|cni| calico && cni.is_calico()),
                "location {}: one mode of Calico can be named where network.cni is another",
                location.name
            );
            let halves = self.cni_of(location) == Cni::CalicoCrossSubnet;
            ensure!(
                !halves || location.nodes.len() <= 100,
                "location {} has two subnets and more than 100 nodes",
                location.name
            );
        }
        ensure!(
            network.cni.is_flannel() || network.families == [Family::V4],
            "Calico and clouds are imitated with IPv4 alone: say families: [ipv4]"
        );
        self.check_cloud()?;
        self.check_hosts()
    }

    fn check_cloud(&self) -> Result<()> {
        let cloud = self.network.cni == Cni::Cloud;
        for location in &self.locations {
            ensure!(
                !cloud || location.nodes.len() <= CLOUD_NODES,
                "location {} of a cloud has more than {CLOUD_NODES} nodes",
                location.name
            );
            for node in location.nodes.iter().filter(|node| node.second_card) {
                ensure!(cloud, "secondCard of {}: say network.cni: cloud", node.name);
            }
        }
        Ok(())
    }

    fn check_hosts(&self) -> Result<()> {
        let nodes = self.locations.iter().flat_map(|l| &l.nodes);
        let names: Vec<_> = nodes.map(|node| node.name.as_str()).collect();
        for (host, profiles) in &self.hosts {
            ensure!(
                names.contains(&host.as_str()),
                "hosts: there is no node {host}; there are {}",
                names.join(", ")
            );
            let different: BTreeSet<_> = profiles.iter().collect();
            ensure!(
                different.len() == profiles.len(),
                "hosts: {host} has a profile twice"
            );
        }
        let external = |node: &&Node| {
            let profiles = self.hosts.get(&node.name).into_iter().flatten();
            profiles
                .into_iter()
                .any(|profile| *profile == Profile::ExternalVtep)
        };
        for Location { name, nodes, .. } in &self.locations {
            let count = nodes.iter().filter(external).count();
            ensure!(
                count <= 1,
                "hosts: one of location {name} can be external-vtep, for the router has one internet address"
            );
            ensure!(
                count == 0 || self.network.cni == Cni::Vxlan,
                "hosts: external-vtep needs the cni vxlan"
            );
        }
        Ok(())
    }
}

fn check_name(name: &str) -> Result<()> {
    let fits = (1..=12).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    ensure!(
        fits,
        "the name {name:?} does not fit: 1 to 12 of a-z, 0-9 and, inside, -"
    );
    ensure!(
        !["internet", "outside"].contains(&name),
        "the name {name} is the lab's own; take another for this location or node"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejects(text: &str, because: &str) {
        let error = format!("{:#}", Scenario::parse(text).unwrap_err());
        assert!(error.contains(because), "{error}");
    }

    #[test]
    fn a_short_scenario_gets_the_defaults() {
        let s = Scenario::parse("locations: [{name: a, nodes: [{name: a1}]}]").unwrap();
        assert_eq!(s.network.mtu, 1500);
        assert_eq!(s.network.cni, Cni::Vxlan);
        assert!(s.network.strict_lans);
    }

    #[test]
    fn mistakes_are_named() {
        rejects("locations: []", "no node");
        rejects("locations: [{name: a, nodes: [{name: a}]}]", "two things");
        rejects("locations: [{name: A, nodes: [{name: a}]}]", "does not fit");
        rejects(
            "{network: {cni: host-gw}, locations: [{name: a, nodes: [{name: a1}]}]}",
            "strictLans: false",
        );
        rejects(
            "locations: [{name: a, cni: calico-bgp, nodes: [{name: a1}]}]",
            "network.cni",
        );
        rejects(
            "{network: {cni: calico-vxlan, families: [ipv4, ipv6]}, locations: [{name: a, nodes: [{name: a1}]}]}",
            "IPv4 alone",
        );
        rejects(
            "{network: {cni: cloud, families: [ipv4, ipv6]}, locations: [{name: a, nodes: [{name: a1}]}]}",
            "IPv4 alone",
        );
        rejects(
            "locations: [{name: a, nodes: [{name: a1, secondCard: true}]}]",
            "network.cni: cloud",
        );
        let nine: Vec<_> = (1..=9).map(|number| format!("{{name: a{number}}}")).collect();
        rejects(
            &format!(
                "{{network: {{cni: cloud}}, locations: [{{name: a, nodes: [{}]}}]}}",
                nine.join(", ")
            ),
            "more than 8 nodes",
        );
        rejects(
            "{network: {families: [ipv6]}, locations: [{name: a, nodes: [{name: a1}]}]}",
            "families",
        );
        rejects(
            "locations: [{name: a, nodes: [{name: a1, forward: 1}, {name: a2, forward: 1}]}]",
            "two nodes",
        );
        rejects(
            "locations: [{name: a, nodes: [{name: a1, sysctls: {vm.swappiness: 1}}]}]",
            "vm.swappiness",
        );
        rejects(
            "{locations: [{name: a, nodes: [{name: a1}]}], colour: red}",
            "colour",
        );
    }

    fn with_hosts(hosts: &str, cni: &str) -> Result<Scenario> {
        Scenario::parse(&format!(
            "{{network: {{cni: {cni}, strictLans: false}}, hosts: {{{hosts}}}, locations: [{{name: a, nodes: [{{name: a1}}, {{name: a2}}]}}]}}"
        ))
    }

    fn hosts_are_rejected(hosts: &str, cni: &str, words: &[&str]) {
        let error = format!("{:#}", with_hosts(hosts, cni).unwrap_err());
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }

    #[test]
    fn an_unknown_profile_is_refused_with_those_that_there_are() {
        hosts_are_rejected(
            "a1: [dokcer]",
            "vxlan",
            &[
                "dokcer",
                "docker",
                "firewalld",
                "wide-lan",
                "no-ipv6",
                "router-advertisements",
            ],
        );
        hosts_are_rejected(
            "a1: [dokcer]",
            "vxlan",
            &["vpn-rules", "foreign-marks", "external-vtep", "stale-node"],
        );
    }

    #[test]
    fn profiles_of_hosts_that_are_no_nodes_and_of_two_external_ends_are_refused() {
        hosts_are_rejected("b1: [docker]", "vxlan", &["b1", "a1, a2"]);
        hosts_are_rejected("a1: [docker, docker]", "vxlan", &["a1", "twice"]);
        hosts_are_rejected(
            "a1: [external-vtep], a2: [external-vtep]",
            "vxlan",
            &["external-vtep"],
        );
        hosts_are_rejected("a1: [external-vtep]", "host-gw", &["vxlan"]);
        with_hosts("a1: [docker, wide-lan], a2: [external-vtep]", "vxlan").unwrap();
    }

    #[test]
    fn another_cni_brings_what_it_needs() {
        let text = "locations: [{name: a, nodes: [{name: a1, forward: 1}]}, {name: b, nodes: [{name: b1, forward: 1}]}]";
        let with = |cni| Scenario::parse(text).unwrap().with_cni(cni).unwrap().network;
        assert!(!with(Cni::HostGw).strict_lans);
        assert_eq!(with(Cni::Cloud).proxy, Proxy::Iptables);
        let vxlan = with(Cni::Vxlan);
        assert!(vxlan.strict_lans && vxlan.proxy == Proxy::Nftables);
    }

    #[test]
    fn all_nodes_fit_into_one_location() {
        let text = "locations: [{name: a, nodes: [{name: a1, forward: 1}]}, {name: b, nodes: [{name: b1, forward: 1}, {name: b2}]}]";
        let one = Scenario::parse(text).unwrap().in_one_location().unwrap();
        let names: Vec<_> = one.locations[0].nodes.iter().map(|node| &*node.name).collect();
        assert_eq!((one.locations.len(), names), (1, vec!["a1", "b1", "b2"]));
    }

    #[test]
    fn every_example_is_a_scenario() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/lab");
        let files = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let yaml: Vec<_> = files
            .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
            .collect();
        assert!(!yaml.is_empty());
        for path in yaml {
            Scenario::load(&path).unwrap();
        }
    }
}

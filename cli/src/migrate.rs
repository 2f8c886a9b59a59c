//! What Kilo's annotations and Peers are as Spanwire's, and what of them means something else here.

mod kilo;
mod script;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Value, json};
use spanwire_crds::{
    annotations::{self, KILO},
    names,
};

pub use self::{kilo::DaemonSet, script::Installation};
use crate::table::joined;

/// What is to be written, and what is to be known.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// The annotations, by node.
    pub annotations: BTreeMap<String, BTreeMap<String, String>>,
    /// What of Kilo runs, and how its devices are removed.
    pub kilo: Option<Kilo>,
    /// The values of the chart by which Spanwire has what Kilo has.
    pub values: Vec<String>,
    /// The Peers, as objects.
    pub peers: Vec<Value>,
    /// The Peers that have a preshared key.
    pub preshared: Vec<String>,
    /// What means something else here, or cannot be taken over.
    pub notes: Vec<String>,
}

/// Kilo as it runs, and what removes its devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Kilo {
    /// Its DaemonSets.
    pub daemon_sets: Vec<DaemonSet>,
    /// Its devices.
    pub devices: BTreeSet<String>,
    /// The namespace in which they are removed.
    pub namespace: String,
    /// The image by which they are removed, which has a shell and `ip`.
    pub image: String,
    /// The Secrets by which that is pulled.
    pub pull_secrets: Vec<String>,
}

/// What is read of a cluster with Kilo.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found<'a> {
    /// The Nodes.
    pub nodes: &'a [Value],
    /// Kilo's Peers.
    pub peers: &'a [Value],
    /// The DaemonSets.
    pub daemon_sets: &'a [Value],
}

/// Returns what is to be done. `image` removes Kilo's devices; `None`: that of Kilo.
///
/// # Errors
/// What has to be done before, since no script can.
pub fn report(found: &Found<'_>, image: Option<&str>) -> Result<Report, String> {
    let mut report = Report::default();
    let sets: Vec<DaemonSet> = found.daemon_sets.iter().filter_map(DaemonSet::of).collect();
    let port = sets.first().map_or("51820", DaemonSet::port);
    for node in found.nodes {
        report.node(node, port);
    }
    for peer in found.peers {
        report.peer(peer);
    }
    if sets.is_empty() && report.annotations.is_empty() && report.peers.is_empty() {
        return Ok(report);
    }
    if let Some(set) = sets.iter().find(|set| set.is_cni()) {
        let shared = shared(found.nodes, set.topology_label());
        if let Some((location, nodes)) = shared {
            return Err(format!(
                "Kilo is the CNI of this cluster (the DaemonSet {}/{} has no --cni=false): without it pods of {} do not reach each other, \
                 which are nodes of one location{}. Spanwire is no CNI. Have another one installed first",
                set.namespace,
                set.name,
                joined(&nodes),
                location.map(|name| format!(", {name}")).unwrap_or_default()
            ));
        }
        report.notes.push(
            "Kilo is the CNI: its bridges and their configuration stay on the nodes, and nodes that are new get none".to_owned(),
        );
    }
    report.of_kilo(sets, image)?;
    Ok(report)
}

/// Returns a location that several nodes are of, and these, where there is one.
fn shared(nodes: &[Value], label: &str) -> Option<(Option<String>, Vec<String>)> {
    let mut locations: BTreeMap<Option<String>, Vec<String>> = BTreeMap::new();
    for node in nodes {
        let meta = &node["metadata"];
        let location = meta["annotations"][format!("{KILO}location")].as_str();
        let location = location
            .or_else(|| meta["labels"][label].as_str())
            .map(str::to_owned);
        let name = meta["name"].as_str().unwrap_or_default().to_owned();
        locations.entry(location).or_default().push(name);
    }
    locations.into_iter().find(|(_, nodes)| nodes.len() > 1)
}

impl Report {
    fn node(&mut self, node: &Value, port: &str) {
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        let found = node["metadata"]["annotations"].as_object().into_iter().flatten();
        let found: BTreeMap<String, String> = found
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect();
        // What Spanwire's own say stands already.
        let kilos = found.iter().filter(|(key, _)| key.starts_with(KILO));
        let kilos: BTreeMap<String, String> =
            kilos.map(|(key, value)| (key.clone(), value.clone())).collect();
        let (said, problems) = annotations::parse(&kilos, true);
        self.notes
            .extend(problems.iter().map(|problem| format!("node {name}: {problem}")));
        let mut write = BTreeMap::new();
        let mut set = |key: &str, value: Option<String>| {
            let value = value.filter(|_| !found.contains_key(key));
            write.extend(value.map(|value| (key.to_owned(), value)));
        };
        set(
            annotations::LOCATION,
            said.location.as_ref().map(ToString::to_string),
        );
        set(
            annotations::ENDPOINT,
            (!said.endpoints.is_empty()).then(|| joined(&said.endpoints)),
        );
        set(annotations::INTERNAL_IP, said.internal.as_ref().map(joined));
        set(annotations::LEADER, said.leader.map(|leader| leader.to_string()));
        set(
            annotations::PERSISTENT_KEEPALIVE,
            said.keepalive.map(|keepalive| keepalive.0.to_string()),
        );
        set(
            annotations::LOCATION_CIDRS,
            (!said.cidrs.is_empty()).then(|| joined(&said.cidrs)),
        );
        set(
            annotations::LISTEN_PORT,
            said.listen_port.map(|port| port.to_string()),
        );
        self.meanings(name, &kilos, port);
        if !write.is_empty() {
            self.annotations.insert(name.to_owned(), write);
        }
    }

    /// What a value means to Kilo and not to Spanwire.
    fn meanings(&mut self, name: &str, kilos: &BTreeMap<String, String>, port: &str) {
        let of = |key: &str| kilos.get(&format!("{KILO}{key}"));
        let mut note = |text: String| self.notes.push(format!("node {name}: {text}"));
        if of("force-endpoint").is_some() {
            note(format!(
                "the port of {KILO}force-endpoint is Kilo's; Spanwire listens on {port} unless {} says otherwise, and the \
                 router must forward to that",
                annotations::LISTEN_PORT
            ));
        }
        if of("force-internal-ip").is_some_and(|value| value.trim().is_empty()) {
            note(format!(
                "an empty {KILO}force-internal-ip hides the node's addresses; that is written - here"
            ));
        }
        if let Some(value) = of("location") {
            let folded = value.to_ascii_lowercase().replace('_', "-");
            if folded != *value {
                note(format!(
                    "the location {value} becomes {folded}: names of locations are lower case, with - for _"
                ));
            }
        }
        for unknown in ["force-internal-ip6", "wireguard-ip", "discovered-endpoints"] {
            if of(unknown).is_some() {
                note(format!("{KILO}{unknown} has nothing that it would be here"));
            }
        }
    }

    fn peer(&mut self, peer: &Value) {
        let (name, spec) = (
            peer["metadata"]["name"].as_str().unwrap_or_default(),
            &peer["spec"],
        );
        let mut ours = json!({"publicKey": spec["publicKey"], "allowedIPs": spec["allowedIPs"]});
        let endpoint = &spec["endpoint"];
        let host = endpoint["dns"]
            .as_str()
            .or_else(|| endpoint["ip"].as_str())
            .or_else(|| {
                let nested = &endpoint["dnsOrIP"];
                nested["dns"].as_str().or_else(|| nested["ip"].as_str())
            });
        if let (Some(host), Some(port)) = (host, endpoint["port"].as_u64()) {
            let host = if host.contains(':') {
                format!("[{host}]")
            } else {
                host.to_owned()
            };
            ours["endpoint"] = format!("{host}:{port}").into();
        }
        if let Some(seconds) = spec["persistentKeepalive"]
            .as_u64()
            .filter(|seconds| *seconds > 0)
        {
            ours["persistentKeepalive"] = seconds.into();
        }
        if spec["presharedKey"].as_str().is_some_and(|key| !key.is_empty()) {
            self.notes.push(format!(
                "peer {name}: its preshared key, which Kilo has in the Peer for all to read who read Peers, goes into the Secret {} \
                 (step 4); it stays the same",
                names::PRESHARED_KEYS
            ));
            ours["presharedKeySecretRef"] = json!({"name": names::PRESHARED_KEYS, "key": name});
            self.preshared.push(name.to_owned());
        }
        self.peers.push(json!({"apiVersion": names::API_VERSION, "kind": "Peer", "metadata": {"name": name}, "spec": ours}));
    }

    /// Enters Kilo itself.
    fn of_kilo(&mut self, sets: Vec<DaemonSet>, image: Option<&str>) -> Result<(), String> {
        let first = sets.first();
        let image = image.or_else(|| first.map(|set| set.image.as_str()));
        let image = image.ok_or(
            "no DaemonSet runs Kilo, so it is not known by which image its devices can be removed: name one that has a shell and `ip` with \
             --image, which also shows that they are gone",
        )?;
        let devices = sets.iter().map(|set| set.interface().to_owned());
        let mut devices: BTreeSet<String> = devices.collect();
        if devices.is_empty() {
            devices.insert(kilo::INTERFACE.to_owned());
        }
        if let Some(odd) = devices.iter().find(|device| !script::is_plain(device)) {
            return Err(format!(
                "{odd} is no name of a device; look at --interface of Kilo's DaemonSet"
            ));
        }
        for set in &sets {
            let (device, subnet) = (set.interface(), set.subnet());
            self.notes.push(format!(
                "{device} has addresses of {subnet}, which nodes do not keep: Spanwire gives them others, of 10.4.0.0/16 unless the chart's \
                 value overlay says otherwise. What names a node by such an address has to be changed"
            ));
            if set.is_full() {
                self.notes.push(
                    "Kilo's --mesh-granularity=full has nodes of one location talk by WireGuard; here they do where their Location says \
                     `mesh: Nodes`"
                        .to_owned(),
                );
            }
            if !set.cleans_up() {
                self.notes.push(
                    "with --clean-up=false Kilo leaves its iptables rules and ip rules on the nodes when it ends; a reboot removes them"
                        .to_owned(),
                );
            }
        }
        self.values = first.map(DaemonSet::values).unwrap_or_default();
        self.kilo = Some(Kilo {
            namespace: first
                .map_or("kube-system", |set| set.namespace.as_str())
                .to_owned(),
            image: image.to_owned(),
            pull_secrets: first.map(|set| set.pull_secrets.clone()).unwrap_or_default(),
            daemon_sets: sets,
            devices,
        });
        Ok(())
    }

    /// Returns what is written for people: the script, where there is something to do.
    #[must_use]
    pub fn text(&self, installation: &Installation) -> String {
        if self.kilo.is_none() {
            return "# Nothing of Kilo's was found.\n".to_owned();
        }
        self.script(installation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(annotations: Value) -> Value {
        json!({"metadata": {"name": "a1", "annotations": annotations}})
    }

    fn daemon_set(arguments: &[&str]) -> Value {
        json!({"metadata": {"namespace": "kilo", "name": "kg"},
            "spec": {"template": {"spec": {"containers": [{"image": "squat/kilo:1", "args": arguments}]}}}})
    }

    fn of(nodes: &[Value], peers: &[Value], sets: &[Value]) -> Result<Report, String> {
        let daemon_sets = sets;
        report(
            &Found {
                nodes,
                peers,
                daemon_sets,
            },
            None,
        )
    }

    fn text(report: &Report) -> String {
        report.text(&Installation {
            namespace: "mesh".to_owned(),
            chart: "charts/spanwire".to_owned(),
        })
    }

    fn line_of(text: &str, part: &str) -> usize {
        let found = text.lines().position(|line| line.contains(part));
        found.unwrap_or_else(|| panic!("{part}: {text}"))
    }

    #[test]
    fn annotations_become_ours_and_what_stands_already_stays() {
        let node = node(json!({
            "kilo.squat.ai/location": "GCP_West", "kilo.squat.ai/leader": "false",
            "kilo.squat.ai/force-endpoint": "203.0.113.11:51820", "kilo.squat.ai/force-internal-ip": "",
            "kilo.squat.ai/persistent-keepalive": "25", "spanwire.dev/persistent-keepalive": "10",
            "kilo.squat.ai/allowed-location-ips": "172.20.0.5/24", "example.com/other": "x",
        }));
        let report = of(&[node], &[], &[daemon_set(&["--port=51821"])]).unwrap();
        let expected = [
            ("spanwire.dev/endpoint", "203.0.113.11:51820"),
            ("spanwire.dev/internal-ip", "-"),
            ("spanwire.dev/leader", "true"),
            ("spanwire.dev/location", "gcp-west"),
            ("spanwire.dev/location-cidrs", "172.20.0.0/24"),
        ];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(report.annotations["a1"], expected.into());
        for said in [
            "GCP_West becomes gcp-west",
            "presence of this key",
            "force-internal-ip hides",
            "force-endpoint is Kilo's; Spanwire listens on 51821",
            "kilo0 has addresses of 10.4.0.0/16",
        ] {
            assert!(
                report.notes.iter().any(|note| note.contains(said)),
                "{said}: {:?}",
                report.notes
            );
        }
    }

    #[test]
    fn peers_become_ours() {
        let peer = json!({"metadata": {"name": "p"}, "spec": {
            "publicKey": "k", "allowedIPs": ["10.99.0.1/32"], "presharedKey": "the-secret", "persistentKeepalive": 0,
            "endpoint": {"dnsOrIP": {"ip": "2001:db8::1"}, "port": 51820}}});
        let report = of(&[], &[peer], &[daemon_set(&[])]).unwrap();
        let spec = json!({"publicKey": "k", "allowedIPs": ["10.99.0.1/32"], "endpoint": "[2001:db8::1]:51820",
            "presharedKeySecretRef": {"name": "spanwire-preshared-keys", "key": "p"}});
        assert_eq!(report.peers[0]["spec"], spec);
        assert!(report.notes[0].contains("goes into the Secret spanwire-preshared-keys"));
        let script = text(&report);
        assert!(
            script.contains("kubectl -n mesh create secret generic spanwire-preshared-keys")
                && !script.contains("the-secret"),
            "{script}"
        );
        let without = [json!({"metadata": {"name": "p"}, "spec": {"publicKey": "k"}})];
        assert!(!text(&of(&[], &without, &[daemon_set(&[])]).unwrap()).contains("secret"));
    }

    #[test]
    fn what_an_object_says_is_no_command_of_the_script() {
        let peer = json!({"metadata": {"name": "p"}, "spec": {"allowedIPs": [],
            "publicKey": "$(touch /tmp/x)\nEND_OF_PEERS\ntouch /tmp/y"}});
        let script = text(&of(&[], &[peer], &[daemon_set(&[])]).unwrap());
        let (_, peers) = script.split_once("<<'END_OF_PEERS'\n").unwrap();
        let ends = peers.lines().filter(|line| *line == "END_OF_PEERS").count();
        let (inside, _) = peers.split_once("\nEND_OF_PEERS\n").unwrap();
        assert!(ends == 1 && inside.contains("touch /tmp/y"), "{script}");
        let odd = of(&[], &[], &[daemon_set(&["--interface=x;reboot"])]);
        assert!(odd.unwrap_err().contains("no name of a device"));
    }

    #[test]
    fn kilo_is_out_of_every_node_before_spanwire_is_in() {
        let sets = [daemon_set(&["--interface=wg7", "--port=51821"])];
        let script = text(&of(&[], &[], &sets).unwrap());
        let order = [
            "set -euo pipefail",
            "may delete daemonsets.apps -n kilo",
            "kubectl -n kilo delete daemonset kg",
            "ip link delete wg7",
            "rollout status daemonset/kilo-removal",
            "helm upgrade --install spanwire charts/spanwire --namespace mesh --create-namespace",
            "--set listenPort=51821",
        ];
        assert!(order.map(|part| line_of(&script, part)).is_sorted(), "{script}");
        let commented = script
            .lines()
            .filter(|line| line.starts_with('#') && line.contains("helm install"));
        assert_eq!(commented.count(), 0, "{script}");
    }

    #[test]
    fn what_no_script_can_do_is_refused() {
        let nodes = |locations: [&str; 2]| {
            let node = |(index, location): (usize, &str)| json!({"metadata": {"name": format!("n{index}"), "annotations": {"kilo.squat.ai/location": location}}});
            locations.into_iter().enumerate().map(node).collect::<Vec<_>>()
        };
        let why = of(&nodes(["a", "a"]), &[], &[daemon_set(&[])]).unwrap_err();
        assert!(
            why.contains("kilo/kg has no --cni=false")
                && why.contains("n0,n1")
                && why.contains("location, a."),
            "{why}"
        );
        assert!(of(&nodes(["a", "a"]), &[], &[daemon_set(&["--cni=false"])]).is_ok());
        let single = of(&nodes(["a", "b"]), &[], &[daemon_set(&[])]).unwrap();
        assert!(
            single.notes.iter().any(|note| note.contains("its bridges")),
            "{:?}",
            single.notes
        );
        // Kilo was deleted, and left its devices.
        let why = of(&nodes(["a", "b"]), &[], &[]).unwrap_err();
        assert!(why.contains("--image"), "{why}");
        let found = Found {
            nodes: &nodes(["a", "b"]),
            ..Found::default()
        };
        let kilo = report(&found, Some("busybox")).unwrap().kilo.unwrap();
        assert_eq!(
            (kilo.image.as_str(), kilo.namespace.as_str()),
            ("busybox", "kube-system")
        );
        assert_eq!(kilo.devices, ["kilo0".to_owned()].into());
    }

    #[test]
    fn a_cluster_without_kilo_has_nothing_to_migrate() {
        let node = node(json!({"spanwire.dev/location": "a"}));
        let report = of(&[node], &[], &[]).unwrap();
        assert_eq!(report, Report::default());
        assert!(text(&report).starts_with("# Nothing"));
    }
}

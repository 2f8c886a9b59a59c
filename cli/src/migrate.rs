//! What Kilo's annotations and Peers are as Spanwire's, and what of them means something else here.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;
use serde_json::{Value, json};
use spanwire_crds::{
    annotations::{self, KILO},
    names,
};

use crate::table::joined;

/// What is to be written, and what is to be known.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// The annotations, by node.
    pub annotations: BTreeMap<String, BTreeMap<String, String>>,
    /// The Peers, as objects.
    pub peers: Vec<Value>,
    /// The Peers that have a preshared key.
    pub preshared: Vec<String>,
    /// What means something else here, or cannot be taken over.
    pub notes: Vec<String>,
}

/// Reads Nodes and Kilo's Peers.
#[must_use]
pub fn report<'a>(
    nodes: impl IntoIterator<Item = &'a Value>,
    peers: impl IntoIterator<Item = &'a Value>,
) -> Report {
    let mut report = Report::default();
    for node in nodes {
        report.node(node);
    }
    for peer in peers {
        report.peer(peer);
    }
    report
}

impl Report {
    fn node(&mut self, node: &Value) {
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
        self.meanings(name, &kilos);
        if !write.is_empty() {
            self.annotations.insert(name.to_owned(), write);
        }
    }

    /// What a value means to Kilo and not to Spanwire.
    fn meanings(&mut self, name: &str, kilos: &BTreeMap<String, String>) {
        let of = |key: &str| kilos.get(&format!("{KILO}{key}"));
        let mut note = |text: String| self.notes.push(format!("node {name}: {text}"));
        if of("force-endpoint").is_some() {
            note(format!(
                "the port of {KILO}force-endpoint is Kilo's; Spanwire listens on 51820 unless {} says otherwise, and the \
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

    /// Returns a script for people to read, and to run.
    #[must_use]
    pub fn text(&self) -> String {
        if self.annotations.is_empty() && self.peers.is_empty() {
            return "# Nothing of Kilo's was found.\n".to_owned();
        }
        let mut text = "# 1. Spanwire's annotations; Kilo does not look at them, so it goes on.\n".to_owned();
        for (node, set) in &self.annotations {
            let set = set.iter().map(|(key, value)| format!("{key}={value}"));
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "kubectl annotate node {node} {}",
                set.collect::<Vec<_>>().join(" ")
            );
        }
        text += "\n# 2. Kilo out: until 3 is done locations reach each other as they would without it. Take kilo0, its routes and\n\
                 #    its rules off each node; a reboot does that too.\n\
                 kubectl -n kube-system delete daemonset kilo\n\
                 \n# 3. Spanwire in: helm install spanwire charts/spanwire --namespace spanwire --create-namespace\n";
        if !self.peers.is_empty() {
            text += "\n# 4. The Peers. On their machines the keys and endpoints of leaders change: kubectl spanwire showconf peer NAME\n\
                     ";
            text += &self.secret();
            text += "kubectl apply -f - <<EOF\n";
            let documents = self
                .peers
                .iter()
                .filter_map(|peer| serde_saphyr::to_string(peer).ok());
            text += &documents.collect::<Vec<_>>().join("---\n");
            text += "EOF\n";
        }
        text
    }

    /// The command that carries preshared keys over, without showing them.
    fn secret(&self) -> String {
        if self.preshared.is_empty() {
            return String::new();
        }
        let file = |name: &String| {
            format!(
                " \\\n  --from-file={name}=<(kubectl get peers.kilo.squat.ai {name} -o jsonpath='{{.spec.presharedKey}}')"
            )
        };
        let files: String = self.preshared.iter().map(file).collect();
        format!(
            "# Their preshared keys, by bash, without showing them.\n\
             kubectl -n spanwire create secret generic {}{files}\n",
            names::PRESHARED_KEYS
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(annotations: Value) -> Value {
        json!({"metadata": {"name": "a1", "annotations": annotations}})
    }

    #[test]
    fn annotations_become_ours_and_what_stands_already_stays() {
        let node = node(json!({
            "kilo.squat.ai/location": "GCP_West", "kilo.squat.ai/leader": "false",
            "kilo.squat.ai/force-endpoint": "203.0.113.11:51820", "kilo.squat.ai/force-internal-ip": "",
            "kilo.squat.ai/persistent-keepalive": "25", "spanwire.dev/persistent-keepalive": "10",
            "kilo.squat.ai/allowed-location-ips": "172.20.0.5/24", "example.com/other": "x",
        }));
        let report = report([&node], []);
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
            "force-endpoint is Kilo's",
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
        let report = report([], [&peer]);
        let spec = json!({"publicKey": "k", "allowedIPs": ["10.99.0.1/32"], "endpoint": "[2001:db8::1]:51820",
            "presharedKeySecretRef": {"name": "spanwire-preshared-keys", "key": "p"}});
        assert_eq!(report.peers[0]["spec"], spec);
        assert!(report.notes[0].contains("goes into the Secret spanwire-preshared-keys"));
        let text = report.text();
        let carried = "create secret generic spanwire-preshared-keys \\\n  --from-file=p=<(kubectl get peers.kilo.squat.ai p -o";
        assert!(text.contains(carried) && !text.contains("the-secret"), "{text}");
        let without = super::report(
            [],
            [&json!({"metadata": {"name": "p"}, "spec": {"publicKey": "k"}})],
        );
        assert!(!without.text().contains("secret"));
    }

    #[test]
    fn a_cluster_without_kilo_has_nothing_to_migrate() {
        let node = node(json!({"spanwire.dev/location": "a"}));
        let report = report([&node], []);
        assert_eq!(report, Report::default());
        assert!(report.text().starts_with("# Nothing"));
    }
}

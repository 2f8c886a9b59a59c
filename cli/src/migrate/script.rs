//! The script: steps that can each be run again, and that end it where they fail.

use std::fmt::Write as _;

use serde_json::{Value, json};
use spanwire_crds::names;

use super::{Kilo, Report};

/// How the script installs Spanwire.
#[derive(Clone, Debug)]
pub struct Installation {
    /// The namespace.
    pub namespace: String,
    /// The chart, as helm takes it.
    pub chart: String,
}

/// What takes Kilo's devices off the nodes while it runs.
const REMOVAL: &str = "kilo-removal";

impl Report {
    /// Returns a script for people to read, and to run.
    #[must_use]
    pub fn script(&self, installation: &Installation) -> String {
        let parts = [
            self.head(installation),
            self.annotating(),
            self.kilo.as_ref().map(removing).unwrap_or_default(),
            self.installing(installation),
            self.adding(installation),
            "\necho 'Kilo is out, and Spanwire is in. What is to be seen now: kubectl spanwire status'\n"
                .to_owned(),
        ];
        parts.concat()
    }

    /// What is refused before anything is changed.
    fn head(&self, installation: &Installation) -> String {
        let mut text = format!(
            "#!/usr/bin/env bash\n\
             # From Kilo to Spanwire, in an order that never leaves both in charge of a node. Each step can be run again: what fails ends\n\
             # the script, and once that is mended it is run from its beginning.\n\
             set -euo pipefail\n\
             # How long each step is waited for.\n\
             timeout=${{TIMEOUT:-10m}}\n\
             \n\
             # 0. What is needed is there; nothing is changed yet.\n\
             may() {{ kubectl auth can-i \"$@\" >/dev/null 2>&1 || {{ echo \"you may not: $*\" >&2; exit 1; }}; }}\n\
             helm show chart {} >/dev/null\n\
             kubectl get nodes >/dev/null\n\
             may patch nodes\n",
            quoted(&installation.chart)
        );
        for set in self.kilo.iter().flat_map(|kilo| &kilo.daemon_sets) {
            let _ = writeln!(text, "may delete daemonsets.apps -n {}", set.namespace);
            let _ = writeln!(text, "may create daemonsets.apps -n {}", set.namespace);
        }
        text
    }

    fn annotating(&self) -> String {
        let mut text =
            "\n# 1. Spanwire's annotations; Kilo does not look at them, so it goes on.\n".to_owned();
        for (node, set) in &self.annotations {
            let set = set.iter().map(|(key, value)| quoted(&format!("{key}={value}")));
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "kubectl annotate --overwrite node {} {}",
                quoted(node),
                set.collect::<Vec<_>>().join(" ")
            );
        }
        text
    }

    fn installing(&self, installation: &Installation) -> String {
        let values = self
            .values
            .iter()
            .map(|value| format!(" \\\n  --set {}", quoted(value)));
        format!(
            "\n# 3. Spanwire in.\n\
             helm upgrade --install spanwire {} --namespace {} --create-namespace \\\n  --wait --timeout \"$timeout\"{}\n",
            quoted(&installation.chart),
            quoted(&installation.namespace),
            values.collect::<String>()
        )
    }

    fn adding(&self, installation: &Installation) -> String {
        if self.peers.is_empty() {
            return String::new();
        }
        let documents = self
            .peers
            .iter()
            .filter_map(|peer| serde_saphyr::to_string(peer).ok());
        format!(
            "\n# 4. The Peers. On their machines the keys and endpoints of leaders change: kubectl spanwire showconf peer NAME\n\
             {}kubectl apply -f - <<'END_OF_PEERS'\n{}END_OF_PEERS\n",
            self.secret(&installation.namespace),
            documents.collect::<Vec<_>>().join("---\n")
        )
    }

    /// The commands that carry preshared keys over, without showing them.
    fn secret(&self, namespace: &str) -> String {
        if self.preshared.is_empty() {
            return String::new();
        }
        let mut text = "# Their preshared keys, without showing them.\n\
                        key_of() { kubectl get peers.kilo.squat.ai \"$1\" -o 'jsonpath={.spec.presharedKey}'; }\n"
            .to_owned();
        let mut files = String::new();
        for (index, name) in self.preshared.iter().enumerate() {
            let _ = writeln!(text, "key{index}=$(key_of {})", quoted(name));
            let _ = writeln!(text, "test -n \"$key{index}\"");
            files += &format!(" \\\n  --from-file={}=<(printf %s \"$key{index}\")", quoted(name));
        }
        text + &format!(
            "kubectl -n {} create secret generic {}{files} \\\n  --dry-run=client -o yaml | kubectl apply --server-side --force-conflicts \
             --field-manager=kubectl-spanwire -f -\n",
            quoted(namespace),
            names::PRESHARED_KEYS
        )
    }
}

/// The commands that remove Kilo, and its devices.
fn removing(kilo: &Kilo) -> String {
    let mut text = "\n# 2. Kilo out: until 3 is done locations reach each other as they would without it. It leaves its device on the nodes,\n\
                    #    with the port that Spanwire needs, and with addresses that Spanwire may give to other nodes: it has to be gone from each\n\
                    #    of them first, also from those that are not ready now.\n"
        .to_owned();
    for set in &kilo.daemon_sets {
        let _ = writeln!(
            text,
            "kubectl -n {} delete daemonset {} --ignore-not-found --cascade=foreground --timeout=\"$timeout\"",
            quoted(&set.namespace),
            quoted(&set.name)
        );
    }
    let namespace = quoted(&kilo.namespace);
    // What is made of texts and lists has a form in YAML.
    let manifest = serde_saphyr::to_string(&removal(kilo)).unwrap_or_default();
    let devices = kilo.devices.iter().cloned().collect::<Vec<_>>().join(" or ");
    let _ = write!(
        text,
        "kubectl apply -f - <<'END_OF_REMOVAL'\n{manifest}END_OF_REMOVAL\n\
         # A pod of it is ready where there is no {devices} any more.\n\
         if ! kubectl -n {namespace} rollout status daemonset/{REMOVAL} --timeout=\"$timeout\"; then\n  \
         echo 'not every node is known to be without {devices}; these pods say which:' >&2\n  \
         kubectl -n {namespace} get pods -o wide -l app={REMOVAL} >&2\n  exit 1\nfi\n\
         kubectl -n {namespace} delete daemonset {REMOVAL} --ignore-not-found\n"
    );
    text
}

/// A DaemonSet of which a pod is ready where Kilo's device is gone.
fn removal(kilo: &Kilo) -> Value {
    let of_each = |command: &str| {
        let commands = kilo.devices.iter().map(|device| format!("{command} {device}"));
        commands.collect::<Vec<_>>()
    };
    let removing = format!(
        "while true; do {} 2>/dev/null; sleep 2; done",
        of_each("ip link delete").join(" 2>/dev/null; ")
    );
    // Where `ip` does not work nothing is known.
    let gone = format!("ip link show lo && {}", of_each("! ip link show").join(" && "));
    let secrets = kilo.pull_secrets.iter().map(|name| json!({"name": name}));
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": REMOVAL, "namespace": kilo.namespace},
        "spec": {
            "selector": {"matchLabels": {"app": REMOVAL}},
            "template": {
                "metadata": {"labels": {"app": REMOVAL}},
                "spec": {
                    "hostNetwork": true,
                    "terminationGracePeriodSeconds": 0,
                    "tolerations": [{"operator": "Exists"}],
                    "imagePullSecrets": secrets.collect::<Vec<_>>(),
                    "containers": [{
                        "name": "removal",
                        "image": kilo.image,
                        "command": ["sh", "-c", removing],
                        "readinessProbe": {"exec": {"command": ["sh", "-c", gone]}, "periodSeconds": 2},
                        "securityContext": {"capabilities": {"add": ["NET_ADMIN"]}},
                    }],
                },
            },
        },
    })
}

/// Returns whether a word means nothing but itself to a shell.
pub(super) fn is_plain(word: &str) -> bool {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "@%+=:,./-_".contains(letter);
    !word.is_empty() && word.chars().all(is_plain)
}

/// Returns a word as shells take it.
fn quoted(word: &str) -> String {
    if is_plain(word) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

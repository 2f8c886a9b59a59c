//! Kilo itself, as its DaemonSets run it.

use serde::Serialize;
use serde_json::Value;

/// A DaemonSet of Kilo's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DaemonSet {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its image, which has a shell and `ip`.
    pub image: String,
    /// The Secrets by which the image is pulled.
    pub pull_secrets: Vec<String>,
    /// Its arguments.
    #[serde(skip)]
    arguments: Vec<String>,
}

/// Kilo's own defaults.
pub(super) const INTERFACE: &str = "kilo0";
const SUBNET: &str = "10.4.0.0/16";
const PORT: &str = "51820";
const TOPOLOGY_LABEL: &str = "topology.kubernetes.io/region";

impl DaemonSet {
    /// Returns a DaemonSet where it is one of Kilo's, by the name of its image.
    #[must_use]
    pub fn of(object: &Value) -> Option<Self> {
        let pod = &object["spec"]["template"]["spec"];
        let mut containers = pod["containers"].as_array().into_iter().flatten();
        let container = containers.find(|container| container["image"].as_str().is_some_and(is_kilo))?;
        let texts = |list: &Value| -> Vec<String> {
            let items = list.as_array().into_iter().flatten();
            items.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let secrets = pod["imagePullSecrets"].as_array().into_iter().flatten();
        let field = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
        Some(Self {
            namespace: field("namespace"),
            name: field("name"),
            image: container["image"].as_str().unwrap_or_default().to_owned(),
            pull_secrets: secrets
                .filter_map(|secret| secret["name"].as_str().map(str::to_owned))
                .collect(),
            arguments: [texts(&container["command"]), texts(&container["args"])].concat(),
        })
    }

    /// Returns the value of a flag; of one that is given without a value, `true`.
    fn flag(&self, name: &str) -> Option<&str> {
        let flag = format!("--{name}");
        let mut arguments = self.arguments.iter();
        let rest = arguments.find_map(|argument| {
            argument
                .strip_prefix(flag.as_str())
                .filter(|rest| rest.is_empty() || rest.starts_with('='))
        })?;
        match rest.strip_prefix('=') {
            Some(value) => Some(value),
            None => match arguments.next() {
                Some(next) if !next.starts_with('-') => Some(next),
                _ => Some("true"),
            },
        }
    }

    /// Returns the name of its device.
    #[must_use]
    pub fn interface(&self) -> &str {
        self.flag("interface").unwrap_or(INTERFACE)
    }

    /// Returns from where its device has addresses.
    #[must_use]
    pub fn subnet(&self) -> &str {
        self.flag("subnet").unwrap_or(SUBNET)
    }

    /// Returns whether it is the CNI of its nodes.
    #[must_use]
    pub fn is_cni(&self) -> bool {
        !matches!(
            self.flag("cni"),
            Some("false" | "f" | "F" | "False" | "FALSE" | "0")
        )
    }

    /// Returns the label with the location of nodes without an annotation.
    #[must_use]
    pub fn topology_label(&self) -> &str {
        self.flag("topology-label").unwrap_or(TOPOLOGY_LABEL)
    }

    /// Returns whether nodes of one location talk by WireGuard, too.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.flag("mesh-granularity") == Some("full")
    }

    /// Returns whether it takes its rules off the nodes when it ends.
    #[must_use]
    pub fn cleans_up(&self) -> bool {
        !matches!(
            self.flag("clean-up"),
            Some("false" | "f" | "F" | "False" | "FALSE" | "0")
        )
    }

    /// Returns the values of the chart by which Spanwire has what Kilo has.
    #[must_use]
    pub fn values(&self) -> Vec<String> {
        let port = self.flag("port").filter(|port| *port != PORT);
        let label = Some(self.topology_label()).filter(|label| *label != TOPOLOGY_LABEL);
        let values = [
            port.map(|port| format!("listenPort={port}")),
            label.map(|label| format!("topologyLabel={label}")),
        ];
        values.into_iter().flatten().collect()
    }

    /// Returns the port that its WireGuard listens on.
    #[must_use]
    pub fn port(&self) -> &str {
        self.flag("port").unwrap_or(PORT)
    }
}

/// Returns whether an image is Kilo's, whatever registry it is from.
fn is_kilo(image: &str) -> bool {
    let path = image.split('@').next().unwrap_or_default();
    let last = path.rsplit('/').next().unwrap_or_default();
    last.split(':').next() == Some("kilo")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with(image: &str, arguments: &[&str]) -> Option<DaemonSet> {
        DaemonSet::of(&json!({"metadata": {"namespace": "kube-system", "name": "kilo"},
            "spec": {"template": {"spec": {"imagePullSecrets": [{"name": "pull"}],
                "containers": [{"image": "sidecar"}, {"image": image, "args": arguments}]}}}}))
    }

    #[test]
    fn kilo_is_known_by_its_image() {
        for image in ["squat/kilo", "squat/kilo:0.6.0", "registry:5000/x/kilo@sha256:0"] {
            assert_eq!(with(image, &[]).unwrap().pull_secrets, ["pull"], "{image}");
        }
        for image in ["squat/kilo-webhook:1", "kilometre", "kilo/agent"] {
            assert!(with(image, &[]).is_none(), "{image}");
        }
    }

    #[test]
    fn what_its_arguments_do_not_say_is_its_default() {
        let plain = with("squat/kilo", &[]).unwrap();
        assert_eq!(
            (plain.interface(), plain.subnet(), plain.port()),
            ("kilo0", "10.4.0.0/16", "51820")
        );
        assert!(plain.is_cni() && plain.cleans_up() && !plain.is_full() && plain.values().is_empty());
        let flags = [
            "--cni=false",
            "--port",
            "51821",
            "--interface=wg7",
            "--clean-up-interface",
            "--topology-label=site",
            "--mesh-granularity=full",
        ];
        let other = with("squat/kilo", &flags).unwrap();
        assert_eq!((other.interface(), other.port()), ("wg7", "51821"));
        assert!(!other.is_cni() && other.is_full() && other.cleans_up());
        assert_eq!(other.values(), ["listenPort=51821", "topologyLabel=site"]);
        assert!(!with("squat/kilo", &["--clean-up=false"]).unwrap().cleans_up());
    }
}

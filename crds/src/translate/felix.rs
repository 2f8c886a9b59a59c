//! How Calico's Felix is configured (`crd.projectcalico.org/v1`), as far as it decides whether packets of the mesh get through.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::networks::foreign_kind;

/// The configuration of all nodes (`default`) or of one (`node.NAME`), whose fields go before those of `default`.
#[derive(Clone, Debug, Deserialize)]
pub struct FelixConfiguration {
    /// Its name.
    pub metadata: ObjectMeta,
    /// What is configured.
    #[serde(default)]
    pub spec: FelixSpec,
}

impl FelixConfiguration {
    /// The API version and the kind of these objects.
    pub const OBJECT_KIND: (&str, &str) = ("crd.projectcalico.org/v1", "FelixConfiguration");
}

/// What is used of the spec of a FelixConfiguration. What is not there is configured elsewhere, or as Felix has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FelixSpec {
    /// Whether the eBPF data path carries the packets.
    pub bpf_enabled: Option<bool>,
    /// The devices without link addresses that it knows, by a regular expression for a part of their names.
    pub bpf_l3_iface_pattern: Option<String>,
    /// The devices of the LAN that it knows, in the same way.
    pub bpf_data_iface_pattern: Option<String>,
    /// Whether Calico's own WireGuard carries what is for IPv4 addresses of pods of other nodes.
    pub wireguard_enabled: Option<bool>,
    /// The UDP port of that.
    pub wireguard_listening_port: Option<u16>,
    /// Whether it carries what is for IPv6 addresses.
    #[serde(rename = "wireguardEnabledV6")]
    pub wireguard_enabled_v6: Option<bool>,
    /// The UDP port of that.
    #[serde(rename = "wireguardListeningPortV6")]
    pub wireguard_listening_port_v6: Option<u16>,
}

foreign_kind!(
    FelixConfiguration,
    "FelixConfiguration",
    "crd.projectcalico.org",
    "v1",
    "felixconfigurations"
);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_used_is_read_and_everything_else_passed_over() {
        // As `kubectl get felixconfiguration default -o json` prints it where eBPF is on (Calico 3.28).
        let object = json!({
            "apiVersion": "crd.projectcalico.org/v1", "kind": "FelixConfiguration", "metadata": {"name": "default"},
            "spec": {"bpfConnectTimeLoadBalancing": "TCP", "bpfEnabled": true, "bpfL3IfacePattern": "^spanwire0$",
                "bpfLogLevel": "", "floatingIPs": "Disabled", "logSeverityScreen": "Info", "reportingInterval": "0s",
                "wireguardEnabled": true, "wireguardEnabledV6": false, "wireguardListeningPort": 51830},
        });
        let read: FelixConfiguration = serde_json::from_value(object).unwrap();
        assert_eq!(
            read.spec,
            FelixSpec {
                bpf_enabled: Some(true),
                bpf_l3_iface_pattern: Some("^spanwire0$".to_owned()),
                bpf_data_iface_pattern: None,
                wireguard_enabled: Some(true),
                wireguard_listening_port: Some(51_830),
                wireguard_enabled_v6: Some(false),
                wireguard_listening_port_v6: None,
            }
        );
        let bare = json!({"metadata": {"name": "node.a1"}});
        let bare: FelixConfiguration = serde_json::from_value(bare).unwrap();
        assert_eq!(bare.spec, FelixSpec::default());
        let wrong = json!({"metadata": {"name": "default"}, "spec": {"bpfEnabled": "yes"}});
        assert!(serde_json::from_value::<FelixConfiguration>(wrong).is_err());
    }
}

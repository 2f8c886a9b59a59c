//! The settings of the operator by which a mesh is decided.

use std::{collections::BTreeSet, net::SocketAddr};

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser};
use spanwire_crds::translate::NodeOptions;
use spanwire_topology::{ClusterFacts, Endpoint, EndpointHost, Family, LocationName, Prefix};

/// The operator's settings; each is the flag of `spanwire-operator` with this name. With `--diff` those of the operator that
/// runs in the cluster hold where they are not given here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Settings of the operator")]
pub struct Settings {
    /// A network that every node gets an overlay address of, one of each family at most [default: 10.4.0.0/16]
    #[arg(long, value_name = "NETWORK")]
    pub overlay: Vec<Prefix>,
    /// A network from which services get their addresses
    #[arg(long, value_name = "NETWORK")]
    pub service_cidr: Vec<Prefix>,
    /// A network from which pod networks are allocated
    #[arg(long, value_name = "NETWORK")]
    pub pod_cidr: Vec<Prefix>,
    /// Where the API server is reached without the mesh
    #[arg(long, value_name = "HOST:PORT")]
    pub api_server: Option<Endpoint>,
    /// The UDP port of WireGuard where a node does not say otherwise [default: 51820]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub listen_port: Option<u16>,
    /// The label with the location of nodes about which nothing else says anything [default: topology.kubernetes.io/region]
    #[arg(long, value_name = "LABEL")]
    pub topology_label: Option<String>,
    /// The location of nodes about which nothing says anything [default: default]
    #[arg(long, value_name = "NAME", value_parser = spanwire_crds::annotations::location_name)]
    pub default_location: Option<LocationName>,
    /// Every pair of locations is established from the start
    #[arg(long)]
    pub tunnel_only: bool,
    /// Read Kilo's annotations too, where Spanwire's own are absent
    #[arg(long)]
    pub kilo_annotations: bool,
}

/// A command line of which only the settings are read.
#[derive(Parser)]
#[command(no_binary_name = true)]
struct Known {
    #[command(flatten)]
    settings: Settings,
}

impl Settings {
    /// Returns the settings in the arguments of an operator; other arguments are passed over.
    ///
    /// # Errors
    /// A setting that cannot be read.
    pub fn of_operator(arguments: &[String]) -> Result<Self, String> {
        let command = Known::command();
        let is_known = |argument: &&String| {
            let flag = argument.strip_prefix("--").unwrap_or_default();
            let name = flag.split_once('=').map_or(flag, |(name, _)| name);
            command
                .get_arguments()
                .any(|known| known.get_long() == Some(name))
        };
        let known: Vec<&String> = arguments.iter().filter(is_known).collect();
        let matches = command.clone().try_get_matches_from(known);
        let read = matches.and_then(|matches| Known::from_arg_matches(&matches));
        read.map(|known| known.settings)
            .map_err(|error| error.to_string())
    }

    /// Returns these settings, and those of `base` where none is given.
    #[must_use]
    pub fn over(self, base: Self) -> Self {
        let list = |own: Vec<Prefix>, base: Vec<Prefix>| if own.is_empty() { base } else { own };
        Self {
            overlay: list(self.overlay, base.overlay),
            service_cidr: list(self.service_cidr, base.service_cidr),
            pod_cidr: list(self.pod_cidr, base.pod_cidr),
            api_server: self.api_server.or(base.api_server),
            listen_port: self.listen_port.or(base.listen_port),
            topology_label: self.topology_label.or(base.topology_label),
            default_location: self.default_location.or(base.default_location),
            tunnel_only: self.tunnel_only || base.tunnel_only,
            kilo_annotations: self.kilo_annotations || base.kilo_annotations,
        }
    }

    /// Returns how Nodes are read.
    #[must_use]
    pub fn node_options(&self) -> NodeOptions {
        let default = NodeOptions::default();
        NodeOptions {
            topology_label: self.topology_label.clone().unwrap_or(default.topology_label),
            kilo_annotations: self.kilo_annotations,
        }
    }

    /// Returns the facts about the cluster that the settings are. `generated` is the pool of IPv6 overlay addresses that the
    /// operator has generated.
    #[must_use]
    pub fn facts(&self, generated: Option<Prefix>) -> ClusterFacts {
        let default = ClusterFacts::default();
        let named = |family| self.overlay.iter().any(|pool| pool.family() == family);
        let mut automatic = BTreeSet::new();
        if self.overlay.is_empty() {
            automatic.insert(ClusterFacts::default_overlay());
        }
        if !named(Family::V6) {
            automatic.extend(generated);
        }
        let address = |endpoint: &Endpoint| match &endpoint.host {
            EndpointHost::Address(address) => Some(SocketAddr::new(*address, endpoint.port)),
            EndpointHost::Name(_) => None,
        };
        ClusterFacts {
            overlay: self.overlay.iter().copied().collect(),
            automatic,
            listen_port: self.listen_port.unwrap_or(default.listen_port),
            api_server: self.api_server.iter().filter_map(address).collect(),
            services: self.service_cidr.iter().copied().collect(),
            pods: self.pod_cidr.iter().copied().collect(),
            default_location: self.default_location.clone().or_else(|| "default".parse().ok()),
            tunnel_only: self.tunnel_only,
            ..default
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(arguments: &[&str]) -> Result<Settings, String> {
        let arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
        Settings::of_operator(&arguments)
    }

    #[test]
    fn of_an_operators_arguments_its_settings_are_read() {
        let read = of(&[
            "--overlay=10.5.0.0/16",
            "--manage-crds=true",
            "--listen-port=51821",
            "--tunnel-only",
            "--status-address=0.0.0.0:9478",
        ])
        .unwrap();
        assert_eq!(read.overlay, ["10.5.0.0/16".parse().unwrap()]);
        assert_eq!((read.listen_port, read.tunnel_only), (Some(51821), true));
        assert!(of(&["--overlay=x"]).unwrap_err().contains("overlay"));
    }

    #[test]
    fn what_is_given_stands_before_what_the_operator_has() {
        let given = of(&["--listen-port=1"]).unwrap();
        let both = given.over(of(&["--listen-port=2", "--overlay=10.5.0.0/16"]).unwrap());
        assert_eq!((both.listen_port, both.overlay.len()), (Some(1), 1));
    }

    #[test]
    fn a_pool_stands_in_only_for_a_family_that_none_is_named_of() {
        let generated: Prefix = "fd00:1::/64".parse().unwrap();
        let pools = |arguments: &[&str]| of(arguments).unwrap().facts(Some(generated)).automatic.len();
        assert_eq!(pools(&[]), 2);
        assert_eq!(pools(&["--overlay=10.5.0.0/16"]), 1);
        assert_eq!(pools(&["--overlay=fd00:5::/64"]), 0);
    }
}

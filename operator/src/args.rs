//! The command line.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use spanwire_topology::{Endpoint, LocationName, PodSource, PodSources, Prefix};

/// The Spanwire operator: decides the mesh and publishes it.
#[derive(Clone, Debug, Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
pub struct Args {
    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How the mesh is decided.
    #[command(flatten)]
    pub run: Run,
    /// How the cluster is reached.
    #[command(flatten)]
    pub reach: Reach,
    /// How logs look.
    #[arg(long, value_enum, default_value = "text", global = true)]
    pub log_format: LogFormat,
}

/// What the operator can do besides running.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Has every agent remove all traces from its node, and waits for that. For the chart's pre-delete hook.
    Retire {
        /// How many seconds to wait at most.
        #[arg(long, default_value_t = 120)]
        wait: u64,
    },
}

/// How the cluster is reached.
#[derive(Clone, Debug, ClapArgs)]
pub struct Reach {
    /// Where the API server is reached, when its in-cluster address does not work without the mesh.
    #[arg(long, value_name = "HOST:PORT", value_parser = endpoint, global = true)]
    pub api_server: Option<Endpoint>,
    /// The namespace of the Leases; that of the service account by default.
    #[arg(long, env = "POD_NAMESPACE", global = true)]
    pub namespace: Option<String>,
    /// The name of this installation among those of its namespace. One that has none takes what is in its namespace for its own.
    #[arg(long, value_name = "NAME", value_parser = installation, global = true)]
    pub installation: Option<String>,
    /// The name of this operator among its replicas; that of the machine by default.
    #[arg(long, env = "POD_NAME", global = true)]
    pub identity: Option<String>,
}

/// How the mesh is decided.
#[derive(Clone, Debug, ClapArgs)]
pub struct Run {
    /// The networks that every node gets an overlay address of, one of each family. Where none is named these are
    /// 10.4.0.0/16 and a generated unique local one, which the ConfigMap spanwire-operator remembers, each while a node
    /// of the cluster has pods or an address of its family.
    #[arg(long, value_name = "NETWORK", value_parser = pool)]
    pub overlay: Vec<Prefix>,
    /// A network from which services get their addresses, beside those that the API server tells of itself. No node and no
    /// Peer may claim a part of it.
    #[arg(long, value_name = "NETWORK")]
    pub service_cidr: Vec<Prefix>,
    /// A network from which pod networks are allocated. No node may claim a part of it but the pod network that it was
    /// given; pod networks in it may be public. Without it, of a family, it is what is around the pod networks.
    #[arg(long, value_name = "NETWORK")]
    pub pod_cidr: Vec<Prefix>,
    /// Where it is known from which networks the pods of each node have.
    #[arg(long, value_enum, default_value = "auto")]
    pub pod_networks: PodNetworks,
    /// The name of the tunnel's device on nodes.
    #[arg(long, value_name = "NAME", default_value = "spanwire0")]
    pub link: String,
    /// The UDP port of WireGuard where a node does not say otherwise.
    #[arg(long, default_value_t = 51820, value_parser = clap::value_parser!(u16).range(1..))]
    pub listen_port: u16,
    /// The label with the location of nodes about which no annotation and no Location says anything.
    #[arg(long, default_value = "topology.kubernetes.io/region")]
    pub topology_label: String,
    /// The location of nodes about which nothing says anything.
    #[arg(long, default_value = "default", value_parser = spanwire_crds::annotations::location_name)]
    pub default_location: LocationName,
    /// No traffic between two locations is ever plaintext, also before a tunnel between them was proven: it is in the tunnel
    /// or nowhere.
    #[arg(long)]
    pub tunnel_only: bool,
    /// Read Kilo's annotations too, where Spanwire's own are absent.
    #[arg(long)]
    pub kilo_annotations: bool,
    /// Keep the CustomResourceDefinitions as this version knows them.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub manage_crds: bool,
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, default_value = "0.0.0.0:9478")]
    pub status_address: SocketAddr,
}

/// Where pod networks are taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PodNetworks {
    /// The first of the others that there is something of.
    Auto,
    /// Calico's BlockAffinity objects.
    Calico,
    /// spec.ipam of CiliumNodes.
    Cilium,
    /// spec.podCIDRs of Nodes.
    Nodes,
    /// The addresses of Pods.
    Pods,
}

impl PodNetworks {
    /// Returns the sources that may count.
    #[must_use]
    pub fn sources(self) -> PodSources {
        match self {
            Self::Auto => PodSources::auto(),
            Self::Calico => PodSources::only(PodSource::Calico),
            Self::Cilium => PodSources::only(PodSource::Cilium),
            Self::Nodes => PodSources::only(PodSource::Nodes),
            Self::Pods => PodSources::only(PodSource::Pods),
        }
    }
}

/// How logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    Endpoint::from_str(text).map_err(|error| error.to_string())
}

/// It is the value of a label, as the name of a location is.
fn installation(text: &str) -> Result<String, String> {
    let name = spanwire_crds::annotations::location_name(text)?;
    Ok(name.to_string())
}

fn pool(text: &str) -> Result<Prefix, String> {
    let prefix = Prefix::from_str(text).map_err(|error| error.to_string())?;
    let fits = if prefix.address().is_ipv4() {
        prefix.is_private() && (8..=28).contains(&prefix.length())
    } else {
        prefix.is_private() && (48..=64).contains(&prefix.length())
    };
    if fits {
        Ok(prefix)
    } else {
        Err(
            "is no pool; write a private IPv4 network of /8 to /28 or a unique local IPv6 one of /48 to /64"
                .to_owned(),
        )
    }
}

impl Run {
    /// Returns the networks of services that are known from the beginning: those that are named and, where the API server is
    /// reached elsewhere, the address of its `service`, which would not be guarded otherwise where the API server knows none.
    #[must_use]
    pub fn services(&self, service: Option<IpAddr>) -> BTreeSet<Prefix> {
        let service = service.map(Prefix::host);
        self.service_cidr.iter().copied().chain(service).collect()
    }

    /// Returns the named pools, one of a family at most.
    ///
    /// # Errors
    /// Where a family has two.
    pub fn pools(&self) -> Result<BTreeSet<Prefix>, String> {
        for (place, pool) in self.overlay.iter().enumerate() {
            if let Some(other) = self.overlay[..place]
                .iter()
                .find(|other| other.family() == pool.family())
            {
                return Err(format!(
                    "--overlay: {other} and {pool} are of one family; give one of each"
                ));
            }
        }
        Ok(self.overlay.iter().copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn flags_of_the_chart_are_understood() {
        let args = parse(&[
            "--overlay=10.5.0.0/16",
            "--overlay=fd00:5::/64",
            "--manage-crds=false",
            "--kilo-annotations",
            "--service-cidr=10.96.0.0/16",
            "--pod-cidr=10.244.0.0/16",
            "--pod-networks=calico",
            "--api-server=203.0.113.1:6443",
        ])
        .unwrap();
        assert_eq!((args.run.service_cidr.len(), args.run.pod_cidr.len()), (1, 1));
        let service = "10.97.0.1".parse().unwrap();
        let services = ["10.96.0.0/16", "10.97.0.1/32"].map(|network| network.parse().unwrap());
        assert_eq!(args.run.services(Some(service)), services.into());
        assert_eq!(args.run.pod_networks, PodNetworks::Calico);
        assert_eq!(
            parse(&[]).unwrap().run.pod_networks.sources(),
            PodSources::auto(),
            "it looks for itself"
        );
        assert!(parse(&["--pod-networks=flannel"]).is_err());
        assert!(parse(&["--service-cidr=10.96.0.1/16"]).is_err());
        assert_eq!(args.run.pools().unwrap().len(), 2);
        assert!(!args.run.manage_crds && args.run.kilo_annotations);
        let flags = [
            "retire",
            "--wait=60",
            "--api-server=203.0.113.1:6443",
            "--installation=x",
        ];
        let retire = parse(&flags).unwrap();
        assert_eq!(retire.reach.installation.as_deref(), Some("x"));
        assert!(parse(&["--installation=a/b"]).is_err(), "no value of a label");
        assert_eq!(parse(&[]).unwrap().run.pools().unwrap().len(), 0);
        assert!(matches!(retire.command, Some(Command::Retire { wait: 60 })));
        assert!(retire.reach.api_server.is_some());
    }

    #[test]
    fn pools_that_cannot_serve_are_refused() {
        for bad in [
            "0.0.0.0/0",
            "203.0.113.0/24",
            "10.4.0.0/30",
            "2001:db8::/64",
            "fd00::/40",
            "10.4.0.1/16",
        ] {
            assert!(parse(&["--overlay", bad]).is_err(), "{bad}");
        }
        let two = parse(&["--overlay=10.4.0.0/16", "--overlay=10.5.0.0/16"]).unwrap();
        assert!(two.run.pools().is_err());
    }

    fn parse(flags: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from(["spanwire-operator"].iter().chain(flags))
    }
}

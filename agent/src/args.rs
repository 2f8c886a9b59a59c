//! The command line.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use spanwire_core::liveness::{Settings, THRESHOLD};
use spanwire_host::{LinkName, Owned, OwnedError, TableId};
use spanwire_topology::{Endpoint, NodeName};

/// The Spanwire node agent: makes a node do what the mesh asks of it.
///
/// An agent that is stopped leaves everything as it is; `cleanup` removes every trace.
#[derive(Clone, Debug, Parser)]
#[command(
    version,
    about,
    subcommand_negates_reqs = true,
    args_conflicts_with_subcommands = true
)]
pub struct Args {
    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Where things are.
    #[command(flatten)]
    pub paths: Paths,
    /// The name of this node.
    #[arg(long, env = "NODE_NAME", value_parser = NodeName::from_str, required = true)]
    pub node_name: Option<NodeName>,
    /// Where the mesh is read from: `kubernetes`, or `file:PATH` (a file or a directory of YAML or JSON
    /// documents; Secrets of Peers are read as `secrets/NAME/KEY` beside them).
    #[arg(long, default_value = "kubernetes")]
    pub source: Source,
    /// Where the API server is reached, when its in-cluster address does not work without the mesh.
    #[arg(long, value_name = "HOST:PORT", value_parser = endpoint)]
    pub api_server: Option<Endpoint>,
    /// The kubelet's kubeconfig: the servers in it are reached past the mesh.
    #[arg(long, value_name = "PATH")]
    pub kubelet_config: Option<PathBuf>,
    /// The namespace of the leaders' Leases and of Secrets with preshared keys.
    #[arg(long, env = "POD_NAMESPACE", default_value = "spanwire")]
    pub namespace: String,
    /// Where /healthz, /readyz, /metrics and /debug are served.
    #[arg(long, default_value = "127.0.0.1:9477")]
    pub status_address: SocketAddr,
    /// Keep the nft table in the state directory as guard.nft, for the node to load before its CNI when it boots.
    #[arg(long)]
    pub guard: bool,
    /// No traffic between locations is ever plaintext: it is dropped as soon as two locations are established, also while other
    /// nodes do not know of it yet. As the operator's flag of that name.
    #[arg(long)]
    pub tunnel_only: bool,
    /// How leaders are watched.
    #[command(flatten)]
    pub probing: Probing,
}

/// How leaders are watched.
#[derive(Clone, Copy, Debug, ClapArgs)]
pub struct Probing {
    /// How often each leader is asked whether it answers, while those are few; seldomer where the ceiling asks for it.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(10..=60_000))]
    pub probe_interval: u32,
    /// From which suspicion on a leader is taken for dead: at 8 it is, on a path that works, wrongly so at one request in 10^8.
    #[arg(long, value_name = "NUMBER", default_value_t = THRESHOLD, value_parser = threshold)]
    pub probe_threshold: f64,
    /// How many requests are sent in any second at most.
    #[arg(long, value_name = "NUMBER", default_value_t = 500, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    pub probe_ceiling: u32,
}

impl Probing {
    /// Returns the same as settings.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings {
            interval: Duration::from_millis(self.probe_interval.into()),
            threshold: self.probe_threshold,
            ceiling: self.probe_ceiling,
        }
    }
}

/// What the agent can do besides running.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Removes every trace of Spanwire from this node. Stop the agent first.
    Cleanup {
        /// Only print what would be done.
        #[arg(long)]
        plan: bool,
        /// Where things are.
        #[command(flatten)]
        paths: Paths,
    },
}

/// Where things are on this node.
#[derive(Clone, Debug, ClapArgs)]
pub struct Paths {
    /// The key, the checkpoint and preshared keys of Peers are kept here.
    #[arg(long, default_value = "/var/lib/spanwire")]
    pub state_dir: PathBuf,
    /// Which WireGuard makes the device.
    #[arg(long, default_value = "auto")]
    pub backend: Backend,
    /// The socket on which spanwire-tunnel waits for requests.
    #[arg(long, default_value = "/run/spanwire/tunnel.sock")]
    pub tunnel_socket: PathBuf,
    /// The directory of the sockets of userspace WireGuard devices.
    #[arg(long, default_value = "/var/run/wireguard")]
    pub wireguard_socket_dir: PathBuf,
    /// The kernel's settings; in a container, where they are mounted writable.
    #[arg(long, default_value = "/proc/sys")]
    pub proc_sys: PathBuf,
    /// What is Spanwire's in the kernel.
    #[command(flatten)]
    pub names: Names,
}

/// What is Spanwire's in the kernel; a neighbour that uses the same needs another. What was made under one of these is
/// found under it alone, so clean a node up before they change.
#[derive(Clone, Debug, ClapArgs)]
pub struct Names {
    /// The name of the WireGuard device.
    #[arg(long, value_name = "NAME", default_value = "spanwire0", value_parser = link)]
    pub link: LinkName,
    /// The name of the VXLAN device between followers and leaders, where a location has one.
    #[arg(long, value_name = "NAME", default_value = "spanwire-hop", value_parser = link)]
    pub hop_link: LinkName,
    /// The VXLAN network identifier of that device, the same on all nodes.
    #[arg(long, value_name = "NUMBER", default_value_t = Owned::default().hop_vni)]
    pub hop_vni: u32,
    /// The UDP port of that device, the same on all nodes.
    #[arg(long, value_name = "PORT", default_value_t = Owned::default().hop_port)]
    pub hop_port: u16,
    /// The routing table of what leaves this node.
    #[arg(long, value_name = "NUMBER", default_value_t = Owned::default().table.0)]
    pub table: u32,
    /// The routing table of what leaves the tunnel for another node.
    #[arg(long, value_name = "NUMBER", default_value_t = Owned::default().return_table.0)]
    pub return_table: u32,
    /// The first of sixteen rule priorities, before those of all who route by `main`.
    #[arg(long, value_name = "NUMBER", default_value_t = Owned::default().rule_priority)]
    pub rule_priority: u32,
    /// The protocol number of routes and rules.
    #[arg(long, value_name = "NUMBER", default_value_t = Owned::default().protocol)]
    pub route_protocol: u8,
    /// The name of the nft table, of family inet.
    #[arg(long, value_name = "NAME", default_value = "spanwire")]
    pub nft_table: String,
    /// The bit that marks WireGuard's own packets.
    #[arg(long, value_name = "0xBIT", default_value = "0x2000", value_parser = mark)]
    pub mark: u32,
    /// The bit by which kube-proxy marks what it masquerades.
    #[arg(long, value_name = "0xBIT", default_value = "0x4000", value_parser = mark)]
    pub masquerade_mark: u32,
}

impl Names {
    /// The identifiers, where they can be Spanwire's.
    ///
    /// # Errors
    /// The first that cannot, and why.
    pub fn owned(&self) -> Result<Owned, OwnedError> {
        let owned = Owned {
            link: self.link.clone(),
            hop_link: self.hop_link.clone(),
            hop_vni: self.hop_vni,
            hop_port: self.hop_port,
            table: TableId(self.table),
            return_table: TableId(self.return_table),
            rule_priority: self.rule_priority,
            protocol: self.route_protocol,
            nft_table: self.nft_table.clone(),
            mark: self.mark,
            masquerade_mark: self.masquerade_mark,
        };
        owned.check().map(|()| owned)
    }
}

/// Which WireGuard makes the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// The kernel's if it has one, else spanwire-tunnel.
    Auto,
    /// The kernel's.
    Kernel,
    /// spanwire-tunnel.
    Userspace,
}

/// Where the mesh is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The Kubernetes API.
    Kubernetes,
    /// A file or a directory.
    File(PathBuf),
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "kubernetes" => Ok(Self::Kubernetes),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => Err("write kubernetes or file:PATH".to_owned()),
        }
    }
}

fn link(text: &str) -> Result<LinkName, String> {
    LinkName::new(text)
        .ok_or_else(|| "a device has a name of 1 to 15 letters, digits, '-', '_' and '.'".to_owned())
}

fn threshold(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "write a number".to_owned())?;
    let is_possible = (1.0..=100.0).contains(&number);
    is_possible
        .then_some(number)
        .ok_or_else(|| "write a number from 1 to 100".to_owned())
}

fn mark(text: &str) -> Result<u32, String> {
    let digits = text
        .strip_prefix("0x")
        .ok_or("write one bit in hexadecimal, like 0x2000")?;
    u32::from_str_radix(digits, 16).map_err(|error| error.to_string())
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    Endpoint::from_str(text).map_err(|error| format!("{text:?} {error}"))
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
    fn an_agent_needs_the_name_of_its_node_and_cleanup_does_not() {
        let run =
            Args::try_parse_from(["spanwire-agent", "--node-name", "a1", "--source", "file:/x"]).unwrap();
        assert_eq!(run.source, Source::File("/x".into()));
        assert_eq!(run.node_name, Some("a1".parse().unwrap()));
        let cleanup =
            Args::try_parse_from(["spanwire-agent", "cleanup", "--plan", "--backend", "kernel"]).unwrap();
        assert!(matches!(
            cleanup.command,
            Some(Command::Cleanup {
                plan: true,
                paths: Paths {
                    backend: Backend::Kernel,
                    ..
                }
            })
        ));
        assert!(Args::try_parse_from(["spanwire-agent", "--source", "file:/x"]).is_err());
    }

    /// Who may ask is decided by who reaches the loopback: by RBAC on port-forward.
    #[test]
    fn the_admin_endpoint_is_on_the_loopback() {
        let run = Args::try_parse_from(["spanwire-agent", "--node-name", "a1"]).unwrap();
        assert_eq!(run.status_address, "127.0.0.1:9477".parse().unwrap());
        let chart = include_str!("../../charts/spanwire/templates/agent.yaml");
        assert!(!chart.contains("status-address"));
    }

    #[test]
    fn every_name_in_the_kernel_can_be_another_for_cleanup_too() {
        let default = Args::try_parse_from(["spanwire-agent", "--node-name", "a1"]).unwrap();
        assert_eq!(default.paths.names.owned(), Ok(Owned::default()));
        let flags = [
            "--link=mesh7",
            "--table=4711",
            "--return-table=4712",
            "--rule-priority=300",
            "--route-protocol=99",
            "--nft-table=over-there",
            "--mark=0x100",
            "--masquerade-mark=0x1",
            "--hop-link=mesh8",
            "--hop-vni=4713",
            "--hop-port=4789",
        ];
        let other = Owned {
            link: LinkName::new("mesh7").unwrap(),
            hop_link: LinkName::new("mesh8").unwrap(),
            hop_vni: 4713,
            hop_port: 4789,
            table: TableId(4711),
            return_table: TableId(4712),
            rule_priority: 300,
            protocol: 99,
            nft_table: "over-there".to_owned(),
            mark: 0x100,
            masquerade_mark: 1,
        };
        let run = Args::try_parse_from(["spanwire-agent", "--node-name", "a1"].into_iter().chain(flags));
        assert_eq!(run.unwrap().paths.names.owned(), Ok(other.clone()));
        let cleanup = Args::try_parse_from(["spanwire-agent", "cleanup"].into_iter().chain(flags));
        let Some(Command::Cleanup { paths, .. }) = cleanup.unwrap().command else {
            panic!("it is cleanup");
        };
        assert_eq!(paths.names.owned(), Ok(other));
    }

    #[test]
    fn leaders_are_watched_as_the_command_line_says() {
        let default = Args::try_parse_from(["spanwire-agent", "--node-name", "a1"]).unwrap();
        assert_eq!(default.probing.settings(), Settings::default());
        let flags = [
            "--probe-interval=250",
            "--probe-threshold=10",
            "--probe-ceiling=50",
        ];
        let other = Args::try_parse_from(["spanwire-agent", "--node-name", "a1"].into_iter().chain(flags));
        let settings = Settings {
            interval: Duration::from_millis(250),
            threshold: 10.0,
            ceiling: 50,
        };
        assert_eq!(other.unwrap().probing.settings(), settings);
    }

    #[test]
    fn a_bad_value_is_refused() {
        for bad in [
            "--source=etcd",
            "--source=file:",
            "--backend=magic",
            "--api-server=host",
            "--node-name=A_b",
            "--link=a-name-too-long-for-linux",
            "--mark=2000",
            "--mark=0x100000000",
            "--route-protocol=256",
            "--probe-interval=0",
            "--probe-threshold=0.5",
            "--probe-threshold=NaN",
            "--probe-ceiling=0",
        ] {
            assert!(
                Args::try_parse_from(["spanwire-agent", "--node-name", "a1", bad]).is_err(),
                "{bad}"
            );
        }
    }
}

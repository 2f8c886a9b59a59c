//! The command line.

use std::{net::SocketAddr, path::PathBuf, str::FromStr};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
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
    /// Where the mesh is read from: `kubernetes`, or `file:PATH` (a file or a directory of YAML or JSON documents).
    #[arg(long, default_value = "kubernetes")]
    pub source: Source,
    /// Where the API server is reached, when its in-cluster address does not work without the mesh.
    #[arg(long, value_name = "HOST:PORT", value_parser = endpoint)]
    pub api_server: Option<Endpoint>,
    /// The namespace of the leaders' Leases.
    #[arg(long, env = "POD_NAMESPACE", default_value = "spanwire")]
    pub namespace: String,
    /// Where /healthz, /readyz, /metrics and /debug are served.
    #[arg(long, default_value = "127.0.0.1:9477")]
    pub status_address: SocketAddr,
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
    /// The key and the ledger are kept here.
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

    #[test]
    fn a_bad_value_is_refused() {
        for bad in [
            "--source=etcd",
            "--source=file:",
            "--backend=magic",
            "--api-server=host",
            "--node-name=A_b",
        ] {
            assert!(
                Args::try_parse_from(["spanwire-agent", "--node-name", "a1", bad]).is_err(),
                "{bad}"
            );
        }
    }
}

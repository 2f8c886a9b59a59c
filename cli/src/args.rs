//! The command line.

use std::path::PathBuf;

use clap::{
    Args as ClapArgs, Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use clap_complete::Shell;
use spanwire_host::Protocol;
use spanwire_topology::{Endpoint, LocationName, NodeName, PeerName, Prefix, PublicKey};

use crate::{
    answer::{DataFormat, Format, ListFormat},
    cluster::Reach,
    graph::Picture,
    peer::DEFAULT_POOL,
    settings::Settings,
    showconf::ConfigFormat,
    target::Target,
};

const EXIT_CODES: &str = "Exit codes:
  0  nothing is wrong
  1  it could not be done
  2  the command line cannot be read
  3  something is worth looking at
  4  something is wrong
  5  plan --diff: nothing is wrong, and the mesh would change";

/// Shows, explains and checks a mesh of Spanwire.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "kubectl-spanwire",
    bin_name = "kubectl spanwire",
    version,
    about,
    after_help = EXIT_CODES,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Args {
    /// How the cluster is reached.
    #[command(flatten)]
    pub reach: Reach,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What it can do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Shows who would lead, what would not be granted and why, from files
    #[command(after_help = "Examples:
  # Who leads, and what is rejected, without a cluster
  kubectl spanwire plan -f nodes.yaml -f locations/

  # What would change in the cluster if these were applied; exit code 5 where something would
  kubectl spanwire plan -f locations/ --diff

  # The same for a cluster of which there is only a dump
  kubectl get nodes,locations,peers,meshnodes,locationslices -o yaml | kubectl spanwire plan -f -

  # A scenario of the tests
  kubectl spanwire plan -f topology/tests/scenarios/moving.txt")]
    Plan(PlanArgs),
    /// Shows the mesh on one screen: locations, leaders, links, Peers, and what is wrong
    #[command(after_help = "Examples:
  kubectl spanwire status

  # Again every two seconds, with what goes over each link
  kubectl spanwire status --watch

  # The locations with this label, for a program, and by their names, for kubectl
  kubectl spanwire status -l tier=edge -o json
  kubectl spanwire status -l tier=edge -o name")]
    Status(StatusArgs),
    /// Says what is wrong, with the evidence, the next command and the page that explains it
    #[command(after_help = "Examples:
  kubectl spanwire diagnose -o wide

  # Of some locations and their nodes
  kubectl spanwire diagnose a edge

  # What was read, to send to those who help; keys are left out
  kubectl spanwire diagnose --bundle spanwire.json

  # The same, by those who help
  kubectl spanwire diagnose -f spanwire.json")]
    Diagnose(DiagnoseArgs),
    /// Shows the way of a packet, hop by hop, and of the answer to it
    #[command(after_help = "Examples:
  # From a pod to a node, and back
  kubectl spanwire explain pod/shop/cart-0 b2

  # From a pod to the port 5432 of a service of the same namespace
  kubectl spanwire explain -n shop pod/cart-0 svc/db --port 5432

  # From a node to a service, to another location, to a Peer
  kubectl spanwire explain a2 service/shop/payments
  kubectl spanwire explain a2 location/edge
  kubectl spanwire explain 10.244.1.5 peer/laptop")]
    Explain(ExplainArgs),
    /// Measures the way between two nodes, leg by leg: five echo requests on each, sent by the agents
    #[command(after_help = "Examples:
  # From a node to another one
  kubectl spanwire ping a2 b2

  # Between the first leaders of two locations, over IPv6
  kubectl spanwire ping location/a location/edge -6

  # To a pod
  kubectl spanwire ping a2 pod/shop/cart-0")]
    Ping(PingArgs),
    /// Measures TCP throughput between two nodes in both directions, sent and received by the agents, and the processors of the
    /// nodes on the way meanwhile. It loads the network for that time
    #[command(after_help = "Examples:
  # Between two nodes
  kubectl spanwire bench a2 b2

  # Between the first leaders of two locations, for ten seconds in each direction
  kubectl spanwire bench location/a location/edge --seconds 10

  # For a program
  kubectl spanwire bench a2 b2 -o json")]
    Bench(BenchArgs),
    /// Shows that what is to be so is so, by what agents see
    #[command(
        subcommand,
        after_help = "Examples:
  # Whether what goes between locations is encrypted, by the packets of ten seconds
  kubectl spanwire verify encryption --seconds 10

  # Also by the devices of nodes that send through a leader
  kubectl spanwire verify encryption --all-nodes -o wide"
    )]
    Verify(VerifyCommand),
    /// Draws the mesh that is published
    #[command(after_help = "Examples:
  kubectl spanwire graph
  kubectl spanwire graph -o svg > mesh.svg")]
    Graph(GraphArgs),
    /// Shows the mesh as a live page in the browser, served to this machine alone, until Ctrl-C
    #[command(after_help = "Examples:
  kubectl spanwire map

  # At a port that stays the same; on a machine without a screen, behind `ssh -L 8800:127.0.0.1:8800`
  kubectl spanwire map --port 8800 --no-open")]
    Map(MapArgs),
    /// Shows the configuration of a WireGuard device
    #[command(after_help = "Examples:
  # What the agent of a leader sets
  kubectl spanwire showconf node a1 -o wg

  # What the machine of a Peer needs, but for its private key
  kubectl spanwire showconf peer laptop

  # The same where a2 has become the first leader of its location
  kubectl spanwire showconf peer laptop --leader a2")]
    Showconf(ShowconfArgs),
    /// Adds, lists and removes Peers: WireGuard parties outside the cluster
    #[command(
        subcommand,
        after_help = "Examples:
  # A laptop: makes a key pair here, writes laptop.conf for wg-quick
  kubectl spanwire peer add laptop --location a

  # The same with a preshared key, which goes into the file and into a Secret that leaders read
  kubectl spanwire peer add laptop --location a --preshared-key

  # A router with a network behind it that has a key already
  kubectl spanwire peer add office --public-key KEY --allowed-ip 192.168.50.0/24 --endpoint vpn.example.com:51820

  kubectl spanwire peer list -o wide
  kubectl spanwire peer remove laptop"
    )]
    Peer(PeerCommand),
    /// Joins this Linux machine to the mesh as a Peer, until Ctrl-C: reaches pods and nodes of every location
    #[command(after_help = "Examples:
  # With an address of 10.199.0.0/16 that is free, under the name of this machine; root has another kubeconfig than you
  sudo -E kubectl spanwire connect

  # Also to services, by the networks that the API server says they have
  sudo -E kubectl spanwire connect --service-cidr

  # By one location alone, with this address
  sudo -E kubectl spanwire connect --location a --allowed-ip 10.199.0.7/32 --name laptop")]
    Connect(ConnectArgs),
    /// Writes a script that has Spanwire take over what Kilo does; changes nothing itself
    #[command(
        subcommand,
        after_help = "Examples:
  # A script to read, in an order that never leaves both in charge of a node
  kubectl spanwire migrate kilo > migrate.sh

  # And to run, which can be done again where it ended with an error
  bash migrate.sh"
    )]
    Migrate(MigrateCommand),
    /// Writes the completion script for a shell
    #[command(after_help = "Examples:
  kubectl-spanwire completion bash > /etc/bash_completion.d/kubectl-spanwire
  kubectl-spanwire completion zsh > ~/.zfunc/_kubectl-spanwire
  kubectl-spanwire completion fish > ~/.config/fish/completions/kubectl-spanwire.fish")]
    Completion {
        /// The shell
        shell: Shell,
    },
}

impl Command {
    /// Whether it names pods or services, which have a namespace.
    #[must_use]
    pub const fn names_objects(&self) -> bool {
        matches!(self, Self::Explain(_) | Self::Ping(_) | Self::Bench(_))
    }
}

/// The arguments of `plan`.
#[derive(Clone, Debug, Default, ClapArgs)]
pub struct PlanArgs {
    /// A file of Nodes, Locations, Peers, MeshNodes and LocationSlices, a folder of such files, - for the standard input, or a
    /// scenario (a file with another ending than .yaml, .yml and .json); can be given more than once
    #[arg(short, long, value_name = "FILE", required = true)]
    pub filename: Vec<PathBuf>,
    /// Apply the files to what the cluster has, without changing it, and show what differs
    #[arg(long)]
    pub diff: bool,
    /// How to write it; names are those of the locations and Peers, with --diff of the objects that would change
    #[arg(short, long)]
    pub output: Option<ListFormat>,
    /// The settings that decide.
    #[command(flatten)]
    pub settings: Settings,
}

/// The arguments of `status`.
#[derive(Clone, Debug, Default, ClapArgs)]
pub struct StatusArgs {
    /// Show it again every two seconds; on a terminal in place, as much as fits, and with -o wide all of it, one block after another
    #[arg(short, long, conflicts_with = "filename")]
    pub watch: bool,
    /// Read files instead of the cluster, as `plan` does; what agents measure is what a bundle has of it
    #[arg(short, long, value_name = "FILE")]
    pub filename: Vec<PathBuf>,
    /// Show the Locations with these labels alone
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "filename")]
    pub selector: Option<String>,
    /// How to write it; names are those of the locations, without what agents measure
    #[arg(short, long)]
    pub output: Option<ListFormat>,
}

/// The arguments of `diagnose`.
#[derive(Clone, Debug, Default, ClapArgs)]
pub struct DiagnoseArgs {
    /// Look at these locations alone
    #[arg(value_name = "LOCATION")]
    pub locations: Vec<String>,
    /// Read files instead of the cluster, as `plan` does; what agents answer is what a bundle has of it
    #[arg(short, long, value_name = "FILE")]
    pub filename: Vec<PathBuf>,
    /// Write to a new file what helps those who are asked for help: objects, what agents answer, the operator's settings; keys are
    /// left out. -f takes it in place of the cluster
    #[arg(long, value_name = "FILE")]
    pub bundle: Option<PathBuf>,
    /// How to write it; names are those of the objects to look at
    #[arg(short, long)]
    pub output: Option<ListFormat>,
}

fn protocols() -> impl TypedValueParser<Value = Protocol> {
    PossibleValuesParser::new(Protocol::ALL.map(Protocol::name)).try_map(|name| name.parse::<Protocol>())
}

/// The arguments of `explain`.
#[derive(Clone, Debug, ClapArgs)]
pub struct ExplainArgs {
    /// Where the packet begins: an address, node/NAME, pod/NAME, service/NAME (both of the namespace -n, or of another one as
    /// pod/NAMESPACE/NAME), location/NAME, peer/NAME; or the name alone of a node, a location or a Peer
    pub from: Target,
    /// Where it is to go: the same
    pub to: Target,
    /// What the packet carries, for what rules decide by that: tcp, udp, or icmp (an echo request) [default: that is left open, and
    /// tcp with --port]
    #[arg(long, value_name = "PROTOCOL", value_parser = protocols(), conflicts_with = "filename")]
    pub protocol: Option<Protocol>,
    /// The port that it goes to; of a service one of its own ports
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), conflicts_with = "filename")]
    pub port: Option<u16>,
    /// Where a name has addresses of both families, take those of IPv6
    #[arg(short = '6', long)]
    pub ipv6: bool,
    /// Read files instead of the cluster, as `plan` does; agents are not asked then
    #[arg(short, long, value_name = "FILE")]
    pub filename: Vec<PathBuf>,
    /// How to write it
    #[arg(short, long)]
    pub output: Option<DataFormat>,
}

/// The arguments of `ping`.
#[derive(Clone, Debug, ClapArgs)]
pub struct PingArgs {
    /// Where it begins: a node, location/NAME, or an address of a node
    pub from: Target,
    /// Who answers: an address, a node, pod/NAME, location/NAME, peer/NAME, service/NAME
    pub to: Target,
    /// Where a name has addresses of both families, take those of IPv6
    #[arg(short = '6', long)]
    pub ipv6: bool,
    /// How to write it
    #[arg(short, long)]
    pub output: Option<DataFormat>,
}

/// The arguments of `bench`.
#[derive(Clone, Debug, ClapArgs)]
pub struct BenchArgs {
    /// One end: a node, location/NAME, or an address of a node
    pub from: Target,
    /// The other end: the same
    pub to: Target,
    /// For so long each end sends
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=30))]
    pub seconds: u64,
    /// Where a name has addresses of both families, take those of IPv6
    #[arg(short = '6', long)]
    pub ipv6: bool,
    /// How to write it
    #[arg(short, long)]
    pub output: Option<Format>,
}

/// What is verified.
#[derive(Clone, Debug, Subcommand)]
pub enum VerifyCommand {
    /// Counts packets between locations on the devices of leaders to other machines: in WireGuard, and in plaintext
    #[command(after_help = "Examples:
  # By the packets of ten seconds; exit code 4 where one was in plaintext
  kubectl spanwire verify encryption --seconds 10

  # Also by the devices of nodes that send through a leader
  kubectl spanwire verify encryption --all-nodes -o wide")]
    Encryption(EncryptionArgs),
}

/// The arguments of `verify encryption`.
#[derive(Clone, Debug, ClapArgs)]
pub struct EncryptionArgs {
    /// For so long packets are counted
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub seconds: u64,
    /// Have the agents of all nodes count, also of those that send through a leader
    #[arg(long)]
    pub all_nodes: bool,
    /// How to write it
    #[arg(short, long)]
    pub output: Option<Format>,
}

/// The arguments of `graph`.
#[derive(Clone, Debug, Default, ClapArgs)]
pub struct GraphArgs {
    /// In what it is written
    #[arg(short, long, default_value = "text")]
    pub output: Picture,
    /// Read files instead of the cluster, as `plan` does
    #[arg(short, long, value_name = "FILE")]
    pub filename: Vec<PathBuf>,
}

/// The arguments of `map`.
#[derive(Clone, Debug, Default, ClapArgs)]
pub struct MapArgs {
    /// The port of 127.0.0.1 that the page is served at [default: a free one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Open no browser, and say the address alone
    #[arg(long)]
    pub no_open: bool,
}

/// The arguments of `showconf`.
#[derive(Clone, Debug, ClapArgs)]
pub struct ShowconfArgs {
    /// Of a leader or of a Peer
    pub of: Device,
    /// Its name
    pub name: String,
    /// Of a Peer: the leader that it is to talk to instead of the first one of its location; can be given more than once
    #[arg(long, value_name = "NODE")]
    pub leader: Vec<NodeName>,
    /// How to write it
    #[arg(short, long, default_value = "wg-quick")]
    pub output: ConfigFormat,
    /// Read files instead of the cluster, as `plan` does
    #[arg(short, long, value_name = "FILE")]
    pub filename: Vec<PathBuf>,
}

/// Whose device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Device {
    /// Of a leader
    Node,
    /// Of a Peer
    Peer,
}

/// What is done with Peers.
#[derive(Clone, Debug, Subcommand)]
pub enum PeerCommand {
    /// Adds a Peer, and writes the wg-quick file for its machine
    #[command(after_help = "Examples:
  # A laptop: makes a key pair here, writes laptop.conf
  kubectl spanwire peer add laptop --location a

  # With a file for each leader that may take over, to change to when one has
  kubectl spanwire peer add laptop --location a --all-leaders

  # A phone, which scans what is in the file
  kubectl spanwire peer add phone --qr

  # With a preshared key, which goes into the file and into a Secret that leaders read
  kubectl spanwire peer add laptop --preshared-key

  # A router with a network behind it that has a key already
  kubectl spanwire peer add office --public-key KEY --allowed-ip 192.168.50.0/24 --endpoint vpn.example.com:51820

  # What would be created
  kubectl spanwire peer add laptop --dry-run")]
    Add(PeerAdd),
    /// Lists Peers
    #[command(after_help = "Examples:
  kubectl spanwire peer list -o wide

  # Those with this label, by their names, for kubectl
  kubectl spanwire peer list -l team=edge -o name")]
    List(PeerList),
    /// Removes Peers
    #[command(after_help = "Examples:
  kubectl spanwire peer remove laptop phone")]
    Remove(PeerRemove),
}

/// The arguments of `peer add`.
#[derive(Clone, Debug, ClapArgs)]
pub struct PeerAdd {
    /// The name of the Peer
    pub name: String,
    /// A network that it sends from, and that is sent to it; can be given more than once [default: a free address of the pool]
    #[arg(long, value_name = "NETWORK")]
    pub allowed_ip: Vec<Prefix>,
    /// From where a free address is taken where no --allowed-ip is given
    #[arg(
        long,
        value_name = "NETWORK",
        default_value = DEFAULT_POOL,
        conflicts_with = "allowed_ip"
    )]
    pub pool: Prefix,
    /// The location that it attaches to [default: every one whose leaders anyone can reach]
    #[arg(long, value_name = "NAME", value_parser = spanwire_crds::annotations::location_name)]
    pub location: Option<LocationName>,
    /// Where it is reached, where it can be
    #[arg(long, value_name = "HOST:PORT")]
    pub endpoint: Option<Endpoint>,
    /// Its key, where its machine has one already [default: a key pair is made here]
    #[arg(long, value_name = "KEY")]
    pub public_key: Option<PublicKey>,
    /// Make a preshared key too, without which no leader talks to it: writes it into the file and, as NAME, into the Secret
    #[arg(long)]
    pub preshared_key: bool,
    /// The Secret for that, in Spanwire's namespace; one that the chart's value agent.presharedKeySecrets names
    #[arg(
        long,
        value_name = "SECRET",
        default_value = spanwire_crds::names::PRESHARED_KEYS,
        requires = "preshared_key"
    )]
    pub preshared_key_secret: String,
    /// The file for wg-quick, which must not be there yet [default: NAME.conf]
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Write a file for each other leader that may take the place of the present one, too: NAME.LEADER/NAME.conf
    #[arg(long, conflicts_with = "dry_run")]
    pub all_leaders: bool,
    /// Show what is in the file as a QR code, too, which WireGuard on a phone scans
    #[arg(long, conflicts_with_all = ["public_key", "dry_run"])]
    pub qr: bool,
    /// Show the Peer and create nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// The arguments of `peer list`.
#[derive(Clone, Debug, Default, ClapArgs)]
pub struct PeerList {
    /// List the Peers with these labels alone
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "filename")]
    pub selector: Option<String>,
    /// Read files instead of the cluster, as `plan` does
    #[arg(short, long, value_name = "FILE")]
    pub filename: Vec<PathBuf>,
    /// How to write it
    #[arg(short, long)]
    pub output: Option<ListFormat>,
}

/// The arguments of `peer remove`.
#[derive(Clone, Debug, ClapArgs)]
pub struct PeerRemove {
    /// The Peers
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}

/// The arguments of `connect`.
#[derive(Clone, Debug, ClapArgs)]
pub struct ConnectArgs {
    /// The name of the Peer [default: the host name of this machine]
    #[arg(long, value_name = "NAME")]
    pub name: Option<PeerName>,
    /// The address that this machine has in the mesh, as ADDRESS/32 or ADDRESS/128; can be given more than once [default: a free
    /// address of the pool]
    #[arg(long, value_name = "ADDRESS")]
    pub allowed_ip: Vec<Prefix>,
    /// From where a free address is taken where no --allowed-ip is given
    #[arg(
        long,
        value_name = "NETWORK",
        default_value = DEFAULT_POOL,
        conflicts_with = "allowed_ip"
    )]
    pub pool: Prefix,
    /// Reach services too, by this network of theirs; can be given more than once [default without NETWORK: those that the API server
    /// names]
    #[arg(long, value_name = "NETWORK", num_args = 0..=1)]
    pub service_cidr: Option<Vec<Prefix>>,
    /// The location that this machine attaches to [default: every one whose leaders anyone can reach]
    #[arg(long, value_name = "NAME", value_parser = spanwire_crds::annotations::location_name)]
    pub location: Option<LocationName>,
    /// Carry packets by this spanwire-tunnel [default: by the kernel's WireGuard; without one by the spanwire-tunnel on the PATH]
    #[arg(long, value_name = "PROGRAM")]
    pub tunnel: Option<PathBuf>,
}

/// From what is migrated.
#[derive(Clone, Debug, Subcommand)]
pub enum MigrateCommand {
    /// From Kilo
    #[command(after_help = "Examples:
  # A script to read, and to run: what fails ends it, and it can be run again
  kubectl spanwire migrate kilo > migrate.sh
  bash migrate.sh

  # Into another namespace, with a chart from elsewhere
  kubectl spanwire migrate kilo -n mesh --chart ./spanwire-1.2.3.tgz > migrate.sh")]
    Kilo(MigrateArgs),
}

/// The arguments of `migrate kilo`.
#[derive(Clone, Debug, Default, ClapArgs)]
pub struct MigrateArgs {
    /// The chart of Spanwire, as helm takes it: a folder, an archive, an address
    #[arg(long, value_name = "CHART", default_value = "charts/spanwire")]
    pub chart: String,
    /// The image by which Kilo's devices are removed from the nodes, with a shell and `ip` [default: that of Kilo's DaemonSet]
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// How to write it
    #[arg(short, long)]
    pub output: Option<DataFormat>,
}

#[cfg(test)]
mod tests;

//! Reads and changes the network state of one Linux machine.
//!
//! [`Kernel::read`] gives the actual [`Host`](spanwire_host::Host), of which only what is Spanwire's by
//! [`Owned`](spanwire_host::Owned); [`Kernel::apply`] applies [`Step`](spanwire_host::Step)s to it; [`Kernel::inventory`]
//! is what else is on the machine; [`Kernel::changes`] reports when to read again; [`Kernel::ownership_conflicts`] finds what
//! others use although it is Spanwire's; [`Kernel::way`] asks which way a packet goes. What should be is decided elsewhere: this crate has no opinion.
//!
//! Links, addresses, routes and rules go by netlink (the module `netlink` says how so many go so fast), the nft table by
//! the command `nft`, WireGuard by generic netlink or, where the kernel has none, by the sockets of a process.
//!
//! Everything happens in the network namespace of the thread that calls [`Kernel::open`].

mod address;
mod apply;
mod changes;
mod datagrams;
mod echo;
mod errno;
mod error;
mod firewall;
mod inventory;
mod ipsec;
mod kernel;
mod link;
mod netlink;
mod nft;
mod ownership;
mod resolvers;
mod route;
mod rule;
mod state_file;
mod surroundings;
mod sysctl;
mod tap;
mod tunnel_process;
mod vxlan;
mod watched;
mod way;
mod wireguard;

pub use apply::Report;
pub use changes::Changes;
pub use datagrams::Datagrams;
pub use echo::{Echo, EchoError, Neighbour, Neighbours, processor_time};
pub use error::{ApplyError, NftError, OpenError, ReadError, UapiError};
pub use kernel::{BackendChoice, Config, Kernel};
pub use netlink::{NetlinkError, Refusal};
pub use nft::script;
pub use sysctl::Remembered;
pub use tap::{Tap, TapError};
pub use tunnel_process::{Heard, TunnelProcess};
pub use way::{Judged, JudgedWay, Packet, Way, WayOut};
pub use wireguard::{Backend, PrivateKey, Userspace};

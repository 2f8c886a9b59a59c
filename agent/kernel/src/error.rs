//! What can fail, one type per verb.

use std::{io, path::PathBuf};

use nix::errno::Errno;
use spanwire_host::{LinkName, OwnershipConflict};
use spanwire_topology::PublicKey;
use thiserror::Error;

use crate::netlink::{NetlinkError, Refusal};

/// Why the machine's network cannot be worked with at all.
#[derive(Debug, Error)]
pub enum OpenError {
    /// No netlink.
    #[error("cannot talk to the kernel")]
    Netlink(#[from] NetlinkError),
    /// Making a WireGuard device of the kernel's, to see whether it can, was not allowed.
    #[error("cannot find out whether the kernel has WireGuard; does this process have NET_ADMIN?")]
    Probe(#[source] Refusal),
}

/// Why the actual state could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The kernel does not answer.
    #[error("cannot read {what}")]
    Netlink {
        /// What was being read.
        what: &'static str,
        /// The cause.
        #[source]
        source: NetlinkError,
    },
    /// The userspace WireGuard does not answer.
    #[error("cannot read the WireGuard device")]
    Userspace(#[from] UapiError),
    /// The command `nft` failed.
    #[error(transparent)]
    Nft(#[from] NftError),
}

impl ReadError {
    pub(crate) fn netlink(what: &'static str) -> impl FnOnce(NetlinkError) -> Self {
        move |source| Self::Netlink { what, source }
    }
}

/// Why the command `nft` did not do it.
#[derive(Debug, Error)]
pub enum NftError {
    /// It cannot be run.
    #[error("cannot run the command nft; is the package nftables installed?")]
    Run(#[source] io::Error),
    /// It failed.
    #[error("nft failed: {0}")]
    Failed(String),
    /// The table cannot be read.
    #[error("the nft table cannot be read")]
    Read(#[from] NetlinkError),
    /// It loaded the table again and again, and each time another program changed nf_tables before it was read.
    #[error(
        "other programs change nf_tables so often that nothing tells whether Spanwire's table is as it was loaded"
    )]
    Disturbed,
}

/// Returns an error with its causes; of what a command said the first line, which says what is wrong.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let first_line = |cause: &dyn std::error::Error| cause.to_string().lines().next().map(str::to_owned);
    let causes: Vec<String> = causes.filter_map(first_line).collect();
    causes.join(": ")
}

/// Why the userspace WireGuard did not do it.
#[derive(Debug, Error)]
pub enum UapiError {
    /// Its socket cannot be used.
    #[error("userspace WireGuard is not reached at {path}; is spanwire-tunnel running on this node?", path = path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It does not answer.
    #[error("userspace WireGuard at {path} does not answer", path = path.display())]
    Silent {
        /// The socket.
        path: PathBuf,
    },
    /// It said no.
    #[error("userspace WireGuard refused the change: {}", errno.desc())]
    Refused {
        /// The error number.
        errno: Errno,
    },
    /// It did not make or remove the device.
    #[error("the tunnel process answered {answer:?} to {request:?}")]
    Control {
        /// What was asked.
        request: String,
        /// What it said.
        answer: String,
    },
    /// Its answer is not what the protocol says.
    #[error("userspace WireGuard answered with the line {line:?}")]
    Malformed {
        /// The line; never one with a key of ours in it.
        line: String,
    },
}

impl UapiError {
    /// Whether there is no process at the socket, or one that hangs: it is stopped, or stuck.
    pub(crate) fn is_unanswered(&self) -> bool {
        self.is_absence() || matches!(self, Self::Silent { .. })
    }

    /// Whether there is no process at the socket.
    pub(crate) fn is_absence(&self) -> bool {
        match self {
            Self::Unreachable { source, .. } => {
                matches!(
                    source.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                )
            }
            Self::Silent { .. } | Self::Refused { .. } | Self::Control { .. } | Self::Malformed { .. } => {
                false
            }
        }
    }
}

/// Why one step was not applied.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// The kernel cannot be talked to.
    #[error("cannot talk to the kernel")]
    Netlink(#[from] NetlinkError),
    /// The kernel refused it.
    #[error("the kernel refused it")]
    Refused(#[from] Refusal),
    /// The kernel's WireGuard was asked for.
    #[error("the kernel has no WireGuard; choose the userspace backend")]
    NoWireGuard,
    /// The VXLAN device was asked for.
    #[error("the kernel has no VXLAN (the module vxlan)")]
    NoVxlan,
    /// The device is not there.
    #[error("there is no device {0}")]
    NoLink(LinkName),
    /// There is a device of that name that no backend of Spanwire answers for.
    #[error(transparent)]
    ForeignLink(OwnershipConflict),
    /// The port for WireGuard is taken.
    #[error("{}", OwnershipConflict::Port { port: *.0 })]
    PortTaken(u16),
    /// The port for the VXLAN device is taken.
    #[error(
        "the UDP port {0} of the VXLAN device is taken by another program on this node; stop that, or give the agents of all nodes \
         another one with --hop-port (agent.names.hopPort of the chart)"
    )]
    HopPortTaken(u16),
    /// This node has no key yet.
    #[error("this node has no key")]
    NoKey,
    /// The step is for a key that this node does not have.
    #[error("the private half of {0} is not known here")]
    UnknownKey(PublicKey),
    /// The userspace WireGuard did not do it.
    #[error(transparent)]
    Userspace(#[from] UapiError),
    /// What the device has already could not be read.
    #[error("cannot find out what there is to change")]
    Read(#[source] Box<ReadError>),
    /// The kernel has no such rule.
    #[error("a rule can only be inverted as a whole, so an inverted mark must stand alone")]
    Inexpressible,
    /// `nft` did not do it.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// The kernel setting cannot be written.
    #[error("cannot write {path}", path = path.display())]
    Sysctl {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl From<ReadError> for ApplyError {
    fn from(error: ReadError) -> Self {
        Self::Read(Box::new(error))
    }
}

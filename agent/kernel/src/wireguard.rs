//! WireGuard devices: the kernel's, or a process's that stands in for it.
//!
//! Both are set up by the same few things: the device's key, port and mark; a peer's endpoint, keepalive, preshared key and
//! allowed IPs.
//! spanwire-tunnel has groups of peers as well; others have none, and are asked for none.
//! Peers are never replaced as a whole, because that would end their sessions.
//!
//! # Taking allowed IPs from a peer
//!
//! Only Linux 6.16 and the newest userspace implementations can take a single allowed IP from a peer
//! (`WGALLOWEDIP_F_REMOVE_ME`); before, a peer's whole list could only be replaced, which for a list of several messages
//! leaves a gap. So they are *parked*: an allowed IP moves to the peer that gets it last, so those to remove are given to a
//! peer that exists for a moment, and that peer is removed. It works everywhere alike, and the others of the peer stay
//! untouched. Only those that the peer really has are parked, because another peer may have got them meanwhile.

mod hex;
pub(crate) mod kernel;
mod key;
mod peer_stats;
pub(crate) mod uapi;

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf};

use spanwire_host::{LinkName, PresharedKey, WireGuard};
use spanwire_topology::{Keepalive, LocationName, Prefix, PublicKey};

pub use self::key::PrivateKey;
use self::peer_stats::Stats;
use crate::error::{ApplyError, ReadError};

/// Which WireGuard carries the packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The kernel's.
    Kernel,
    /// A process that makes a device when asked on a control socket, and speaks WireGuard's userspace protocol.
    Userspace(Userspace),
}

/// Where the userspace WireGuard is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Userspace {
    /// The socket on which a device is asked for: `up NAME`, `down NAME`.
    pub control: PathBuf,
    /// The folder of the sockets `NAME.sock` by which a device is set up.
    pub sockets: PathBuf,
}

impl Backend {
    /// Returns the kind of the link that this backend makes.
    #[must_use]
    pub fn link_kind(&self) -> &'static str {
        match self {
            Self::Kernel => KERNEL_KIND,
            Self::Userspace(_) => USERSPACE_KIND,
        }
    }
}

pub(crate) const KERNEL_KIND: &str = "wireguard";
pub(crate) const USERSPACE_KIND: &str = "tun";

/// What is to change at one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Device {
        private_key: PrivateKey,
        listen_port: u16,
        mark: u32,
    },
    Peer(PeerUpdate),
    RemovePeer(PublicKey),
}

/// What is to change at one peer; the peer is made if there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerUpdate {
    pub(crate) key: PublicKey,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) keepalive: Option<Option<Keepalive>>,
    pub(crate) group: Option<Option<LocationName>>,
    pub(crate) preshared: Option<Option<PresharedKey>>,
    pub(crate) add: BTreeSet<Prefix>,
}

/// The peer that takes allowed IPs away; removed with the last of them. No private half belongs to it: the bytes
/// of a sentence are no known multiple of the base point.
const PARKING: PublicKey = PublicKey::new(*b"spanwire parks allowed ips here.");

/// Returns the changes that take `remove` from the peer with `key`, as far as it has them in `actual`.
pub(crate) fn parking(actual: &WireGuard, key: PublicKey, remove: &BTreeSet<Prefix>) -> Vec<Change> {
    let has = actual.peers.get(&key).map(|peer| &peer.allowed_ips);
    let parked: BTreeSet<Prefix> = remove
        .iter()
        .filter(|prefix| has.is_some_and(|has| has.contains(prefix)))
        .copied()
        .collect();
    if parked.is_empty() {
        return Vec::new();
    }
    vec![
        Change::Peer(PeerUpdate {
            key: PARKING,
            endpoint: None,
            keepalive: None,
            group: None,
            preshared: None,
            add: parked,
        }),
        Change::RemovePeer(PARKING),
    ]
}

/// One device, by whichever backend.
pub(crate) enum Device<'a> {
    Kernel(&'a mut kernel::Family, &'a LinkName),
    /// Its socket, and what is known of the process.
    Userspace(PathBuf, &'a mut uapi::Process),
}

impl Device<'_> {
    /// Reads how the device is set up.
    pub(crate) async fn read(&mut self) -> Result<WireGuard, ReadError> {
        match self {
            Self::Kernel(family, name) => family.read(name).await,
            Self::Userspace(socket, process) => Ok(uapi::read(process, socket).await?.0),
        }
    }

    /// Reads how the device is set up, and its counters.
    pub(crate) async fn read_all(&mut self) -> Result<(WireGuard, Stats), ReadError> {
        match self {
            Self::Kernel(family, name) => family.read_all(name).await,
            Self::Userspace(socket, process) => Ok(uapi::read(process, socket).await?),
        }
    }

    /// Reads its private key; `None` where it has none.
    pub(crate) async fn private_key(&mut self) -> Result<Option<PrivateKey>, ReadError> {
        match self {
            Self::Kernel(family, name) => family.read_private_key(name).await,
            Self::Userspace(socket, process) => Ok(uapi::read_private_key(process, socket).await?),
        }
    }

    /// Whether its peers can be put into groups.
    pub(crate) async fn has_groups(&mut self) -> Result<bool, ReadError> {
        match self {
            Self::Kernel(..) => Ok(false),
            Self::Userspace(socket, process) => Ok(uapi::has_groups(process, socket).await?),
        }
    }

    /// Makes the changes, in order; stops at the first that fails.
    pub(crate) async fn change(&mut self, changes: &[Change]) -> Result<(), ApplyError> {
        match self {
            Self::Kernel(family, name) => family.change(name, changes).await,
            Self::Userspace(socket, process) => Ok(uapi::change(process, socket, changes).await?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use spanwire_host::WireGuardPeer;

    use super::*;

    #[test]
    fn only_what_the_peer_has_is_parked() {
        let (a, b) = (PublicKey::new([1; 32]), PublicKey::new([2; 32]));
        let prefix = |text: &str| text.parse::<Prefix>().unwrap();
        let mut actual = WireGuard::default();
        let peer = |allowed: &str| WireGuardPeer {
            allowed_ips: Arc::new([prefix(allowed)].into()),
            ..WireGuardPeer::default()
        };
        actual.peers.insert(a, peer("10.0.0.0/24"));
        actual.peers.insert(b, peer("10.0.1.0/24"));

        let remove = [prefix("10.0.0.0/24"), prefix("10.0.1.0/24")].into();
        let changes = parking(&actual, a, &remove);

        assert!(
            matches!(&changes[..], [Change::Peer(parked), Change::RemovePeer(PARKING)]
                if parked.key == PARKING && parked.add == [prefix("10.0.0.0/24")].into()),
            "{changes:?}"
        );
        assert_eq!(parking(&actual, a, &[prefix("10.0.1.0/24")].into()), []);
        assert_eq!(parking(&actual, PublicKey::new([3; 32]), &remove), []);
    }
}

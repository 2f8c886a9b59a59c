//! What goes to the reconciler, and what comes back from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use spanwire_crds::Backend;
use spanwire_host::{Host, Inventory, PeerStats, WireGuard};
use spanwire_topology::PublicKey;

use crate::{
    Trouble,
    fights::{Repaired, Subject},
};

/// What the reconciler is to achieve.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// What the machine should look like, with peers that have no endpoints.
    pub host: Arc<Host>,
    /// The endpoints to give to peers now; other peers keep theirs.
    pub endpoints: BTreeMap<PublicKey, SocketAddr>,
    /// The peers, all of them among `endpoints`, to recreate where the device has them, unless more bytes than these have come
    /// from them by now.
    pub renewals: BTreeMap<PublicKey, u64>,
    /// The UDP port on which this node listens, or will when it comes to lead.
    pub listen_port: Option<u16>,
    /// Every trace of Spanwire is to be removed.
    pub retire: bool,
    /// What is known to be taken away again and again; that it is put back is no news.
    pub contested: BTreeSet<Subject>,
}

/// What is found on the machine before a [`Target`] is set.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// The node's key and the WireGuard in use; `None` while a node retires, which needs neither.
    pub identity: Option<(PublicKey, Backend)>,
    /// What is there besides Spanwire; `None` where it was not read again.
    pub inventory: Option<Inventory>,
    /// The WireGuard device.
    pub device: DeviceReading,
}

/// The WireGuard device as it was read.
#[derive(Clone, Debug, Default)]
pub struct DeviceReading {
    /// Its configuration; `None` where there is no device.
    pub device: Option<WireGuard>,
    /// Its counters.
    pub peers: BTreeMap<PublicKey, PeerStats>,
}

/// What came of a [`Target`].
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// How many steps were applied.
    pub applied: usize,
    /// How many failed.
    pub failed: usize,
    /// The machine was found as wanted, as far as it can be.
    pub is_as_wanted: bool,
    /// What another program had changed, and the steps undid.
    pub repaired: Repaired,
    /// Every trace of Spanwire has been removed.
    pub retired: bool,
    /// What the device took; `None` where it did not come to that.
    pub peers: Option<PeerUpdates>,
    /// The device after the steps; `None` where it was not read again.
    pub device: Option<DeviceReading>,
    /// What could not be done.
    pub troubles: Vec<Trouble>,
}

/// What the device took of a [`Target`], whatever failed besides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerUpdates {
    /// The endpoints that were to be given.
    pub given: BTreeMap<PublicKey, SocketAddr>,
    /// The peers with which a step failed; they have not taken theirs.
    pub refused: BTreeSet<PublicKey>,
    /// The peers that were recreated.
    pub renewed: BTreeSet<PublicKey>,
}

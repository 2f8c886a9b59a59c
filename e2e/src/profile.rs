//! The profiles of a scenario's `hosts`: what other programs and networks do to a host.
//!
//! A profile is there before the node's kubelet starts, and again after each reboot.

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// The mark that NetBird gives packets which it has redirected.
pub const FOREIGN_MARK: u32 = 0x1bd21;

/// A neighbour on a host, or something about it, that a mesh has to live with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Docker with iptables: `docker0`, the policy DROP of FORWARD, masquerading.
    Docker,
    /// firewalld: an input and a forward chain that end with a rejection; the pods' networks are in the zone `trusted`, the
    /// ports of a node are open.
    Firewalld,
    /// A second network whose mask has the pods of all nodes in it: 10.0.0.5/8 on `wide0`.
    WideLan,
    /// IPv6 switched off for all devices.
    NoIpv6,
    /// The router of the location advertises itself and a prefix, as that of an IPv6 provider does.
    RouterAdvertisements,
    /// `wg-quick up` for a tunnel that is to take everything: two rules without priority, and a table with a default route
    /// into a device, whose other end sends on what comes by the LAN, under an address of its own.
    VpnRules,
    /// NetBird: what comes from its device `wt0`, behind which there is a host, carries the mark 0x1bd21.
    ForeignMarks,
    /// flannel's tunnel ends at the internet address of the router, which forwards it (`--flannel-external-ip` of k3s,
    /// `public-ip-overwrite` of flannel).
    ExternalVtep,
    /// A Node object NODE-old, silent for long, that has the address of the node: what a reinstalled machine leaves behind.
    StaleNode,
}

impl Profile {
    /// Returns the profile of a name, as scenarios have it.
    pub fn named(name: &str) -> Result<Self> {
        Ok(serde_json::from_value(name.into())?)
    }
}

//! What others use on the machine although it is Spanwire's.

use spanwire_topology::Family;
use thiserror::Error;

use crate::{LinkName, TableId};

/// Something of others that has an identifier of Spanwire's ([`Owned`](crate::Owned)); its text says what to change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum OwnershipConflict {
    /// A device with Spanwire's name that is no WireGuard device.
    #[error(
        "the device {name} is there already and is {kind}, not WireGuard; remove it, or give Spanwire's device another name",
        kind = if kind.is_empty() { "hardware" } else { kind }
    )]
    Link {
        /// The name.
        name: LinkName,
        /// What it is.
        kind: String,
    },
    /// A device with the name of Spanwire's VXLAN device that is none.
    #[error(
        "the device {name} is there already and is {kind}, not VXLAN; remove it, or give Spanwire's VXLAN device another name",
        kind = if kind.is_empty() { "hardware" } else { kind }
    )]
    HopLink {
        /// The name.
        name: LinkName,
        /// What it is.
        kind: String,
    },
    /// A TUN device with Spanwire's name that no WireGuard answers for.
    #[error(
        "no WireGuard answers for the TUN device {name}: its tunnel process is starting or hangs, or another program made \
         the device; if this lasts, restart the tunnel's pod on this node, or remove the device"
    )]
    SilentLink {
        /// The name.
        name: LinkName,
    },
    /// Rules of others in Spanwire's priority band.
    #[error(
        "an {family} rule of another program (protocol {protocol}) has the priority {priority}, which is Spanwire's; \
         remove it, or give Spanwire other priorities"
    )]
    Rule {
        /// The family.
        family: Family,
        /// The priority.
        priority: u32,
        /// Its `rtm_protocol`, which names the program that made it.
        protocol: u8,
    },
    /// Routes of others in one of Spanwire's tables.
    #[error(
        "{count} routes of another program are in the routing table {table}, which is Spanwire's; remove them, or \
         give Spanwire another table",
        table = table.0
    )]
    Routes {
        /// The table.
        table: TableId,
        /// How many.
        count: usize,
    },
    /// An nft table with Spanwire's name that Spanwire did not make.
    #[error(
        "the nft table inet {name} is there already and not Spanwire's; remove it, or give Spanwire's table another name"
    )]
    NftTable {
        /// The name.
        name: String,
    },
    /// The UDP port for WireGuard is taken.
    #[error(
        "the UDP port {port} is taken by another program on this node; annotate the node with another listen port"
    )]
    Port {
        /// The port.
        port: u16,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_says_what_to_change() {
        let name = || LinkName::new("spanwire0").unwrap();
        let texts = [
            (
                OwnershipConflict::SilentLink { name: name() },
                "no WireGuard answers for the TUN device spanwire0: its tunnel process is starting or hangs, or another \
                 program made the device; if this lasts, restart the tunnel's pod on this node, or remove the device",
            ),
            (
                OwnershipConflict::Link {
                    name: name(),
                    kind: String::new(),
                },
                "the device spanwire0 is there already and is hardware, not WireGuard; remove it, or give \
                 Spanwire's device another name",
            ),
            (
                OwnershipConflict::HopLink {
                    name: LinkName::new("spanwire-hop").unwrap(),
                    kind: "bridge".to_owned(),
                },
                "the device spanwire-hop is there already and is bridge, not VXLAN; remove it, or give Spanwire's VXLAN \
                 device another name",
            ),
            (
                OwnershipConflict::Rule {
                    family: Family::V6,
                    priority: 2100,
                    protocol: 3,
                },
                "an IPv6 rule of another program (protocol 3) has the priority 2100, which is Spanwire's; remove it, \
                 or give Spanwire other priorities",
            ),
            (
                OwnershipConflict::Routes {
                    table: TableId(51_830),
                    count: 2,
                },
                "2 routes of another program are in the routing table 51830, which is Spanwire's; remove them, or \
                 give Spanwire another table",
            ),
        ];
        for (conflict, text) in texts {
            assert_eq!(conflict.to_string(), text);
        }
    }
}

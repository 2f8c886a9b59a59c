//! Every identifier by which Spanwire recognises what is its own in the kernel. Nothing else is ever changed or removed.

use thiserror::Error;

use crate::{LinkName, TableId};

/// The identifiers, each configurable. The defaults keep clear of those who may live on the same node:
///
/// | who | what they use |
/// |---|---|
/// | kube-proxy | fwmark 0x4000 (masquerade), 0x8000 (drop); nft table `kube-proxy` |
/// | flannel | links `flannel.*`, nft tables `flannel-ipv4`, `flannel-ipv6` |
/// | Calico | fwmark 0xffff0000, route protocol 80, rules without a fixed priority |
/// | Cilium | fwmark 0x0f00 and 0x1e00, rule priorities 9 to 110, tables 2004 and 2005 |
/// | Tailscale | fwmark 0xff0000, rule priorities 5210 to 5270, table 52 |
/// | AWS VPC CNI | fwmark 0x80, rule priorities 512 to 1536 |
/// | CNI portmap | fwmark 0x2000, on the first packet from a pod to a host port of its own node, which is masqueraded by it: the tunnel's datagrams lose theirs before that |
/// | wg-quick | fwmark and table 51820, port 51820 |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// The name of the WireGuard device.
    pub link: LinkName,
    /// The name of the VXLAN device between followers and leaders.
    pub hop_link: LinkName,
    /// Its VXLAN network identifier.
    pub hop_vni: u32,
    /// Its UDP port, the same on all nodes.
    pub hop_port: u16,
    /// The routing table of what leaves this node (T in the design).
    pub table: TableId,
    /// The routing table of what leaves the tunnel for a follower's node address.
    pub return_table: TableId,
    /// The first of the sixteen rule priorities that are Spanwire's; below `main` (32766). Where rules of others would take
    /// packets before these do, Spanwire's have earlier ones.
    pub rule_priority: u32,
    /// The protocol number on every route and rule (`rtm_protocol`, above RTPROT_STATIC; see rtnetlink(7)).
    pub protocol: u8,
    /// The name of the nft table, of family `inet`.
    pub nft_table: String,
    /// The bit that WireGuard sets on its own packets. Packets with other bits beside it are those of other programs.
    pub mark: u32,
    /// The bit by which kube-proxy marks packets that it will masquerade (`--iptables-masquerade-bit`). Not Spanwire's;
    /// such packets keep the source that kube-proxy gives them, which through the tunnel is the node's address.
    pub masquerade_mark: u32,
}

impl Owned {
    /// How many rule priorities from [`Self::rule_priority`] on are Spanwire's.
    pub const RULE_BAND: u32 = 16;

    /// Returns the identifiers of a machine outside the cluster that `kubectl spanwire connect` makes a Peer; others than those of a
    /// node, so that neither takes the other's for its own. It uses no nft table and no mark.
    #[must_use]
    pub fn of_peer() -> Self {
        Self {
            link: LinkName::new("spanwire-peer").expect("a short name"),
            table: TableId(51_832),
            return_table: TableId(51_833),
            rule_priority: 2_120,
            protocol: 152,
            nft_table: "spanwire-peer".to_owned(),
            ..Self::default()
        }
    }

    /// Whether these identifiers can be Spanwire's.
    ///
    /// # Errors
    /// The first that cannot, and why.
    pub fn check(&self) -> Result<(), OwnedError> {
        let plain = |name: &str| {
            name.chars()
                .all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
        };
        if !plain(self.link.as_str()) || self.link.as_str() == "lo" {
            return Err(OwnedError::Link(self.link.clone()));
        }
        if !plain(self.hop_link.as_str()) || self.hop_link.as_str() == "lo" {
            return Err(OwnedError::Link(self.hop_link.clone()));
        }
        if self.link == self.hop_link {
            return Err(OwnedError::OneLink(self.link.clone()));
        }
        // 24 bits (RFC 7348, section 5); 0 stands for none.
        if !(1..1 << 24).contains(&self.hop_vni) {
            return Err(OwnedError::Vni(self.hop_vni));
        }
        if self.hop_port == 0 {
            return Err(OwnedError::Port);
        }
        // RT_TABLE_UNSPEC, _DEFAULT, _MAIN and _LOCAL of linux/rtnetlink.h.
        let reserved = |table: &TableId| matches!(table.0, 0 | 253 | 254 | 255);
        if let Some(table) = [self.table, self.return_table].into_iter().find(reserved) {
            return Err(OwnedError::Table(table.0));
        }
        if self.table == self.return_table {
            return Err(OwnedError::OneTable(self.table.0));
        }
        if self.rule_priority == 0 || self.rule_priority > MAIN - Self::RULE_BAND {
            return Err(OwnedError::Priority(self.rule_priority));
        }
        // RTPROT_UNSPEC to RTPROT_STATIC of linux/rtnetlink.h.
        if self.protocol <= 4 {
            return Err(OwnedError::Protocol(self.protocol));
        }
        let letter = self.nft_table.starts_with(|c: char| c.is_ascii_alphabetic());
        if !letter || !plain(&self.nft_table) || self.nft_table.len() > 64 {
            return Err(OwnedError::NftTable(self.nft_table.clone()));
        }
        let bits = [self.mark, self.masquerade_mark];
        if let Some(mark) = bits.into_iter().find(|mark| !mark.is_power_of_two()) {
            return Err(OwnedError::Mark(mark));
        }
        if self.mark == self.masquerade_mark {
            return Err(OwnedError::OneMark(self.mark));
        }
        Ok(())
    }
}

/// The priority of the rule that looks up `main` (ip-rule(8)).
const MAIN: u32 = 32_766;

/// Why identifiers cannot be Spanwire's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OwnedError {
    /// The name of the device.
    #[error("the device cannot be named {0:?}; take letters, digits, '-', '_' and '.', and not lo")]
    Link(LinkName),
    /// One name for two devices.
    #[error("two devices cannot both be named {0:?}; the VXLAN device needs a name of its own")]
    OneLink(LinkName),
    /// The VXLAN network identifier.
    #[error("{0} is no VXLAN network identifier; take 1 to 16777215")]
    Vni(u32),
    /// The port of the VXLAN device.
    #[error("0 is no port for the VXLAN device; take 1 to 65535, the same on all nodes")]
    Port,
    /// A table of the kernel's own.
    #[error("the routing table {0} is the kernel's own, as 0, 253, 254 and 255 are; take another number")]
    Table(u32),
    /// One table for two purposes.
    #[error("the routing table {0} cannot be both; what leaves the tunnel needs a table of its own")]
    OneTable(u32),
    /// The band of rule priorities.
    #[error(
        "sixteen rule priorities from {0} on are not between those of local (0) and main (32766); begin at 1 to 32750"
    )]
    Priority(u32),
    /// A protocol of the kernel's or the administrator's.
    #[error("the route protocol {0} is the kernel's or the administrator's, as 0 to 4 are; take 5 to 255")]
    Protocol(u8),
    /// The name of the nft table.
    #[error(
        "the nft table cannot be named {0:?}; begin with a letter, go on with letters, digits, '-', '_' and '.', at most 64"
    )]
    NftTable(String),
    /// More or less than one bit.
    #[error("the mark {0:#x} is not one bit; take one like 0x2000")]
    Mark(u32),
    /// One bit for two purposes.
    #[error("the mark {0:#x} is the one by which kube-proxy masquerades; take another bit")]
    OneMark(u32),
}

impl Default for Owned {
    fn default() -> Self {
        Self {
            link: LinkName::new("spanwire0").expect("a short name"),
            hop_link: LinkName::new("spanwire-hop").expect("a short name"),
            hop_vni: 51_830,
            hop_port: 51_830,
            table: TableId(51_830),
            return_table: TableId(51_831),
            rule_priority: 2_100,
            protocol: 151,
            nft_table: "spanwire".to_owned(),
            mark: 0x2000,
            masquerade_mark: 0x4000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut Owned);

    #[test]
    fn identifiers_that_are_anothers_are_refused_with_what_to_take() {
        assert_eq!(Owned::default().check(), Ok(()));
        let link = |name| LinkName::new(name).unwrap();
        let wrong: [(Change, OwnedError); 17] = [
            (
                |owned| owned.link = LinkName::new("lo").unwrap(),
                OwnedError::Link(link("lo")),
            ),
            (
                |owned| owned.link = LinkName::new("a\"b").unwrap(),
                OwnedError::Link(link("a\"b")),
            ),
            (
                |owned| owned.hop_link = LinkName::new("a\"b").unwrap(),
                OwnedError::Link(link("a\"b")),
            ),
            (
                |owned| owned.hop_link = owned.link.clone(),
                OwnedError::OneLink(link("spanwire0")),
            ),
            (|owned| owned.hop_vni = 0, OwnedError::Vni(0)),
            (|owned| owned.hop_vni = 1 << 24, OwnedError::Vni(1 << 24)),
            (|owned| owned.hop_port = 0, OwnedError::Port),
            (|owned| owned.table = TableId(254), OwnedError::Table(254)),
            (|owned| owned.return_table = TableId(0), OwnedError::Table(0)),
            (
                |owned| owned.return_table = owned.table,
                OwnedError::OneTable(51_830),
            ),
            (|owned| owned.rule_priority = 0, OwnedError::Priority(0)),
            (|owned| owned.rule_priority = 32_751, OwnedError::Priority(32_751)),
            (|owned| owned.protocol = 4, OwnedError::Protocol(4)),
            (
                |owned| owned.nft_table = "a b".to_owned(),
                OwnedError::NftTable("a b".to_owned()),
            ),
            (
                |owned| owned.nft_table = "7".to_owned(),
                OwnedError::NftTable("7".to_owned()),
            ),
            (|owned| owned.mark = 0x3000, OwnedError::Mark(0x3000)),
            (|owned| owned.mark = 0x4000, OwnedError::OneMark(0x4000)),
        ];
        for (change, error) in wrong {
            let mut owned = Owned::default();
            change(&mut owned);
            assert_eq!(owned.check(), Err(error));
        }
    }

    #[test]
    fn what_is_of_a_peer_is_not_of_a_node() {
        let (node, peer) = (Owned::default(), Owned::of_peer());
        assert_eq!(peer.check(), Ok(()));
        assert!(node.link != peer.link && node.protocol != peer.protocol && node.nft_table != peer.nft_table);
        assert!(![peer.table, peer.return_table].contains(&node.table));
        assert!(![peer.table, peer.return_table].contains(&node.return_table));
        assert!(peer.rule_priority >= node.rule_priority + Owned::RULE_BAND);
    }

    #[test]
    fn the_ends_of_what_is_allowed_are_allowed() {
        let owned = Owned {
            rule_priority: 32_750,
            protocol: 5,
            hop_vni: (1 << 24) - 1,
            table: TableId(1),
            mark: 1 << 31,
            ..Owned::default()
        };
        assert_eq!(owned.check(), Ok(()));
        let first = Owned {
            rule_priority: 1,
            ..owned
        };
        assert_eq!(first.check(), Ok(()));
    }
}

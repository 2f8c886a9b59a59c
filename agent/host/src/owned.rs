//! Every identifier by which Spanwire recognises what is its own in the kernel. Nothing else is ever changed or removed.

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
/// | CNI portmap | fwmark 0x2000, on the first packet from a pod to a host port of its own node: it goes to a local pod, where neither rules nor NAT of Spanwire matter |
/// | wg-quick | fwmark and table 51820, port 51820 |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// The name of the WireGuard device.
    pub link: LinkName,
    /// The routing table of what leaves this node (T in the design).
    pub table: TableId,
    /// The routing table of what leaves the tunnel for a follower's node address.
    pub return_table: TableId,
    /// The first of the sixteen rule priorities that are Spanwire's; below `main` (32766).
    pub rule_priority: u32,
    /// The protocol number on every route and rule (`rtm_protocol`, above RTPROT_STATIC; see rtnetlink(7)).
    pub protocol: u8,
    /// The name of the nft table, of family `inet`.
    pub nft_table: String,
    /// The bit that WireGuard sets on its own packets; value and mask are the same.
    pub mark: u32,
    /// The bit by which kube-proxy marks packets that it will masquerade (`--iptables-masquerade-bit`). Not Spanwire's;
    /// such packets keep the source that kube-proxy gives them.
    pub masquerade_mark: u32,
}

impl Owned {
    /// How many rule priorities from [`Self::rule_priority`] on are Spanwire's.
    pub const RULE_BAND: u32 = 16;
}

impl Default for Owned {
    fn default() -> Self {
        Self {
            link: LinkName::new("spanwire0").expect("a short name"),
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

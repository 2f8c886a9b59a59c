//! Which messages of nf_tables are about the base chains of others by which they filter.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use nix::libc::{
    NFNL_SUBSYS_NFTABLES, NFT_MSG_DELCHAIN, NFT_MSG_DELRULE, NFT_MSG_DELTABLE, NFT_MSG_NEWCHAIN,
    NFT_MSG_NEWRULE,
};
use spanwire_host::{ChainName, Filter, LinkName, TableFamily};

use crate::netlink::{Message, attributes};

/// Length of `struct nfgenmsg`.
pub(crate) const HEADER: usize = 4;
/// A hook at which others filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hook {
    /// What arrives (`NF_INET_PRE_ROUTING`).
    Prerouting = 0,
    /// What is for this machine (`NF_INET_LOCAL_IN`).
    Input = 1,
    /// What it sends on (`NF_INET_FORWARD`).
    Forward = 2,
    /// What it sends (`NF_INET_LOCAL_OUT`).
    Output = 3,
    /// What leaves (`NF_INET_POST_ROUTING`).
    Postrouting = 4,
    /// What comes out of a device (`NF_NETDEV_INGRESS`, `NF_INET_INGRESS`).
    Ingress,
    /// What goes into a device (`NF_NETDEV_EGRESS`).
    Egress,
    /// What comes into a bridge by its ports (`NF_BR_PRE_ROUTING`, `NF_BR_LOCAL_IN`).
    FromPorts,
    /// What leaves it by them (`NF_BR_LOCAL_OUT`, `NF_BR_POST_ROUTING`).
    ToPorts,
}

impl Hook {
    fn of(family: TableFamily, number: u32) -> Option<Self> {
        use TableFamily::{Bridge, Inet, Ip, Ip6, Netdev};
        Some(match (family, number) {
            (Ip | Ip6 | Inet, 0) => Self::Prerouting,
            (Ip | Ip6 | Inet, 1) => Self::Input,
            (Ip | Ip6 | Inet, 2) => Self::Forward,
            (Ip | Ip6 | Inet, 3) => Self::Output,
            (Ip | Ip6 | Inet, 4) => Self::Postrouting,
            (Inet, 5) | (Netdev, 0) => Self::Ingress,
            (Netdev, 1) => Self::Egress,
            (Bridge, 0 | 1) => Self::FromPorts,
            (Bridge, 3 | 4) => Self::ToPorts,
            _ => return None,
        })
    }
}

/// `NF_DROP`.
const DROP: u32 = 0;

/// Base chains with what they lead to, and at which generation that was; `None` where they are to be listed again in any case.
pub(crate) type Known = BTreeMap<Hook, (Option<u32>, Found)>;

/// The base chains at a hook.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    /// Those that could be listed, now or before.
    pub(crate) filters: Arc<Vec<Filter>>,
    /// Those that cannot be listed now, each with why.
    pub(crate) unread: BTreeMap<ChainName, String>,
}

/// The base chains that were found, by the hooks that are looked at, for [`Changes`](crate::Changes) to heed; those at the
/// input hook are looked for on leaders alone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watched(Arc<Mutex<BTreeMap<Hook, BTreeSet<ChainName>>>>);

impl Watched {
    pub(crate) fn set(&self, hook: Hook, chains: BTreeSet<ChainName>) {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        found.insert(hook, chains);
    }

    /// A hook is looked at no more.
    pub(crate) fn forget(&self, hook: Hook) {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        found.remove(&hook);
    }

    /// Whether a notification is about one of them, or about a new one.
    pub(crate) fn concerns(&self, message: &Message) -> bool {
        let Some(subject) = Subject::of(message) else {
            return false;
        };
        let kind = i32::from(message.kind & 0xff);
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let filters = subject.hook.filter(|_| subject.filters);
        if kind == NFT_MSG_NEWCHAIN && filters.is_some_and(|hook| found.contains_key(&hook)) {
            return true;
        }
        let mut watched = found.values().flatten();
        watched.any(|chain| {
            let table = chain.family == subject.family && chain.table == subject.table;
            table && (kind == NFT_MSG_DELTABLE || Some(&chain.chain) == subject.chain.as_ref())
        })
    }
}

/// Returns the family of what a message of nf_tables is about: NFPROTO_INET, NFPROTO_IPV4, NFPROTO_NETDEV, NFPROTO_BRIDGE,
/// NFPROTO_IPV6 of linux/netfilter.h.
pub(crate) fn family(message: &Message) -> Option<TableFamily> {
    match message.body.first()? {
        1 => Some(TableFamily::Inet),
        2 => Some(TableFamily::Ip),
        5 => Some(TableFamily::Netdev),
        7 => Some(TableFamily::Bridge),
        10 => Some(TableFamily::Ip6),
        _ => None,
    }
}

/// What a message of nf_tables is about.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) family: TableFamily,
    pub(crate) table: String,
    /// The chain, or that of the rule.
    pub(crate) chain: Option<String>,
    /// Where it is a base chain, its hook.
    pub(crate) hook: Option<Hook>,
    /// It does not translate addresses: of a connection only the first packet would meet it, and kube-proxy's lead to
    /// thousands.
    pub(crate) filters: bool,
    /// Its policy is to drop.
    pub(crate) drops: bool,
    /// Its priority at the hook.
    pub(crate) priority: i32,
    /// Where it is of some devices alone, these.
    pub(crate) links: Option<BTreeSet<LinkName>>,
}

impl Subject {
    pub(crate) fn of(message: &Message) -> Option<Self> {
        if i32::from(message.kind >> 8) != NFNL_SUBSYS_NFTABLES {
            return None;
        }
        let family = family(message)?;
        // NFTA_CHAIN_NAME, NFTA_RULE_CHAIN; NFTA_CHAIN_HOOK, NFTA_CHAIN_POLICY, NFTA_CHAIN_TYPE of
        // linux/netfilter/nf_tables.h.
        let (chain, hook, policy, kind) = match i32::from(message.kind & 0xff) {
            NFT_MSG_NEWCHAIN | NFT_MSG_DELCHAIN => (3, 4, 5, 7),
            NFT_MSG_NEWRULE | NFT_MSG_DELRULE => (2, 0, 0, 0),
            NFT_MSG_DELTABLE => (0, 0, 0, 0),
            _ => return None,
        };
        let found: BTreeMap<u16, &[u8]> = attributes(message.body.get(HEADER..)?).collect();
        let text = |kind: u16| {
            let bytes = found.get(&kind).filter(|_| kind != 0)?;
            let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
            Some(String::from_utf8_lossy(bytes).into_owned())
        };
        let number = |bytes: &[u8]| Some(u32::from_be_bytes(bytes.try_into().ok()?));
        let hook = found.get(&hook).filter(|_| hook != 0);
        let of_hook: BTreeMap<u16, &[u8]> = hook.into_iter().flat_map(|hook| attributes(hook)).collect();
        // NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY.
        let [place, priority] = [1, 2].map(|kind| of_hook.get(&kind).and_then(|bytes| number(bytes)));
        Some(Self {
            family,
            table: text(1)?,
            chain: text(chain),
            hook: place.and_then(|place| Hook::of(family, place)),
            priority: priority.unwrap_or_default().cast_signed(),
            links: links(&of_hook),
            filters: text(kind).is_none_or(|kind| kind != "nat"),
            drops: found
                .get(&policy)
                .filter(|_| policy != 0)
                .and_then(|bytes| number(bytes))
                == Some(DROP),
        })
    }
}

/// Returns the devices of a base chain: `NFTA_HOOK_DEV`, or `NFTA_HOOK_DEVS` with `NFTA_DEVICE_NAME`.
fn links(of_hook: &BTreeMap<u16, &[u8]>) -> Option<BTreeSet<LinkName>> {
    let name = |bytes: &[u8]| {
        let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
        LinkName::new(&String::from_utf8_lossy(bytes))
    };
    let several = of_hook
        .get(&4)
        .map(|devices| attributes(devices).filter_map(|(_, bytes)| name(bytes)).collect());
    several.or_else(|| of_hook.get(&3).map(|bytes| name(bytes).into_iter().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: i32, attributes: &[(u16, &[u8])]) -> Message {
        let mut body = vec![2, 0, 0, 0];
        for (kind, value) in attributes {
            body.extend(attribute(*kind, value));
        }
        let kind = u16::try_from(NFNL_SUBSYS_NFTABLES << 8 | kind).unwrap();
        Message::new(kind, body)
    }

    #[test]
    fn changes_of_the_chains_that_were_found_and_new_ones_at_the_hook_matter() {
        let watched = Watched::default();
        let forward = ChainName {
            family: TableFamily::Ip,
            table: "filter".to_owned(),
            chain: "FORWARD".to_owned(),
        };
        watched.set(Hook::Forward, BTreeSet::from([forward]));
        let rule =
            |kind, table: &[u8], chain: &[u8]| watched.concerns(&message(kind, &[(1, table), (2, chain)]));
        assert!(rule(NFT_MSG_DELRULE, b"filter\0", b"FORWARD\0"));
        assert!(rule(NFT_MSG_NEWRULE, b"filter\0", b"FORWARD\0"));
        assert!(!rule(NFT_MSG_NEWRULE, b"filter\0", b"KUBE-FORWARD\0"));
        assert!(!rule(NFT_MSG_NEWRULE, b"nat\0", b"FORWARD\0"));
        assert!(watched.concerns(&message(NFT_MSG_DELTABLE, &[(1, b"filter\0")])));
        let of_kind = |number: u8, kind: &[u8]| {
            let hook = attribute(1, &[0, 0, 0, number]);
            message(
                NFT_MSG_NEWCHAIN,
                &[(1, b"other\0"), (3, b"chain\0"), (4, &hook), (7, kind)],
            )
        };
        let at_hook = |number: u8| of_kind(number, b"filter\0");
        assert!(watched.concerns(&at_hook(2)));
        assert!(!watched.concerns(&at_hook(3)));
        assert!(!watched.concerns(&at_hook(1)));
        watched.set(Hook::Input, BTreeSet::new());
        assert!(watched.concerns(&at_hook(1)));
        watched.forget(Hook::Input);
        assert!(!watched.concerns(&at_hook(1)));
        watched.set(Hook::Prerouting, BTreeSet::new());
        assert!(watched.concerns(&at_hook(0)));
        assert!(!watched.concerns(&of_kind(0, b"nat\0")), "kube-proxy's, say");
    }
}

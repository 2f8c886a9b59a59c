//! Which messages of nf_tables are about the base chains of others by which they filter.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use nix::libc::{
    NFNL_SUBSYS_NFTABLES, NFT_MSG_DELCHAIN, NFT_MSG_DELRULE, NFT_MSG_DELTABLE, NFT_MSG_NEWCHAIN,
    NFT_MSG_NEWRULE,
};
use spanwire_host::{ChainName, Filter, TableFamily};

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
}

impl Hook {
    /// All of them, by their numbers.
    pub(crate) const ALL: [Self; 5] = [
        Self::Prerouting,
        Self::Input,
        Self::Forward,
        Self::Output,
        Self::Postrouting,
    ];

    fn of(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| *hook as u32 == number)
    }
}

/// `NF_DROP`.
const DROP: u32 = 0;

/// Base chains with what they lead to, and at which generation that was.
pub(crate) type Known = BTreeMap<Hook, (u32, Arc<Vec<Filter>>)>;

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

/// Returns the family of what a message of nf_tables is about: NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6 of linux/netfilter.h.
pub(crate) fn family(message: &Message) -> Option<TableFamily> {
    match message.body.first()? {
        1 => Some(TableFamily::Inet),
        2 => Some(TableFamily::Ip),
        10 => Some(TableFamily::Ip6),
        _ => None,
    }
}

/// What a message of nf_tables is about.
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
        // NFTA_HOOK_HOOKNUM.
        let hook = hook.and_then(|hook| attributes(hook).find(|(kind, _)| *kind == 1));
        Some(Self {
            family,
            table: text(1)?,
            chain: text(chain),
            hook: hook.and_then(|(_, bytes)| Hook::of(number(bytes)?)),
            filters: text(kind).is_none_or(|kind| kind != "nat"),
            drops: found
                .get(&policy)
                .filter(|_| policy != 0)
                .and_then(|bytes| number(bytes))
                == Some(DROP),
        })
    }
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

//! What the kernel has of the table, but for the elements of its sets.
//!
//! nft reads all elements whatever it is to list, which are thousands. So the table is read by netlink here, and compared
//! as bytes with what was read right after it had been loaded; what packets change, counters, is left out. A set that belongs
//! to a rule has elements that cannot be changed.

use std::{borrow::Cow, collections::BTreeSet};

use nix::{
    errno::Errno,
    libc::{NFT_MSG_GETCHAIN, NFT_MSG_GETRULE, NFT_MSG_GETSET, NFT_MSG_GETTABLE},
};

use super::{
    HEADER, Nft, SIGN,
    message::{INET, push_name, request},
};
use crate::netlink::{Message, NetlinkError, attributes};

/// `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE`, `NFTA_SET_TABLE` and `NFTA_RULE_TABLE`.
const TABLE: u16 = 1;
/// `NFTA_CHAIN_NAME`.
const CHAIN_NAME: u16 = 3;
/// `NFTA_SET_NAME` and `NFTA_SET_FLAGS`.
const SET: [u16; 2] = [2, 3];
/// `NFT_SET_ANONYMOUS`: the set belongs to a rule.
const ANONYMOUS: u32 = 1;
/// `NFTA_SET_TYPE`, and `NFTA_SET_COUNT` after it: how the kernel keeps the set, and how many elements it has.
const SET_TYPE: u16 = 19;
/// `NFTA_RULE_EXPRESSIONS`.
const RULE_EXPRESSIONS: u16 = 4;
/// `NFTA_EXPR_NAME` and `NFTA_EXPR_DATA`.
const EXPRESSION: [u16; 2] = [1, 2];

/// The table, its chains, its sets without their elements, and its rules.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Frame {
    objects: Vec<Vec<u8>>,
    /// It has the chain by which it is known to be Spanwire's.
    pub(super) is_signed: bool,
    /// The names of its chains.
    pub(super) chains: BTreeSet<String>,
    /// The names of its sets, but for those that belong to rules.
    pub(super) sets: BTreeSet<String>,
}

#[cfg(test)]
impl Frame {
    pub(super) fn of(objects: Vec<Vec<u8>>) -> Self {
        Self {
            objects,
            is_signed: true,
            chains: BTreeSet::new(),
            sets: BTreeSet::new(),
        }
    }
}

impl Nft {
    /// Reads the table; `None` where there is none.
    pub(super) async fn frame(&mut self) -> Result<Option<Frame>, NetlinkError> {
        let mut name = Vec::new();
        push_name(&mut name, TABLE, &self.table);
        let table = match self.socket.get(&request(NFT_MSG_GETTABLE, INET, &name)).await {
            Err(NetlinkError::Refused(refusal)) if refusal.errno == Errno::ENOENT => return Ok(None),
            other => other?,
        };
        let chains = self.objects(NFT_MSG_GETCHAIN, &name).await?;
        let sets = self.objects(NFT_MSG_GETSET, &name).await?;
        let rules = self.objects(NFT_MSG_GETRULE, &name).await?;
        let name = |object: &Message, kind| {
            text(object, kind)
                .map(String::from_utf8_lossy)
                .map(Cow::into_owned)
        };
        let chain_names: BTreeSet<String> = chains
            .iter()
            .filter_map(|chain| name(chain, CHAIN_NAME))
            .collect();
        let named = sets.iter().filter(|set| !belongs_to_a_rule(set));
        let set_names = named.filter_map(|set| name(set, SET[0])).collect();
        let whole = table
            .iter()
            .chain(&chains)
            .map(|message| payload(message).to_vec());
        let sets = sets.iter().map(without_count);
        let rules = rules.iter().map(without_counters);
        Ok(Some(Frame {
            objects: whole.chain(sets).chain(rules).collect(),
            is_signed: chain_names.contains(SIGN),
            chains: chain_names,
            sets: set_names,
        }))
    }

    /// Reads the objects of a kind that are in the table. Not of every kind does the kernel take the table's name into account.
    async fn objects(&mut self, kind: i32, name: &[u8]) -> Result<Vec<Message>, NetlinkError> {
        let mut objects = self.socket.dump(&request(kind, INET, name)).await?;
        objects.retain(|object| text(object, TABLE) == Some(self.table.as_bytes()));
        Ok(objects)
    }
}

/// Returns what follows the header, in which a number of the transaction stands.
fn payload(message: &Message) -> &[u8] {
    message.body.get(HEADER..).unwrap_or_default()
}

fn text(message: &Message, kind: u16) -> Option<&[u8]> {
    let (_, value) = attributes(payload(message)).find(|(found, _)| *found == kind)?;
    Some(value.strip_suffix(&[0]).unwrap_or(value))
}

fn belongs_to_a_rule(set: &Message) -> bool {
    let flags = attributes(payload(set)).find(|(kind, _)| *kind == SET[1]);
    let flags = flags.and_then(|(_, flags)| Some(u32::from_be_bytes(flags.try_into().ok()?)));
    flags.is_some_and(|flags| flags & ANONYMOUS != 0)
}

fn without_count(set: &Message) -> Vec<u8> {
    let mut kept = Vec::new();
    for (kind, value) in attributes(payload(set)).filter(|(kind, _)| *kind < SET_TYPE) {
        keep(&mut kept, kind, value);
    }
    kept
}

fn without_counters(rule: &Message) -> Vec<u8> {
    let [name, data] = EXPRESSION;
    let mut kept = Vec::new();
    for (kind, value) in attributes(payload(rule)) {
        if kind != RULE_EXPRESSIONS {
            keep(&mut kept, kind, value);
            continue;
        }
        for (_, expression) in attributes(value) {
            let is_counter = attributes(expression).any(|part| part == (name, b"counter\0"));
            let parts = attributes(expression).filter(|(kind, _)| !(is_counter && *kind == data));
            parts.for_each(|(kind, value)| keep(&mut kept, kind, value));
        }
    }
    kept
}

fn keep(kept: &mut Vec<u8>, kind: u16, value: &[u8]) {
    kept.extend(kind.to_ne_bytes());
    kept.extend(value.len().to_ne_bytes());
    kept.extend_from_slice(value);
}

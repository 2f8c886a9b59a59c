//! What matches of iptables say that nft has no words for: on the state of a connection. The kernel has them in the rules as
//! iptables gave them, in iptables-nft's (linux/netfilter/nf_tables.h, NFTA_MATCH_*) as in iptables-legacy's.

use std::collections::{BTreeMap, BTreeSet};

use nix::libc::NFT_MSG_GETRULE;
use spanwire_host::{ChainName, Match, State, TableFamily};

use crate::{
    netlink::{Message, NetlinkError, attributes},
    nft::{
        Nft,
        message::{push_name, request},
    },
    watched::HEADER,
};

/// The extensions that match connections.
pub(super) const CONNTRACK: [&str; 2] = ["conntrack", "state"];

impl Nft {
    /// Returns the matches on connections of a chain, by the number of the rule, in order.
    pub(super) async fn extensions(
        &mut self,
        chain: &ChainName,
    ) -> Result<BTreeMap<u64, Vec<Match>>, NetlinkError> {
        // NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6 of linux/netfilter.h.
        let family = match chain.family {
            TableFamily::Inet => 1,
            TableFamily::Ip => 2,
            TableFamily::Ip6 => 10,
        };
        let mut names = Vec::new();
        // NFTA_RULE_TABLE, NFTA_RULE_CHAIN.
        for (kind, text) in [(1, &chain.table), (2, &chain.chain)] {
            push_name(&mut names, kind, text);
        }
        let rules = self
            .socket
            .dump(&request(NFT_MSG_GETRULE, family, &names))
            .await?;
        Ok(rules.iter().filter_map(of_rule).collect())
    }
}

fn of_rule(message: &Message) -> Option<(u64, Vec<Match>)> {
    let of_rule: BTreeMap<u16, &[u8]> = attributes(message.body.get(HEADER..)?).collect();
    // NFTA_RULE_HANDLE, NFTA_RULE_EXPRESSIONS.
    let handle = u64::from_be_bytes((*of_rule.get(&3)?).try_into().ok()?);
    let matches = attributes(of_rule.get(&4)?).filter_map(|(_, expression)| {
        // NFTA_EXPR_NAME, NFTA_EXPR_DATA.
        let of_expression: BTreeMap<u16, &[u8]> = attributes(expression).collect();
        if text(of_expression.get(&1)?) != "match" {
            return None;
        }
        // NFTA_MATCH_NAME, NFTA_MATCH_REV, NFTA_MATCH_INFO.
        let of_match: BTreeMap<u16, &[u8]> = attributes(of_expression.get(&2)?).collect();
        let name = text(of_match.get(&1)?);
        let revision = u32::from_be_bytes((*of_match.get(&2)?).try_into().ok()?);
        connection(&name, revision, of_match.get(&3)?)
    });
    Some((handle, matches.collect()))
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

/// Returns what an extension asks of connections; `None` where it is another one.
pub(super) fn connection(name: &str, revision: u32, info: &[u8]) -> Option<Match> {
    let half = |at: usize| Some(u16::from_ne_bytes(info.get(at..at + 2)?.try_into().ok()?));
    match (name, revision) {
        // struct xt_conntrack_mtinfo2 and 3 of linux/netfilter/xt_conntrack.h: eight addresses, two times, protocol, four
        // ports, and then what is asked for, what is inverted, and the states.
        ("conntrack", 2 | 3) => {
            let (asked, inverted, mask) = (half(146)?, half(148)?, half(150)?);
            if asked & !ALIAS != STATE {
                return Some(Match::Unknown);
            }
            Some(states(mask, inverted & STATE != 0))
        }
        // struct xt_state_info of linux/netfilter/xt_state.h.
        ("state", 0) => Some(states(
            half(if cfg!(target_endian = "big") { 2 } else { 0 })?,
            false,
        )),
        ("conntrack" | "state", _) => Some(Match::Unknown),
        _ => None,
    }
}

/// `XT_CONNTRACK_STATE`.
const STATE: u16 = 1;
/// `XT_CONNTRACK_STATE_ALIAS`: it was written as the match `state`.
const ALIAS: u16 = 1 << 13;

fn states(mask: u16, not: bool) -> Match {
    // XT_CONNTRACK_STATE_BIT of IP_CT_ESTABLISHED, _RELATED and _NEW, and XT_CONNTRACK_STATE_INVALID and _UNTRACKED.
    let bits = [
        (0, State::Invalid),
        (1, State::Established),
        (2, State::Related),
        (3, State::New),
        (6, State::Untracked),
    ];
    let known: u16 = bits.iter().map(|(bit, _)| 1 << bit).sum();
    if mask & !known != 0 {
        // Of translated addresses.
        return Match::Unknown;
    }
    let found: BTreeSet<State> = bits
        .iter()
        .filter(|(bit, _)| mask & (1 << bit) != 0)
        .map(|(_, state)| *state)
        .collect();
    Match::State { states: found, not }
}

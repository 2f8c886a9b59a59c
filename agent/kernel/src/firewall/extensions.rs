//! What iptables says that nft has no words for: of the state of a connection, and of marks. The kernel has it in the rules as
//! iptables gave it, in iptables-nft's (linux/netfilter/nf_tables.h, NFTA_MATCH_*, NFTA_TARGET_*) as in iptables-legacy's.

use std::collections::{BTreeMap, BTreeSet};

use nix::libc::NFT_MSG_GETRULE;
use spanwire_host::{ChainName, Match, State, TableFamily};

use super::marks::{self, Setting};
use crate::{
    netlink::{Message, NetlinkError, attributes},
    nft::{
        Nft,
        message::{push_name, request},
    },
    watched::HEADER,
};

/// The extensions that match connections, marks, ways back, what is for this machine, and ports.
pub(super) const MATCHES: [&str; 7] = [
    "conntrack",
    "state",
    "mark",
    "connmark",
    "rpfilter",
    "addrtype",
    "multiport",
];

/// What the extensions of a rule say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Extensions {
    /// Those of [`MATCHES`], in order.
    pub(super) matches: Vec<Match>,
    /// What its target sets.
    pub(super) sets: Setting,
    /// Its comment.
    pub(super) comment: Option<String>,
}

impl Nft {
    /// Returns what extensions of a chain say, by the number of the rule.
    pub(super) async fn extensions(
        &mut self,
        chain: &ChainName,
    ) -> Result<BTreeMap<u64, Extensions>, NetlinkError> {
        // NFPROTO_INET, NFPROTO_IPV4, NFPROTO_NETDEV, NFPROTO_BRIDGE, NFPROTO_IPV6 of linux/netfilter.h.
        let family = match chain.family {
            TableFamily::Inet => 1,
            TableFamily::Ip => 2,
            TableFamily::Netdev => 5,
            TableFamily::Bridge => 7,
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

fn of_rule(message: &Message) -> Option<(u64, Extensions)> {
    let of_rule: BTreeMap<u16, &[u8]> = attributes(message.body.get(HEADER..)?).collect();
    // NFTA_RULE_HANDLE, NFTA_RULE_EXPRESSIONS.
    let handle = u64::from_be_bytes((*of_rule.get(&3)?).try_into().ok()?);
    let mut extensions = Extensions::default();
    for (_, expression) in attributes(of_rule.get(&4)?) {
        let Some((kind, name, revision, info)) = extension(expression) else {
            continue;
        };
        match kind.as_str() {
            // struct xt_comment_info of linux/netfilter/xt_comment.h.
            "match" if name == "comment" => extensions.comment = Some(text(info)),
            "match" => extensions.matches.extend(matched(&name, revision, info)),
            "target" => extensions.sets = marks::target(&name, revision, info),
            _ => {}
        }
    }
    Some((handle, extensions))
}

fn extension(expression: &[u8]) -> Option<(String, String, u32, &[u8])> {
    // NFTA_EXPR_NAME, NFTA_EXPR_DATA.
    let of_expression: BTreeMap<u16, &[u8]> = attributes(expression).collect();
    let kind = text(of_expression.get(&1)?);
    // NFTA_MATCH_NAME, NFTA_MATCH_REV, NFTA_MATCH_INFO; those of a target have the same numbers.
    let found: BTreeMap<u16, &[u8]> = attributes(of_expression.get(&2)?).collect();
    let revision = u32::from_be_bytes((*found.get(&2)?).try_into().ok()?);
    Some((kind, text(found.get(&1)?), revision, found.get(&3)?))
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

/// Returns what an extension of [`MATCHES`] asks; `None` where it is another one.
pub(super) fn matched(name: &str, revision: u32, info: &[u8]) -> Option<Match> {
    let connection = connection(name, revision, info);
    connection
        .or_else(|| marks::extension(name, revision, info))
        .or_else(|| way_back(name, revision, info))
        .or_else(|| for_here(name, revision, info))
        .or_else(|| multiport(name, revision, info))
}

/// What the match `addrtype` asks of destinations: struct `xt_addrtype_info_v1` of linux/netfilter/xt_addrtype.h.
fn for_here(name: &str, revision: u32, info: &[u8]) -> Option<Match> {
    const LOCAL: u16 = 1 << 2;
    const INVERT_DESTINATION: u32 = 2;
    let half = |at: usize| Some(u16::from_ne_bytes(info.get(at..at + 2)?.try_into().ok()?));
    let flags = || Some(u32::from_ne_bytes(info.get(4..8)?.try_into().ok()?));
    let parts = || Some((half(0)?, half(2)?, flags()?)).filter(|_| revision == 1);
    (name == "addrtype").then(|| match parts() {
        Some((0, LOCAL, flags)) if flags & !INVERT_DESTINATION == 0 => Match::ForHere { not: flags != 0 },
        _ => Match::Unknown,
    })
}

/// What the match `multiport` asks: struct `xt_multiport_v1` of linux/netfilter/xt_multiport.h. Which protocol it is for its rule says
/// besides.
fn multiport(name: &str, revision: u32, info: &[u8]) -> Option<Match> {
    (name == "multiport").then(|| ports(revision, info).unwrap_or(Match::Unknown))
}

fn ports(revision: u32, info: &[u8]) -> Option<Match> {
    const SOURCE: u8 = 0;
    const DESTINATION: u8 = 1;
    const EITHER: u8 = 2;
    const PORTS: usize = 2;
    const FLAGS: usize = 32;
    const INVERT: usize = 47;
    if revision != 1 {
        return None;
    }
    let (kind, count) = (*info.first()?, usize::from(*info.get(1)?));
    let port = |index: usize| {
        let at = PORTS + 2 * index;
        Some(u16::from_ne_bytes(info.get(at..at + 2)?.try_into().ok()?))
    };
    let mut ranges = Vec::new();
    let mut index = 0;
    while index < count.min(FLAGS / 2) {
        let first = port(index)?;
        // This one is the first of a range, and the next one the last.
        let is_range = *info.get(FLAGS + index)? != 0;
        index += usize::from(is_range);
        ranges.push((first, port(index)?));
        index += 1;
    }
    let not = *info.get(INVERT)? != 0;
    let one = |source, not| Match::Port {
        protocol: None,
        source,
        ranges: ranges.clone(),
        not,
    };
    match kind {
        SOURCE => Some(one(true, not)),
        DESTINATION => Some(one(false, not)),
        EITHER => Some(Match::Any {
            of: vec![vec![one(true, false)], vec![one(false, false)]],
            not,
        }),
        _ => None,
    }
}

/// What the match `rpfilter` asks: struct xt_rpfilter_info of linux/netfilter/xt_rpfilter.h, with `XT_RPFILTER_LOOSE` and
/// `XT_RPFILTER_INVERT`.
fn way_back(name: &str, revision: u32, info: &[u8]) -> Option<Match> {
    const LOOSE: u8 = 1;
    const INVERT: u8 = 8;
    let flags = info.first().filter(|_| revision == 0);
    (name == "rpfilter").then(|| {
        flags.map_or(Match::Unknown, |flags| Match::WayBack {
            by_its_device: flags & LOOSE == 0,
            exists: flags & INVERT == 0,
        })
    })
}

fn connection(name: &str, revision: u32, info: &[u8]) -> Option<Match> {
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

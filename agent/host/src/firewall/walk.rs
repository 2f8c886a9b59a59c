//! The way of a packet through the rules of a base chain.
//!
//! Of a [`Sample`] the device is known, and some of its addresses, its state in connection tracking, its port, and the bits of
//! its mark that nothing sets. A match on anything else may hold or not. Then nothing follows from its rule, but what is found
//! afterwards is in doubt where the rule could have accepted the packet.

use std::{collections::BTreeSet, net::IpAddr};

use spanwire_topology::Family;

use super::{Direction, Filter, Pass};

/// How deep chains may call each other; the kernel has a limit of 16 (`NFT_JUMP_STACK_SIZE`).
const DEEPEST: u32 = 16;
/// IP protocol number of UDP (RFC 768).
const UDP: u8 = 17;

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterRule {
    /// Its number in the table.
    pub handle: u64,
    /// What the one who made it says of it.
    pub comment: Option<String>,
    /// What it accepts, where Spanwire made it.
    pub own: Option<Pass>,
    /// What all must hold.
    pub matches: Vec<Match>,
    /// What then.
    pub verdict: Verdict,
    /// What it may change in the mark of a packet.
    pub marks: MarkChange,
}

/// Bits that may be changed in the mark of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MarkChange {
    /// Those that may be set.
    pub sets: u32,
    /// Those that may be taken away.
    pub clears: u32,
}

impl MarkChange {
    /// Any of them.
    pub const ANY: Self = Self {
        sets: u32::MAX,
        clears: u32::MAX,
    };

    /// Returns what both may change.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            sets: self.sets | other.sets,
            clears: self.clears | other.clears,
        }
    }
}

/// What a rule asks of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// It passes one of these devices; a name that ends in '*' stands for all with this beginning.
    Device {
        /// Which way.
        direction: Direction,
        /// The devices.
        names: Vec<String>,
        /// It passes none of them.
        not: bool,
    },
    /// An address of it is in one of these ranges (first and last address).
    Address {
        /// The source, else the destination.
        source: bool,
        /// The ranges.
        ranges: Vec<(IpAddr, IpAddr)>,
        /// It is in none of them.
        not: bool,
    },
    /// Connection tracking knows it as one of these.
    State {
        /// The states.
        states: BTreeSet<State>,
        /// It is in none of them.
        not: bool,
    },
    /// Its destination was another one before this machine translated it.
    Translated {
        /// It was not.
        not: bool,
    },
    /// It is of one of these IP protocols.
    Protocol {
        /// Their numbers.
        protocols: Vec<u8>,
        /// It is of none of them.
        not: bool,
    },
    /// A port of it is in one of these ranges (first and last port).
    Port {
        /// The IP protocol; `None`: any that has ports.
        protocol: Option<u8>,
        /// The source, else the destination.
        source: bool,
        /// The ranges.
        ranges: Vec<(u16, u16)>,
        /// It is in none of them.
        not: bool,
    },
    /// These bits of its mark are in one of these ranges (first and last number).
    Mark {
        /// It is the mark of its connection.
        of_connection: bool,
        /// The bits.
        mask: u32,
        /// The ranges.
        ranges: Vec<(u32, u32)>,
        /// They are in none of them.
        not: bool,
    },
    /// Something else.
    Unknown,
}

/// What connection tracking knows of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It belongs to no valid connection.
    Invalid,
    /// It belongs to a connection that was answered.
    Established,
    /// It begins a connection that belongs to another.
    Related,
    /// It begins a connection.
    New,
    /// It is not tracked.
    Untracked,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Continue,
    /// Accept it.
    Accept,
    /// Drop or reject it.
    Drop,
    /// Go back to where the chain was called.
    Return,
    /// Go on in another chain of the table, then with the next rule.
    Jump(String),
    /// Go on in another chain of the table, then as if this one had ended.
    Goto(String),
    /// Something else.
    Unknown,
}

/// A packet, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sample {
    /// Its device.
    pub pass: Pass,
    /// Its source and destination.
    pub ends: Option<(IpAddr, IpAddr)>,
    /// What connection tracking knows of it.
    pub state: Option<State>,
    /// It is UDP to this port.
    pub datagram_to: Option<u16>,
    /// The bits of its mark that another program may have set; the others are not set.
    pub marked: u32,
}

impl Sample {
    /// Returns a packet of which nothing else is known.
    #[must_use]
    pub fn new(pass: Pass) -> Self {
        Self {
            pass,
            ends: None,
            state: None,
            datagram_to: None,
            marked: u32::MAX,
        }
    }
}

/// The rule that drops a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dropper {
    /// Its chain, which the base chain leads to or is.
    pub chain: String,
    /// Its number in the table.
    pub handle: u64,
    /// What the one who made it says of it.
    pub comment: Option<String>,
}

/// What becomes of a packet in a [`Filter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It is certain to be dropped, by the policy or by the rule of this number, if no rule before decides otherwise.
    Dropped(Option<u64>),
    /// It is accepted.
    Accepted,
}

/// Where a walk through a chain ends.
enum End {
    Accepted,
    Dropped,
    /// The chain was left.
    Left,
}

/// A walk through a base chain with one packet.
pub(super) struct Walk<'a> {
    filter: &'a Filter,
    sample: &'a Sample,
    in_doubt: bool,
    dropper: Option<(&'a str, &'a FilterRule)>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(filter: &'a Filter, sample: &'a Sample) -> Self {
        Self {
            filter,
            sample,
            in_doubt: false,
            dropper: None,
        }
    }

    /// Whether a rule of which it is not known whether it is for the packet could have accepted it.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// Returns the rule that has dropped the packet; `None`: the policy, or none.
    pub(super) fn dropper(&self) -> Option<Dropper> {
        self.dropper.map(|(chain, rule)| Dropper {
            chain: chain.to_owned(),
            handle: rule.handle,
            comment: rule.comment.clone(),
        })
    }

    pub(super) fn fate(&mut self) -> Fate {
        for rule in &self.filter.rules {
            match self.decide(rule, &self.filter.name.chain, 0) {
                Some(End::Accepted) => return Fate::Accepted,
                Some(End::Dropped) => return Fate::Dropped(Some(rule.handle)),
                Some(End::Left) => break,
                None => {}
            }
        }
        if self.filter.drops {
            Fate::Dropped(None)
        } else {
            Fate::Accepted
        }
    }

    /// `None`: the next rule.
    fn decide(&mut self, rule: &'a FilterRule, chain: &'a str, depth: u32) -> Option<End> {
        if rule.own.is_some() {
            return None;
        }
        let mut holds = rule.matches.iter().map(|found| holds(found, self.sample));
        if !holds.clone().all(|holds| holds == Some(true)) {
            let may_hold = !holds.any(|holds| holds == Some(false));
            self.in_doubt |= may_hold && !matches!(rule.verdict, Verdict::Continue | Verdict::Drop);
            return None;
        }
        match &rule.verdict {
            Verdict::Continue => None,
            Verdict::Unknown => {
                self.in_doubt = true;
                None
            }
            Verdict::Accept => Some(End::Accepted),
            Verdict::Drop => {
                self.dropper = Some((chain, rule));
                Some(End::Dropped)
            }
            Verdict::Return => Some(End::Left),
            Verdict::Jump(chain) => match self.walk(chain, depth) {
                End::Left => None,
                end @ (End::Accepted | End::Dropped) => Some(end),
            },
            Verdict::Goto(chain) => Some(self.walk(chain, depth)),
        }
    }

    fn walk(&mut self, chain: &'a str, depth: u32) -> End {
        let Some(rules) = self.filter.chains.get(chain).filter(|_| depth < DEEPEST) else {
            self.in_doubt = true;
            return End::Left;
        };
        let mut ends = rules
            .iter()
            .filter_map(|rule| self.decide(rule, chain, depth + 1));
        ends.next().unwrap_or(End::Left)
    }
}

/// Whether a match holds; `None` where that is not known.
pub(super) fn holds(found: &Match, sample: &Sample) -> Option<bool> {
    match found {
        Match::Device {
            direction,
            names,
            not,
        } => {
            let link = sample.pass.link.as_str();
            let is = |name: &String| match name.strip_suffix('*') {
                Some(start) => link.starts_with(start),
                None => link == name,
            };
            (*direction == sample.pass.direction).then(|| names.iter().any(is) != *not)
        }
        Match::Address { source, ranges, not } => {
            let (from, to) = sample.ends?;
            let address = if *source { from } else { to };
            // A match on addresses of the other family never holds, inverted or not.
            let family = |other: &IpAddr| Family::of(*other) == Family::of(address);
            let of_family = ranges.iter().all(|(first, _)| family(first));
            let inside = |(first, last): &(IpAddr, IpAddr)| *first <= address && address <= *last;
            Some(of_family && ranges.iter().any(inside) != *not)
        }
        Match::State { states, not } => Some(states.contains(&sample.state?) != *not),
        // What comes for another port is none of these datagrams.
        Match::Translated { not } => sample.datagram_to.map(|_| *not),
        Match::Protocol { protocols, not } => {
            sample.datagram_to?;
            Some(protocols.contains(&UDP) != *not)
        }
        Match::Port {
            protocol,
            source,
            ranges,
            not,
        } => {
            let port = sample.datagram_to?;
            // A match on ports of another protocol never holds, inverted or not.
            if protocol.is_some_and(|protocol| protocol != UDP) {
                return Some(false);
            }
            let inside = |(first, last): &(u16, u16)| *first <= port && port <= *last;
            (!source).then(|| ranges.iter().any(inside) != *not)
        }
        // No mark is read of a packet without a connection, and then the rule is not for it (`nft_ct_get_eval`,
        // net/netfilter/nft_ct.c; `connmark_mt`, net/netfilter/xt_connmark.c).
        Match::Mark {
            of_connection: true, ..
        } => (sample.state == Some(State::Untracked)).then_some(false),
        Match::Mark {
            of_connection: false,
            mask,
            ranges,
            not,
        } => {
            let unknown = mask & sample.marked;
            // What has a bit that is not set, or is between such numbers, does not come about.
            let may_be = |(first, last): &(u32, u32)| first != last || first & !unknown == 0;
            if unknown == 0 {
                return Some(ranges.iter().any(|(first, _)| *first == 0) != *not);
            }
            (!ranges.iter().any(may_be)).then_some(*not)
        }
        Match::Unknown => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LinkName;

    fn sample() -> Sample {
        Sample::new(Pass {
            direction: Direction::In,
            link: LinkName::new("eth0").unwrap(),
        })
    }

    #[test]
    fn an_inverted_match_on_the_other_family_does_not_hold() {
        let v6: IpAddr = "fd00::1".parse().unwrap();
        let not = Match::Address {
            source: true,
            ranges: vec![(v6, v6)],
            not: true,
        };
        let ends = ["192.168.2.1", "192.168.1.2"].map(|end| end.parse().unwrap());
        let of_v4 = Sample {
            ends: Some(ends.into()),
            ..sample()
        };
        assert_eq!(holds(&not, &of_v4), Some(false));
    }

    #[test]
    fn what_is_asked_of_a_mark_is_known_of_the_bits_that_nothing_sets() {
        let mark = |of_connection, mask, ranges: &[(u32, u32)], not| Match::Mark {
            of_connection,
            mask,
            ranges: ranges.to_vec(),
            not,
        };
        let marked = |marked| Sample { marked, ..sample() };
        let all = u32::MAX;
        for (found, bits, holding) in [
            (mark(false, all, &[(0x100, 0x100)], true), 0, Some(true)),
            (mark(false, all, &[(0x100, 0x100)], false), 0, Some(false)),
            (mark(false, all, &[(0, 0)], false), 0, Some(true)),
            (mark(false, all, &[(0, 9)], true), 0, Some(false)),
            (mark(false, 0xff00, &[(0x100, 0x100)], true), 0xff, Some(true)),
            (mark(false, 0xff00, &[(0x100, 0x100)], true), 0x200, Some(true)),
            (mark(false, 0xff00, &[(0x100, 0x100)], true), 0x300, None),
            (mark(false, 0xff00, &[(0, 0)], false), 0x300, None),
            (mark(false, 0xff00, &[(0x100, 0x400)], true), 0x200, None),
            (mark(false, all, &[(0x100, 0x100)], true), all, None),
            (mark(true, all, &[(0x100, 0x100)], true), 0, None),
        ] {
            assert_eq!(holds(&found, &marked(bits)), holding, "{found:?}, {bits:#x}");
        }
        let transit = Sample {
            state: Some(State::Untracked),
            ..marked(0)
        };
        for not in [false, true] {
            assert_eq!(holds(&mark(true, all, &[(0, 0)], not), &transit), Some(false));
        }
    }

    #[test]
    fn what_is_asked_of_ports_and_protocols_is_known_of_a_datagram_alone() {
        let datagram = Sample {
            datagram_to: Some(51_820),
            ..sample()
        };
        let port = |protocol, source, ranges: &[(u16, u16)], not| Match::Port {
            protocol,
            source,
            ranges: ranges.to_vec(),
            not,
        };
        let protocols = |protocols: &[u8], not| Match::Protocol {
            protocols: protocols.to_vec(),
            not,
        };
        for (found, holding) in [
            (
                port(Some(17), false, &[(22, 22), (51_000, 52_000)], false),
                Some(true),
            ),
            (port(None, false, &[(51_820, 51_820)], false), Some(true)),
            (port(Some(17), false, &[(51_820, 51_820)], true), Some(false)),
            (port(Some(17), false, &[(22, 22)], false), Some(false)),
            (port(Some(6), false, &[(22, 22)], true), Some(false)),
            (port(Some(17), true, &[(1, 65_535)], false), None),
            (protocols(&[6, 17], false), Some(true)),
            (protocols(&[6], false), Some(false)),
            (protocols(&[6], true), Some(true)),
        ] {
            assert_eq!(holds(&found, &datagram), holding, "{found:?}");
            assert_eq!(holds(&found, &sample()), None, "{found:?}");
        }
    }
}

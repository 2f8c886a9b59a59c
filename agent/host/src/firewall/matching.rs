//! What rules ask of a packet, and whether it holds of one of which some is known.

use std::{collections::BTreeSet, net::IpAddr};

use spanwire_topology::{Family, MacAddress};

use super::{Direction, Pass};
use crate::LinkName;

/// IP protocol number of UDP (RFC 768).
const UDP: u8 = 17;

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
    /// It is of one of these families.
    Family {
        /// The families.
        families: Vec<Family>,
        /// It is of none of them.
        not: bool,
    },
    /// There is a route to its source.
    WayBack {
        /// By the device that it came by.
        by_its_device: bool,
        /// There is; else there is none.
        exists: bool,
    },
    /// It is for an address of this machine.
    ForHere {
        /// It is not.
        not: bool,
    },
    /// It is from an address of this machine.
    FromHere {
        /// It is not.
        not: bool,
    },
    /// It goes in the direction of the answers of its connection.
    Answer {
        /// It goes the other way.
        not: bool,
    },
    /// Its next hop, or its destination where there is none, is one of these addresses.
    NextHop {
        /// The addresses.
        addresses: Vec<IpAddr>,
        /// It is none of them.
        not: bool,
    },
    /// It comes from one of these link-layer addresses.
    LinkSource {
        /// The addresses.
        addresses: Vec<MacAddress>,
        /// It comes from none of them.
        not: bool,
    },
    /// All of one of these hold.
    Any {
        /// What has to hold together.
        of: Vec<Vec<Match>>,
        /// Of each something does not hold.
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

/// A packet, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sample {
    /// Its device.
    pub pass: Pass,
    /// Its source and destination.
    pub ends: Option<(IpAddr, IpAddr)>,
    /// What connection tracking knows of it.
    pub state: Option<State>,
    /// Its protocol above IP.
    pub protocol: Option<u8>,
    /// It is UDP to this port, for this machine.
    pub datagram_to: Option<u16>,
    /// It is UDP from this port, of this machine.
    pub datagram_from: Option<u16>,
    /// The bits of its mark that another program may have set; the others are not set.
    pub marked: u32,
    /// The device by which this machine has a route to its source.
    pub way_back: Option<LinkName>,
    /// What more is known of a packet that was asked about.
    pub more: More,
}

/// What is known of one packet, and not of a kind of packets.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct More {
    /// Its other device.
    pub also: Option<Pass>,
    /// It is for this machine.
    pub for_here: bool,
    /// It is from this machine.
    pub from_here: Option<bool>,
    /// Nothing translates its addresses.
    pub is_plain: bool,
    /// It answers another one.
    pub answers: Option<bool>,
    /// Its next hop, or its destination where there is none.
    pub next_hop: Option<IpAddr>,
    /// The link-layer address that it comes from.
    pub link_source: Option<MacAddress>,
    /// The port that it comes from.
    pub source_port: Option<u16>,
    /// The port that it goes to.
    pub destination_port: Option<u16>,
}

impl Sample {
    /// Returns a packet of which nothing else is known.
    #[must_use]
    pub fn new(pass: Pass) -> Self {
        Self {
            pass,
            ends: None,
            state: None,
            protocol: None,
            datagram_to: None,
            datagram_from: None,
            marked: u32::MAX,
            way_back: None,
            more: More::default(),
        }
    }

    fn protocol(&self) -> Option<u8> {
        let datagram = self.datagram_to.or(self.datagram_from);
        datagram.map(|_| UDP).or(self.protocol)
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
            let mut passes = [&sample.pass].into_iter().chain(&sample.more.also);
            let pass = passes.find(|pass| pass.direction == *direction)?;
            let link = pass.link.as_str();
            let is = |name: &String| match name.strip_suffix('*') {
                Some(start) => link.starts_with(start),
                None => link == name,
            };
            Some(names.iter().any(is) != *not)
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
        // Nothing is read of the connection of a packet that has none, and then the rule is not for it.
        Match::Translated { .. } | Match::Answer { .. } if is_untracked(sample) => Some(false),
        // What comes for another port is none of these datagrams.
        Match::Translated { not } => {
            let is_plain = sample.more.is_plain || sample.datagram_to.is_some();
            is_plain.then_some(*not)
        }
        Match::Answer { not } => Some(sample.more.answers? != *not),
        Match::Protocol { protocols, not } => Some(protocols.contains(&sample.protocol()?) != *not),
        Match::Port {
            protocol,
            source,
            ranges,
            not,
        } => {
            // A match on ports of another protocol never holds, inverted or not.
            let of_packet = sample.protocol()?;
            if protocol.is_some_and(|protocol| protocol != of_packet) {
                return Some(false);
            }
            let port = if *source {
                sample.datagram_from.or(sample.more.source_port)
            } else {
                sample.datagram_to.or(sample.more.destination_port)
            }?;
            let inside = |(first, last): &(u16, u16)| *first <= port && port <= *last;
            Some(ranges.iter().any(inside) != *not)
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
        Match::Family { families, not } => {
            let (source, _) = sample.ends?;
            Some(families.contains(&Family::of(source)) != *not)
        }
        Match::WayBack {
            by_its_device,
            exists,
        } => {
            let by = sample.way_back.as_ref()?;
            let found = !by_its_device || *by == sample.pass.link;
            (sample.pass.direction == Direction::In).then_some(found == *exists)
        }
        // What is sent or forwarded is not.
        Match::ForHere { not } => Some((sample.datagram_to.is_some() || sample.more.for_here) != *not),
        Match::FromHere { not } => Some(sample.more.from_here? != *not),
        Match::NextHop { addresses, not } => Some(addresses.contains(&sample.more.next_hop?) != *not),
        Match::LinkSource { addresses, not } => Some(addresses.contains(&sample.more.link_source?) != *not),
        Match::Any { of, not } => any(of, sample).map(|holds| holds != *not),
        Match::Unknown => None,
    }
}

/// Of a kind of packets, which others may have tracked all the same, that is not asked.
fn is_untracked(sample: &Sample) -> bool {
    sample.more.is_plain && sample.state == Some(State::Untracked)
}

/// Whether all of one of these hold.
fn any(of: &[Vec<Match>], sample: &Sample) -> Option<bool> {
    let mut in_doubt = false;
    for together in of {
        let mut all = together.iter().map(|found| holds(found, sample));
        if all.clone().all(|holds| holds == Some(true)) {
            return Some(true);
        }
        in_doubt |= !all.any(|holds| holds == Some(false));
    }
    (!in_doubt).then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn of_several_together_it_is_known_whether_one_holds_or_none_does() {
        let to = |address: &str| {
            let address = address.parse().unwrap();
            Match::Address {
                source: false,
                ranges: vec![(address, address)],
                not: false,
            }
        };
        let port = || Match::Port {
            protocol: Some(6),
            source: false,
            ranges: vec![(53, 53)],
            not: false,
        };
        let sample = Sample {
            ends: Some(
                ["192.168.2.1", "192.168.1.2"]
                    .map(|end| end.parse().unwrap())
                    .into(),
            ),
            ..sample()
        };
        let (here, elsewhere) = (|| to("192.168.1.2"), || to("192.168.1.3"));
        for (of, holding) in [
            (vec![], Some(false)),
            (vec![vec![]], Some(true)),
            (vec![vec![here(), port()]], None),
            (vec![vec![elsewhere(), port()]], Some(false)),
            (vec![vec![elsewhere(), port()], vec![here()]], Some(true)),
            (
                vec![vec![elsewhere(), port()], vec![here(), Match::Unknown]],
                None,
            ),
        ] {
            for not in [false, true] {
                let found = Match::Any { of: of.clone(), not };
                assert_eq!(
                    holds(&found, &sample),
                    holding.map(|holds| holds != not),
                    "{found:?}"
                );
            }
        }
    }

    #[test]
    fn a_source_is_reached_by_the_device_that_its_packet_came_by_or_by_another() {
        let back = |name: &str| Sample {
            way_back: LinkName::new(name),
            ..sample()
        };
        let found = |by_its_device, exists| Match::WayBack {
            by_its_device,
            exists,
        };
        for (found, sample, holding) in [
            (found(true, false), back("eth0"), Some(false)),
            (found(true, false), back("eth1"), Some(true)),
            (found(true, true), back("eth1"), Some(false)),
            (found(false, false), back("eth1"), Some(false)),
            (found(true, false), sample(), None),
        ] {
            assert_eq!(holds(&found, &sample), holding, "{found:?}");
        }
        let leaving = Sample {
            pass: Pass {
                direction: Direction::Out,
                ..sample().pass
            },
            ..back("eth1")
        };
        assert_eq!(holds(&found(true, false), &leaving), None);
    }

    #[test]
    fn what_is_sent_from_a_port_is_for_another_machine_and_what_comes_to_one_is_not() {
        let from = Sample {
            datagram_from: Some(51_820),
            ..sample()
        };
        let to = Sample {
            datagram_to: Some(51_820),
            ..sample()
        };
        let port = |source| Match::Port {
            protocol: Some(17),
            source,
            ranges: vec![(51_820, 51_820)],
            not: false,
        };
        assert_eq!(
            [true, false].map(|source| holds(&port(source), &from)),
            [Some(true), None]
        );
        assert_eq!(
            [true, false].map(|source| holds(&port(source), &to)),
            [None, Some(true)]
        );
        for not in [false, true] {
            let here = Match::ForHere { not };
            let found = [&from, &to, &sample()].map(|sample| holds(&here, sample));
            assert_eq!(found, [Some(not), Some(!not), Some(not)]);
        }
    }

    #[test]
    fn a_match_on_the_family_is_known_where_the_addresses_are() {
        let found = |not| Match::Family {
            families: vec![Family::V6],
            not,
        };
        let of_v4 = Sample {
            ends: Some(
                ["192.168.2.1", "192.168.1.2"]
                    .map(|end| end.parse().unwrap())
                    .into(),
            ),
            ..sample()
        };
        assert_eq!(
            [false, true].map(|not| holds(&found(not), &of_v4)),
            [Some(false), Some(true)]
        );
        assert_eq!(holds(&found(false), &sample()), None);
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
        let segment = Sample {
            protocol: Some(6),
            ..sample()
        };
        for (found, holding) in [
            (port(Some(6), false, &[(22, 22)], false), None),
            (port(None, false, &[(22, 22)], false), None),
            (port(Some(17), false, &[(22, 22)], false), Some(false)),
            (protocols(&[1, 58], false), Some(false)),
            (protocols(&[6], false), Some(true)),
        ] {
            assert_eq!(holds(&found, &segment), holding, "{found:?}");
        }
    }
}

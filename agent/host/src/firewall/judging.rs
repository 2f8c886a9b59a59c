//! What becomes of one packet in all the chains that it meets, where their rules say that for certain.
//!
//! A rule of which it is not known whether it is for the packet is taken both ways. So nothing is called accepted that a rule might
//! drop, and nothing dropped that one might accept.

use std::{fmt, net::IpAddr};

use spanwire_topology::{Family, MacAddress};

use super::{
    ChainName, Direction, Dropper, Elsewhere, Filter, FilterRule, More, Pass, Sample, State, TableFamily,
    Transport, Verdict, matching::holds, walk::DEEPEST,
};
use crate::LinkName;

/// Priority of connection tracking (`nf_ip_hook_priorities`, linux/netfilter_ipv4.h).
const CONNTRACK: i32 = -200;
/// Before chains that translate destinations, whose rules set marks (kube-proxy's above all) and are not read.
const TRANSLATION: i32 = -110;

/// Where a packet meets chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Where it is neither forwarded nor taken.
    Elsewhere(Elsewhere),
    /// As it is taken.
    Input,
    /// As it is forwarded.
    Forward,
}

/// As nft calls the hook.
impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Elsewhere(Elsewhere::Ingress) => "ingress",
            Self::Elsewhere(Elsewhere::Prerouting | Elsewhere::FromPods) => "prerouting",
            Self::Elsewhere(Elsewhere::Output) => "output",
            Self::Elsewhere(Elsewhere::Postrouting | Elsewhere::ToPods) => "postrouting",
            Self::Elsewhere(Elsewhere::Egress) => "egress",
            Self::Input => "input",
            Self::Forward => "forward",
        })
    }
}

/// A packet without a mark that this machine takes, sends, or sends on, as its routing has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passing {
    /// Its source.
    pub source: IpAddr,
    /// Its destination.
    pub destination: IpAddr,
    /// What it carries above IP; `None`: that is not known.
    pub transport: Option<Transport>,
    /// It answers another one.
    pub answers: bool,
    /// The device that it comes in by; `None`: it begins here.
    pub incoming: Option<LinkName>,
    /// That device is a bridge of pods.
    pub from_bridge: bool,
    /// The link-layer address that it comes from, where that is known.
    pub link_source: Option<MacAddress>,
    /// The device by which there is a route to its source, where that is known.
    pub way_back: Option<LinkName>,
    /// The device that it leaves by; `None`: it is for this machine.
    pub outgoing: Option<LinkName>,
    /// That device is a bridge of pods.
    pub to_bridge: bool,
    /// Its next hop.
    pub via: Option<IpAddr>,
    /// Spanwire's own table, of the family `inet`.
    pub own_table: String,
}

/// What decides about a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where that is.
    pub stage: Stage,
    /// The base chain.
    pub chain: ChainName,
    /// It is one of iptables-legacy.
    pub is_legacy: bool,
    /// It is Spanwire's.
    pub is_own: bool,
    /// The rule, in this chain or one that it leads to; `None`: the policy.
    pub rule: Option<Dropper>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { chain, rule, .. } = self;
        let ChainName { family, table, .. } = chain;
        let of = if self.is_legacy {
            "iptables-legacy's table "
        } else {
            ""
        };
        match rule {
            None => write!(
                f,
                "the policy of the chain {} ({of}{family} {table})",
                chain.chain
            )?,
            // The numbers of iptables-legacy are none that its user could find.
            Some(rule) if self.is_legacy => {
                write!(f, "a rule of the chain {} ({of}{family} {table})", rule.chain)?;
            }
            Some(rule) => write!(
                f,
                "rule {} of the chain {} ({of}{family} {table})",
                rule.handle, rule.chain
            )?,
        }
        match rule.as_ref().and_then(|rule| rule.comment.as_ref()) {
            Some(comment) => write!(f, " \"{comment}\""),
            None => Ok(()),
        }
    }
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// No chain drops it.
    Accepted,
    /// It is dropped, or rejected, here at the latest.
    Dropped(Place),
    /// Whether it is dropped here depends on what is not known of it.
    Unknown(Place),
}

impl Passing {
    /// Returns where it meets chains, in order.
    #[must_use]
    pub fn stages(&self) -> Vec<Stage> {
        use Elsewhere::{Egress, FromPods, Ingress, Output, Postrouting, Prerouting, ToPods};
        let mut stages = Vec::new();
        match &self.incoming {
            Some(_) => {
                stages.push(Stage::Elsewhere(Ingress));
                stages.extend(self.from_bridge.then_some(Stage::Elsewhere(FromPods)));
                stages.push(Stage::Elsewhere(Prerouting));
            }
            None => stages.push(Stage::Elsewhere(Output)),
        }
        match (&self.incoming, &self.outgoing) {
            (Some(_), Some(_)) => stages.push(Stage::Forward),
            (Some(_), None) => stages.push(Stage::Input),
            (None, Some(_)) => {}
            // By loopback, which is a device in both directions.
            (None, None) => {
                stages.extend([Postrouting, Prerouting].map(Stage::Elsewhere));
                stages.push(Stage::Input);
            }
        }
        if self.outgoing.is_some() {
            stages.push(Stage::Elsewhere(Postrouting));
            stages.extend(self.to_bridge.then_some(Stage::Elsewhere(ToPods)));
            stages.push(Stage::Elsewhere(Egress));
        }
        stages
    }

    /// Returns what chains see of it.
    fn sample(&self, stage: Stage) -> Option<Sample> {
        use Elsewhere::{Egress, FromPods, Ingress, Output, Postrouting, Prerouting, ToPods};
        let loopback = || LinkName::new("lo");
        let pass = |direction, link: Option<LinkName>| {
            Some(Pass {
                direction,
                link: link?,
            })
        };
        let local = self.incoming.is_none() && self.outgoing.is_none();
        let by_default = || local.then(loopback).flatten();
        let coming = || pass(Direction::In, self.incoming.clone().or_else(by_default));
        let leaving = || pass(Direction::Out, self.outgoing.clone().or_else(by_default));
        let (pass, also) = match stage {
            Stage::Elsewhere(Ingress | FromPods | Prerouting) | Stage::Input => (coming()?, None),
            Stage::Elsewhere(Output | Postrouting | ToPods | Egress) => (leaving()?, None),
            Stage::Forward => (coming()?, leaving()),
        };
        let more = More {
            also,
            for_here: self.outgoing.is_none(),
            from_here: Some(self.incoming.is_none()),
            is_plain: true,
            answers: Some(self.answers),
            next_hop: self
                .outgoing
                .is_some()
                .then_some(self.via.unwrap_or(self.destination)),
            link_source: self.link_source,
            source_port: self.transport.and_then(|transport| transport.source_port),
            destination_port: self.transport.and_then(|transport| transport.destination_port),
        };
        let family = Family::of(self.source);
        Some(Sample {
            ends: Some((self.source, self.destination)),
            protocol: self.transport.map(|transport| transport.protocol.number(family)),
            way_back: self.way_back.clone(),
            more,
            ..Sample::new(pass)
        })
    }
}

/// Returns what becomes of a packet in the chains that it meets, those of [`Passing::stages`] in their order.
#[must_use]
pub fn judge(packet: &Passing, chains: &[(Stage, Vec<Filter>)]) -> Judgement {
    let begun = if packet.answers {
        State::Established
    } else {
        State::New
    };
    let mut state = Some(begun);
    let mut marks = 0;
    let mut doubt = None;
    for (stage, filters) in chains {
        let Some(sample) = packet.sample(*stage) else {
            continue;
        };
        let mut filters: Vec<&Filter> = filters.iter().filter(|filter| filter.is_of(&sample)).collect();
        filters.sort_by_key(|filter| filter.priority);
        for filter in filters {
            let is_before = |priority| {
                let entering = matches!(stage, Stage::Elsewhere(Elsewhere::Prerouting | Elsewhere::Output));
                let first = matches!(stage, Stage::Elsewhere(Elsewhere::Ingress | Elsewhere::FromPods));
                first || (entering && filter.priority <= priority)
            };
            let tracks = !is_before(CONNTRACK)
                && !matches!(stage, Stage::Elsewhere(Elsewhere::ToPods | Elsewhere::Egress));
            if !is_before(TRANSLATION) && state != Some(State::Untracked) {
                marks = u32::MAX;
            }
            let sample = Sample {
                state: state.filter(|_| tracks),
                marked: marks,
                ..sample.clone()
            };
            let fates = Fates::of(filter, &sample);
            let place = |rule| Place {
                stage: *stage,
                chain: filter.name.clone(),
                is_legacy: filter.is_legacy,
                is_own: filter.name.family == TableFamily::Inet && filter.name.table == packet.own_table,
                rule,
            };
            match (fates.dropped, fates.accepted) {
                (Some(rule), None) => return Judgement::Dropped(place(rule)),
                (Some(by), Some(unless)) => {
                    let rule = if fates.drops_at_last { unless } else { by };
                    doubt.get_or_insert_with(|| place(rule));
                }
                (None, _) => {}
            }
            marks |= filter.marks(&sample).sets;
            if is_before(CONNTRACK) && state != Some(State::Untracked) {
                state = match fates.untracked {
                    Some(true) => Some(State::Untracked),
                    Some(false) => state,
                    None => None,
                };
            }
        }
    }
    doubt.map_or(Judgement::Accepted, Judgement::Unknown)
}

/// What may become of a packet in a base chain, each with the first rule that may do it; `None`: the policy.
#[derive(Default)]
struct Fates {
    accepted: Option<Option<Dropper>>,
    dropped: Option<Option<Dropper>>,
    /// What no earlier rule decides about is dropped in the end.
    drops_at_last: bool,
    /// It is not tracked from here on; `None`: that is not known.
    untracked: Option<bool>,
}

impl Fates {
    fn of(filter: &Filter, sample: &Sample) -> Self {
        let mut fates = Self {
            untracked: Some(false),
            ..Self::default()
        };
        let walk = Walk { filter, sample };
        if walk.through(&mut fates, &filter.name.chain, &filter.rules, (0, true)) {
            fates.add(filter.drops, None);
        }
        fates
    }

    fn add(&mut self, drops: bool, by: Option<Dropper>) {
        let fate = if drops {
            &mut self.dropped
        } else {
            &mut self.accepted
        };
        fate.get_or_insert(by);
        self.drops_at_last = drops;
    }
}

struct Walk<'a> {
    filter: &'a Filter,
    sample: &'a Sample,
}

impl Walk<'_> {
    /// Walks a chain that the packet comes to, for certain or not; returns whether it may come out of it undecided.
    fn through(
        &self,
        fates: &mut Fates,
        chain: &str,
        rules: &[FilterRule],
        (depth, mut is_certain): (u32, bool),
    ) -> bool {
        let mut may_leave = false;
        for rule in rules {
            let held = rule.matches.iter().map(|found| holds(found, self.sample));
            let held: Vec<Option<bool>> = held.collect();
            if held.contains(&Some(false)) {
                continue;
            }
            let holds = held.iter().all(|held| *held == Some(true));
            if rule.untracks != Some(false) && fates.untracked != Some(true) {
                fates.untracked = rule.untracks.filter(|_| is_certain && holds);
            }
            let by = || {
                Some(Dropper {
                    chain: chain.to_owned(),
                    handle: rule.handle,
                    comment: rule.comment.clone(),
                })
            };
            let ends = match &rule.verdict {
                Verdict::Continue => continue,
                Verdict::Unknown => {
                    fates.add(true, by());
                    fates.add(false, by());
                    false
                }
                Verdict::Accept => {
                    fates.add(false, by());
                    holds
                }
                Verdict::Drop => {
                    fates.add(true, by());
                    holds
                }
                Verdict::Return => {
                    may_leave = true;
                    holds
                }
                Verdict::Jump(to) | Verdict::Goto(to) => {
                    let is_goto = matches!(rule.verdict, Verdict::Goto(_));
                    let rules = self.filter.chains.get(to).filter(|_| depth < DEEPEST);
                    let comes_back = match rules {
                        Some(rules) => self.through(fates, to, rules, (depth + 1, is_certain && holds)),
                        // It was not read.
                        None => {
                            fates.add(true, by());
                            fates.add(false, by());
                            true
                        }
                    };
                    may_leave |= is_goto && comes_back;
                    holds && (is_goto || !comes_back)
                }
            };
            if ends {
                return may_leave;
            }
            is_certain &= holds && fates.accepted.is_none() && fates.dropped.is_none();
        }
        true
    }
}

#[cfg(test)]
mod tests;

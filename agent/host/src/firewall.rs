//! How others filter forwarded packets, and where packets of the mesh end in it.
//!
//! In nftables what one base chain accepts the next of the same hook may still drop (nft(8), "CHAINS"). So a host whose
//! firewall drops what it does not know (Docker and ufw by a policy, firewalld by a last rule) drops what a leader sends
//! on, unless the firewall's own chain accepts it. That is done as flannel does it, at the end: before the first rule that
//! is certain to drop the packet, so that whatever decides about some packets (network policies, DOCKER-USER, rules of the
//! administrator) decides first.
//!
//! What is certain is found out by walking the rules with a packet of which the device is known and, for a [`Sample`], more
//! (`firewall/walk.rs`). Tables of iptables-legacy are read and not changed: what they drop is said.

mod judging;
mod matching;
mod names;
mod transport;
mod walk;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use spanwire_topology::Family;

use crate::LinkName;
pub use judging::{Judgement, Passing, Place, Stage, judge};
use matching::holds;
pub use matching::{Match, More, Sample, State};
pub use names::{ChainName, Direction, Pass, TableFamily};
pub use transport::{Protocol, Transport};
use walk::Walk;
pub use walk::{Dropper, Fate, FilterRule, MarkChange, Verdict};

/// The rules in a chain of another program that accept packets of the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Passage {
    /// What they accept.
    pub passes: BTreeSet<Pass>,
    /// One of them stands where it has no effect, or more than once. Never wanted.
    pub is_misplaced: bool,
}

/// Where Linux has a packet meet a base chain, besides where this machine forwards it or takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Elsewhere {
    /// As it comes out of a device.
    Ingress,
    /// As it arrives, before it is routed.
    Prerouting,
    /// As this machine sends it.
    Output,
    /// As it leaves, forwarded or sent.
    Postrouting,
    /// As it goes into a device.
    Egress,
    /// In the bridge that it comes from pods by.
    FromPods,
    /// In the bridge that it goes to pods by.
    ToPods,
}

/// What is certain to drop a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dropped {
    /// The rule; `None`: the policy, or not known.
    pub(crate) by: Option<Dropper>,
    /// Where the packet is from and to, where that matters.
    pub(crate) ends: Option<(IpAddr, IpAddr)>,
}

/// Filters of this machine that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unread {
    /// Which they are.
    pub what: String,
    /// The error with its causes.
    pub cause: String,
}

/// A base chain of another program, with the chains that it leads to, as far as they are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The base chain.
    pub name: ChainName,
    /// It is one of iptables-legacy.
    pub is_legacy: bool,
    /// Its table can be changed by the program that made it alone.
    pub is_locked: bool,
    /// When it decides, among others at its hook; smaller is earlier.
    pub priority: i32,
    /// Where it is for some devices alone, these.
    pub links: Option<BTreeSet<LinkName>>,
    /// It drops what no rule decides about.
    pub drops: bool,
    /// Its rules.
    pub rules: Vec<FilterRule>,
    /// Other chains of its table.
    pub chains: BTreeMap<String, Vec<FilterRule>>,
}

impl Filter {
    /// Returns what becomes of a packet, as if Spanwire's own rules were not there, and what is not known decided nothing.
    #[must_use]
    pub fn fate(&self, sample: &Sample) -> Fate {
        Walk::new(self, sample).fate()
    }

    /// Returns what drops a packet in any case, whatever is not known of it: the rule of this number, or the policy.
    #[must_use]
    pub fn certain_drop(&self, sample: &Sample) -> Option<Option<u64>> {
        let mut walk = Walk::new(self, sample);
        match walk.fate() {
            Fate::Dropped(by) if !walk.is_in_doubt() => Some(by),
            Fate::Dropped(_) | Fate::Accepted => None,
        }
    }

    /// Whether packets of a device meet it.
    pub(crate) fn is_for(&self, link: &LinkName) -> bool {
        self.links.as_ref().is_none_or(|links| links.contains(link))
    }

    fn is_of(&self, sample: &Sample) -> bool {
        if !self.is_for(&sample.pass.link) {
            return false;
        }
        let family = sample.ends.map(|(source, _)| Family::of(source));
        family.is_none_or(|family| self.name.family.has(family))
    }

    /// Returns what is certain to drop one of the packets that pass so.
    pub(crate) fn surely_drops(&self, pass: &Pass, samples: &[Sample]) -> Option<Dropped> {
        let mut samples = samples
            .iter()
            .filter(|sample| sample.pass == *pass && self.is_of(sample));
        samples.find_map(|sample| {
            let mut walk = Walk::new(self, sample);
            let dropped = walk.fate() != Fate::Accepted && !walk.is_in_doubt();
            let wherever = Sample {
                ends: None,
                ..sample.clone()
            };
            dropped.then(|| Dropped {
                // The numbers of iptables-legacy are none that its user could find.
                by: walk.dropper().filter(|_| !self.is_legacy),
                ends: sample.ends.filter(|_| self.certain_drop(&wherever).is_none()),
            })
        })
    }

    /// Returns what these rules may change in the mark of a packet.
    pub(crate) fn marks(&self, sample: &Sample) -> MarkChange {
        let mut marks = MarkChange::default();
        if !self.is_of(sample) {
            return marks;
        }
        let mut reached = BTreeSet::new();
        let mut left = vec![&self.rules];
        while let Some(rules) = left.pop() {
            let for_it = |rule: &&FilterRule| {
                let mut matches = rule.matches.iter();
                !matches.any(|found| holds(found, sample) == Some(false))
            };
            for rule in rules.iter().filter(for_it) {
                marks = marks.and(rule.marks);
                let (Verdict::Jump(chain) | Verdict::Goto(chain)) = &rule.verdict else {
                    continue;
                };
                match self.chains.get(chain) {
                    Some(rules) if reached.insert(chain) => left.push(rules),
                    Some(_) => {}
                    // It was not looked at.
                    None => marks = MarkChange::ANY,
                }
            }
        }
        marks
    }

    /// Whether packets that pass so are certain to be dropped, and one of the samples is not accepted before that.
    pub(crate) fn drops(&self, pass: &Pass, samples: &[Sample]) -> bool {
        let any = Sample::new(pass.clone());
        let mut samples = samples
            .iter()
            .filter(|sample| sample.pass == *pass && self.is_of(sample));
        self.fate(&any) != Fate::Accepted && samples.any(|sample| self.fate(sample) != Fate::Accepted)
    }

    /// Returns Spanwire's rules in the chain, where there are any.
    #[must_use]
    pub fn passage(&self) -> Option<Passage> {
        let own = || self.rules.iter().filter_map(|rule| rule.own.as_ref());
        let passes: BTreeSet<Pass> = own().cloned().collect();
        let first = self.rules.iter().position(|rule| rule.own.is_some())?;
        let place = self.position(&passes).unwrap_or(self.rules.len());
        // They stand together right before their place: what was added after them is to decide first, too.
        let between = self.rules.get(first..place);
        let in_place =
            between.is_some_and(|rules| rules.len() == passes.len() && own().count() == passes.len());
        let is_misplaced =
            !in_place || !between.is_some_and(|rules| rules.iter().all(|rule| rule.own.is_some()));
        Some(Passage { passes, is_misplaced })
    }

    /// Returns the number of the rule before which rules that accept these have to stand; `None`: at the end.
    #[must_use]
    pub fn place(&self, passes: &BTreeSet<Pass>) -> Option<u64> {
        self.rules.get(self.position(passes)?).map(|rule| rule.handle)
    }

    fn position(&self, passes: &BTreeSet<Pass>) -> Option<usize> {
        let dropped = |pass: &Pass| {
            let pass = pass.clone();
            match self.fate(&Sample::new(pass)) {
                Fate::Dropped(Some(handle)) => self.rules.iter().position(|rule| rule.handle == handle),
                Fate::Dropped(None) | Fate::Accepted => None,
            }
        };
        passes.iter().filter_map(dropped).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(direction: Direction, link: &str) -> Pass {
        Pass {
            direction,
            link: LinkName::new(link).unwrap(),
        }
    }

    fn from_tunnel() -> Pass {
        pass(Direction::In, "spanwire0")
    }

    fn between(pods: bool) -> Sample {
        let ends = if pods {
            ["10.244.2.2", "10.244.1.2"]
        } else {
            ["192.168.2.1", "192.168.1.2"]
        };
        let [from, to] = ends.map(|end| end.parse().unwrap());
        Sample {
            ends: Some((from, to)),
            ..Sample::new(from_tunnel())
        }
    }

    pub(super) fn rule(handle: u64, matches: Vec<Match>, verdict: Verdict) -> FilterRule {
        FilterRule {
            handle,
            comment: None,
            own: None,
            matches,
            verdict,
            marks: MarkChange::default(),
            untracks: Some(false),
        }
    }

    fn own(handle: u64) -> FilterRule {
        let own = Some(from_tunnel());
        let matches = vec![device("spanwire0", false)];
        FilterRule {
            own,
            ..rule(handle, matches, Verdict::Accept)
        }
    }

    fn device(name: &str, not: bool) -> Match {
        Match::Device {
            direction: Direction::In,
            names: vec![name.to_owned()],
            not,
        }
    }

    /// What flannel accepts.
    fn pods() -> Match {
        let [first, last] = ["10.244.0.0", "10.244.255.255"].map(|end| end.parse().unwrap());
        Match::Address {
            source: false,
            ranges: vec![(first, last)],
            not: false,
        }
    }

    fn filter(drops: bool, rules: Vec<FilterRule>, chains: &[(&str, Vec<FilterRule>)]) -> Filter {
        let chains = chains
            .iter()
            .map(|(name, rules)| ((*name).to_owned(), rules.clone()));
        Filter {
            name: ChainName {
                family: TableFamily::Ip,
                table: "filter".to_owned(),
                chain: "FORWARD".to_owned(),
            },
            is_legacy: false,
            is_locked: false,
            priority: 0,
            links: None,
            drops,
            rules,
            chains: chains.collect(),
        }
    }

    #[test]
    fn a_policy_drops_what_no_rule_accepts_and_the_place_is_the_end() {
        let docker = filter(true, vec![rule(1, vec![pods()], Verdict::Accept)], &[]);
        assert!(docker.drops(&from_tunnel(), &[between(true), between(false)]));
        assert!(
            !docker.drops(&from_tunnel(), &[between(true)]),
            "flannel's rule does"
        );
        assert_eq!(docker.place(&[from_tunnel()].into()), None);
        let open = filter(false, Vec::new(), &[]);
        assert!(!open.drops(&from_tunnel(), &[between(false)]));
    }

    #[test]
    fn a_rule_that_is_certain_to_drop_is_what_the_place_is_before() {
        let zone = vec![rule(9, vec![], Verdict::Drop)];
        let rules = vec![
            rule(1, vec![Match::Unknown], Verdict::Drop),
            rule(2, vec![device("docker*", false)], Verdict::Drop),
            rule(3, vec![device("spanwire0", true)], Verdict::Drop),
            rule(4, vec![], Verdict::Jump("some".to_owned())),
            rule(5, vec![], Verdict::Jump("zones".to_owned())),
            rule(6, vec![], Verdict::Drop),
        ];
        let chains = [
            (
                "some",
                vec![
                    rule(7, vec![pods()], Verdict::Drop),
                    rule(8, vec![], Verdict::Return),
                ],
            ),
            ("zones", vec![rule(10, vec![], Verdict::Goto("zone".to_owned()))]),
            ("zone", zone),
        ];
        let firewalld = filter(false, rules, &chains);
        assert!(firewalld.drops(&from_tunnel(), &[between(false)]));
        assert_eq!(firewalld.place(&[from_tunnel()].into()), Some(5));
        let unlisted = filter(
            false,
            vec![rule(1, vec![], Verdict::Jump("unlisted".to_owned()))],
            &[],
        );
        assert_eq!(unlisted.fate(&between(false)), Fate::Accepted);
    }

    #[test]
    fn own_rules_stand_right_before_what_drops_all() {
        let last = || rule(6, vec![], Verdict::Drop);
        let passage = |rules| filter(true, rules, &[]).passage();
        let whole = Passage {
            passes: [from_tunnel()].into(),
            is_misplaced: false,
        };
        let misplaced = Passage {
            is_misplaced: true,
            ..whole.clone()
        };
        assert_eq!(passage(vec![last()]), None);
        assert_eq!(passage(vec![own(1), last()]), Some(whole));
        assert_eq!(passage(vec![last(), own(1)]), Some(misplaced.clone()));
        let some = rule(3, vec![Match::Unknown], Verdict::Drop);
        assert_eq!(
            passage(vec![own(1), some.clone(), last()]),
            Some(misplaced.clone())
        );
        assert_eq!(passage(vec![own(1), some]), Some(misplaced.clone()));
        assert_eq!(passage(vec![own(1), own(2)]), Some(misplaced));
        assert!(filter(true, vec![own(1), last()], &[]).drops(&from_tunnel(), &[between(false)]));
    }

    #[test]
    fn chains_that_call_each_other_come_to_an_end() {
        let again = vec![rule(1, vec![], Verdict::Jump("again".to_owned()))];
        let circle = filter(true, again.clone(), &[("again", again)]);
        assert_eq!(circle.fate(&between(false)), Fate::Dropped(None));
    }

    fn states(states: &[State], not: bool) -> Match {
        Match::State {
            states: states.iter().copied().collect(),
            not,
        }
    }

    #[test]
    fn what_depends_on_the_connection_decides_where_its_state_is_known() {
        let known = &[State::Established, State::Related];
        let of = |state| Sample {
            state: Some(state),
            ..between(false)
        };
        let invalid = rule(1, vec![states(&[State::Invalid], false)], Verdict::Drop);
        let answers = rule(2, vec![states(known, false)], Verdict::Accept);
        let begun = rule(3, vec![states(known, true)], Verdict::Drop);
        let stateful = filter(false, vec![invalid, answers.clone(), begun], &[]);
        for state in [State::New, State::Untracked] {
            assert_eq!(stateful.fate(&of(state)), Fate::Dropped(Some(3)), "{state:?}");
            assert_eq!(stateful.certain_drop(&of(state)), Some(Some(3)));
        }
        assert_eq!(stateful.fate(&of(State::Established)), Fate::Accepted);
        assert_eq!(stateful.certain_drop(&between(false)), None, "not known");
        assert!(
            !stateful.drops(&from_tunnel(), &[of(State::Untracked)]),
            "only some of all"
        );
        assert!(
            stateful
                .surely_drops(&from_tunnel(), &[of(State::Untracked)])
                .is_some()
        );
        let unknown = |verdict| rule(9, vec![Match::Unknown], verdict);
        let behind = |verdict| filter(true, vec![unknown(verdict), answers.clone()], &[]);
        for verdict in [
            Verdict::Accept,
            Verdict::Return,
            Verdict::Unknown,
            Verdict::Jump("x".to_owned()),
        ] {
            assert_eq!(
                behind(verdict.clone()).certain_drop(&of(State::New)),
                None,
                "{verdict:?}"
            );
        }
        for verdict in [Verdict::Drop, Verdict::Continue] {
            assert_eq!(
                behind(verdict.clone()).certain_drop(&of(State::New)),
                Some(None),
                "{verdict:?}"
            );
        }
    }

    #[test]
    fn the_rule_that_drops_is_named_with_its_chain() {
        let unmarked = Match::Mark {
            of_connection: false,
            mask: u32::MAX,
            ranges: vec![(0x100, 0x100)],
            not: true,
        };
        let zone = vec![FilterRule {
            comment: Some("not of a zone".to_owned()),
            ..rule(9, vec![unmarked], Verdict::Drop)
        }];
        let rules = vec![rule(1, vec![], Verdict::Jump("zone".to_owned()))];
        let zoned = filter(false, rules, &[("zone", zone)]);
        let sample = |marked| Sample {
            marked,
            ..between(false)
        };
        let dropper = Dropper {
            chain: "zone".to_owned(),
            handle: 9,
            comment: Some("not of a zone".to_owned()),
        };
        let dropped = |marked| zoned.surely_drops(&from_tunnel(), &[sample(marked)]);
        let named = |by| Some(Dropped { by, ends: None });
        assert_eq!(dropped(0x2000), named(Some(dropper)));
        assert_eq!(dropped(0x100), None, "it may have been marked");
        let by_policy = filter(true, vec![], &[]);
        assert_eq!(by_policy.surely_drops(&from_tunnel(), &[sample(0)]), named(None));
        let legacy = Filter {
            is_legacy: true,
            ..zoned.clone()
        };
        assert_eq!(legacy.surely_drops(&from_tunnel(), &[sample(0)]), named(None));
        // Where it is one of some addresses only those are named.
        let some = filter(false, vec![rule(1, vec![pods()], Verdict::Drop)], &[]);
        let found = |pods| {
            some.surely_drops(&from_tunnel(), &[between(pods)])
                .map(|dropped| dropped.ends)
        };
        assert_eq!(found(true), Some(between(true).ends));
        assert_eq!(found(false), None);
    }

    #[test]
    fn bits_are_set_by_the_rules_that_may_be_for_a_packet() {
        let marking = |matches, bits| FilterRule {
            marks: MarkChange {
                sets: bits,
                clears: bits << 8,
            },
            ..rule(1, matches, Verdict::Continue)
        };
        let to = |chain: &str, matches| rule(2, matches, Verdict::Jump(chain.to_owned()));
        let chains = [
            ("zone", vec![marking(vec![], 0x10), to("zone", vec![])]),
            ("lan", vec![marking(vec![], 0x20)]),
        ];
        let rules = vec![
            marking(vec![device("eth0", false)], 0x1),
            marking(vec![device("spanwire*", false)], 0x2),
            marking(vec![Match::Unknown], 0x4),
            marking(vec![states(&[State::New], false)], 0x8),
            to("zone", vec![]),
            to("lan", vec![device("eth0", false)]),
        ];
        let transit = Sample {
            state: Some(State::Untracked),
            ..between(false)
        };
        assert_eq!(
            filter(false, rules.clone(), &chains).marks(&transit),
            MarkChange {
                sets: 0x16,
                clears: 0x1600
            }
        );
        let elsewhere = [rules, vec![to("not-read", vec![Match::Unknown])]].concat();
        assert_eq!(filter(false, elsewhere, &chains).marks(&transit), MarkChange::ANY);
    }
}

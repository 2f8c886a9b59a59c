//! How others filter forwarded packets, and where packets of the mesh end in it.
//!
//! In nftables what one base chain accepts the next of the same hook may still drop (nft(8), "CHAINS"). So a host whose
//! firewall drops what it does not know (Docker and ufw by a policy, firewalld by a last rule) drops what a leader sends
//! on, unless the firewall's own chain accepts it. That is done as flannel does it, at the end: before the first rule that
//! is certain to drop the packet, so that whatever decides about some packets (network policies, DOCKER-USER, rules of the
//! administrator) decides first.
//!
//! What is certain is found out by walking the rules with a packet of which the device is known and, for a [`Sample`], the
//! addresses. A match on anything else may hold or not, and then nothing follows from the rule.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use spanwire_topology::Family;

use crate::LinkName;

/// How deep chains may call each other; the kernel has a limit of 16 (`NFT_JUMP_STACK_SIZE`).
const DEEPEST: u32 = 16;

/// The family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TableFamily {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Both.
    Inet,
}

impl TableFamily {
    fn has(self, family: Family) -> bool {
        match self {
            Self::Ip => family == Family::V4,
            Self::Ip6 => family == Family::V6,
            Self::Inet => true,
        }
    }
}

impl fmt::Display for TableFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
        })
    }
}

/// What identifies a chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChainName {
    /// The family of its table.
    pub family: TableFamily,
    /// Its table.
    pub table: String,
    /// Its name in the table.
    pub chain: String,
}

/// As nft takes it.
impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, table, chain } = self;
        write!(f, "{family} {table} {chain}")
    }
}

/// Which way a packet passes a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// It arrived by it.
    In,
    /// It leaves by it.
    Out,
}

/// Packets that pass a device in one direction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pass {
    /// Which way.
    pub direction: Direction,
    /// The device.
    pub link: LinkName,
}

/// As nft writes the match.
impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = match self.direction {
            Direction::In => "iifname",
            Direction::Out => "oifname",
        };
        write!(f, "{key} \"{}\"", self.link)
    }
}

/// The rules in a chain of another program that accept packets of the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Passage {
    /// What they accept.
    pub passes: BTreeSet<Pass>,
    /// One of them stands where it has no effect, or more than once. Never wanted.
    pub is_misplaced: bool,
}

/// A base chain of another program at the forward hook, with the chains that it leads to, as far as they are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The base chain.
    pub name: ChainName,
    /// It drops what no rule decides about.
    pub drops: bool,
    /// Its rules.
    pub rules: Vec<FilterRule>,
    /// Other chains of its table.
    pub chains: BTreeMap<String, Vec<FilterRule>>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterRule {
    /// Its number in the table.
    pub handle: u64,
    /// What it accepts, where Spanwire made it.
    pub own: Option<Pass>,
    /// What all must hold.
    pub matches: Vec<Match>,
    /// What then.
    pub verdict: Verdict,
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
    /// Something else.
    Unknown,
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

impl Filter {
    /// Returns what becomes of a packet, as if Spanwire's own rules were not there.
    #[must_use]
    pub fn fate(&self, sample: &Sample) -> Fate {
        for rule in &self.rules {
            match self.decide(rule, sample, 0) {
                Some(End::Accepted) => return Fate::Accepted,
                Some(End::Dropped) => return Fate::Dropped(Some(rule.handle)),
                Some(End::Left) => break,
                None => {}
            }
        }
        if self.drops {
            Fate::Dropped(None)
        } else {
            Fate::Accepted
        }
    }

    /// Whether packets that pass so are certain to be dropped, and one of the samples is not accepted before that.
    pub(crate) fn drops(&self, pass: &Pass, samples: &[Sample]) -> bool {
        let any = Sample {
            pass: pass.clone(),
            ends: None,
        };
        let concerned = |sample: &&Sample| {
            let family = sample.ends.map(|(source, _)| Family::of(source));
            sample.pass == *pass && family.is_none_or(|family| self.name.family.has(family))
        };
        let mut samples = samples.iter().filter(concerned);
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
            match self.fate(&Sample { pass, ends: None }) {
                Fate::Dropped(Some(handle)) => self.rules.iter().position(|rule| rule.handle == handle),
                Fate::Dropped(None) | Fate::Accepted => None,
            }
        };
        passes.iter().filter_map(dropped).min()
    }

    /// `None`: the next rule.
    fn decide(&self, rule: &FilterRule, sample: &Sample, depth: u32) -> Option<End> {
        let certain = rule
            .matches
            .iter()
            .all(|found| holds(found, sample) == Some(true));
        if rule.own.is_some() || !certain {
            return None;
        }
        match &rule.verdict {
            Verdict::Continue | Verdict::Unknown => None,
            Verdict::Accept => Some(End::Accepted),
            Verdict::Drop => Some(End::Dropped),
            Verdict::Return => Some(End::Left),
            Verdict::Jump(chain) => match self.walk(chain, sample, depth) {
                End::Left => None,
                end @ (End::Accepted | End::Dropped) => Some(end),
            },
            Verdict::Goto(chain) => Some(self.walk(chain, sample, depth)),
        }
    }

    fn walk(&self, chain: &str, sample: &Sample, depth: u32) -> End {
        let rules = self.chains.get(chain).filter(|_| depth < DEEPEST);
        let mut ends = rules
            .into_iter()
            .flatten()
            .filter_map(|rule| self.decide(rule, sample, depth + 1));
        ends.next().unwrap_or(End::Left)
    }
}

/// Whether a match holds; `None` where that is not known.
fn holds(found: &Match, sample: &Sample) -> Option<bool> {
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
        Match::Unknown => None,
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
            pass: from_tunnel(),
            ends: Some((from, to)),
        }
    }

    fn rule(handle: u64, matches: Vec<Match>, verdict: Verdict) -> FilterRule {
        FilterRule {
            handle,
            own: None,
            matches,
            verdict,
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

    #[test]
    fn an_inverted_match_on_the_other_family_does_not_hold() {
        let v6: IpAddr = "fd00::1".parse().unwrap();
        let not = Match::Address {
            source: true,
            ranges: vec![(v6, v6)],
            not: true,
        };
        assert_eq!(holds(&not, &between(false)), Some(false));
    }
}

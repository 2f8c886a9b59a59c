//! What follows for the leaders from what answers and what does not.
//!
//! Nothing is given up for being bad, only for being worse than something else: a node that is cut off finds all silent, changes
//! nothing, and says [what it does not reach](Judgement::unreached). Nor for something of which it is not known whether it answers
//! just now: what two leaders have in common fails for both at nearly the same time.
//!
//! What never answered may work all the same, where echo requests are filtered, so it is not given up for that. Neither is it any
//! better than what answers, if only on probation: it may have no tunnel at all. It is taken instead of what is lost or blocked,
//! since nothing is to lose there. But where WireGuard has no session with a leader nothing gets there, so one that answers is taken
//! instead: a leader that has just booted may have a session with one leader of a location and none with the other, as where a NAT
//! delivers what is for the one to the other. Nor is such a leader taken instead of a lost one, which may be lost by mistake: while
//! locations are being connected the answers are few yet, and the machine is busy.
//!
//! A leader of the own location that does not answer by the hop is worse than one through which nothing answers. The answers to what
//! is asked through a leader come back through whichever leader the far side uses, so when one dies, none comes through
//! the others either until the far side has noticed. One that has only just come back, and through which something answers already, is
//! better than both.

use std::collections::{BTreeMap, BTreeSet};

use spanwire_topology::{Doubt, LocationName, NodeName};

use super::assignment::Assignment;

/// What is watched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A leader of another location, through the own tunnel.
    Far(LocationName, NodeName),
    /// Another leader of the own location, by the hop.
    Hop(NodeName),
    /// Another location, through another leader of the own one.
    Through(NodeName, LocationName),
    /// What is behind the leader of another location that is in use.
    Behind(LocationName, NodeName),
    /// A node of the own location that leads nothing, by the hop.
    Member(NodeName),
}

/// How far something can be relied upon, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trust {
    /// It answers, or has only just begun to be asked.
    Sound,
    /// It has just not answered, which happens.
    Doubtful,
    /// It answers again, and has yet to show that it goes on.
    OnProbation,
    /// It answers, nothing came from behind it, and it is not to be tried yet.
    Useless,
    /// It has never answered, which proves nothing: neither that it is dead, nor that it works.
    Unproven,
    /// It has never answered, and there is no session by which it could.
    Unconnected,
    /// It is taken for dead.
    Lost,
}

/// The leaders that are not to be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Leaders of the own location, each with a location to which nothing is to go through it.
    pub lost: BTreeSet<(NodeName, LocationName)>,
    /// Leaders of other locations.
    pub forsaken: BTreeSet<(LocationName, NodeName)>,
    /// Those of them that answer all the same: on probation, or while nothing came from behind them.
    pub answering: BTreeMap<(LocationName, NodeName), Doubt>,
    /// Locations that are reached by no way: everything that is asked of them has answered before, and is taken for dead.
    pub unreached: BTreeSet<LocationName>,
    /// Locations that are reached by no way that ever answered. What never did may work all the same.
    pub unheard: BTreeSet<LocationName>,
    /// Other nodes of the own location that the hop does not reach, though it reaches another leader.
    pub cut: BTreeSet<NodeName>,
    /// On a leader: the nodes of its location that have answered by the hop and do not now. On another node: its leaders, where
    /// that is so of all of them, and nothing answers through them. It is for people; nothing is chosen by it.
    pub silent: BTreeSet<NodeName>,
    /// Locations of which leaders answer, and nothing behind any leader that is in use, though it did before. It is for people; nothing
    /// is chosen by it.
    pub barren: BTreeSet<LocationName>,
    /// Leaders of other locations that have answered and are taken for dead. Nothing is chosen by it.
    pub dead: BTreeSet<(LocationName, NodeName)>,
    /// Those of `lost` that answer by the hop, and through which nothing arrives. Nothing is chosen by it.
    pub idle: BTreeSet<(NodeName, LocationName)>,
}

impl Judgement {
    /// Returns whether no way reaches a location, as far as is known.
    #[must_use]
    pub fn is_gone(&self, location: &LocationName) -> bool {
        self.unreached.contains(location) || self.unheard.contains(location)
    }

    /// Returns whether a leader of another location that is not used has been of use before: it answers, or did until it was taken for
    /// dead. One that has only never had a session is passed by until it has.
    #[must_use]
    pub fn has_failed(&self, leader: &(LocationName, NodeName)) -> bool {
        self.forsaken.contains(leader) && (self.dead.contains(leader) || self.answering.contains_key(leader))
    }

    /// Returns whether nothing gets there by a leader of another location that is not used, as far as is known: it answered until it was
    /// taken for dead, or nothing came from behind it. One on probation answers again.
    #[must_use]
    pub fn is_of_no_use(&self, leader: &(LocationName, NodeName)) -> bool {
        let doubt = self.answering.get(leader);
        self.forsaken.contains(leader) && (self.dead.contains(leader) || doubt == Some(&Doubt::Useless))
    }

    pub(super) fn note_gone(&mut self, location: LocationName, gone: Gone) {
        match gone {
            Gone::Lost => self.unreached.insert(location),
            Gone::Unheard => self.unheard.insert(location),
        };
    }

    /// Returns whether this is why a leader is not to be used.
    pub(super) fn blames(&self, subject: &Subject) -> bool {
        match subject {
            Subject::Far(location, leader) => self.forsaken.contains(&(location.clone(), leader.clone())),
            Subject::Through(leader, location) => self.lost.contains(&(leader.clone(), location.clone())),
            Subject::Member(node) => self.cut.contains(node),
            Subject::Hop(_) | Subject::Behind(..) => false,
        }
    }
}

/// What is known of a location that no way reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    /// Everything has answered before.
    Lost,
    /// Something never did.
    Unheard,
}

/// Among which leaders there is a choice.
#[derive(Clone, Debug, Default)]
pub(super) struct Choices {
    /// This node, where it leads.
    pub(super) me: Option<NodeName>,
    /// Its own tunnels lead nowhere, whatever is heard: it lacks their device.
    lacks_tunnel: bool,
    /// The far side takes what it sends through another leader.
    pub(super) groups: bool,
    /// The other leaders of the own location.
    hops: Vec<NodeName>,
    /// The nodes of the own location that lead nothing.
    members: Vec<NodeName>,
    /// The locations to which something may go through each of them.
    towards: BTreeSet<LocationName>,
    /// The leaders of other locations.
    far: BTreeMap<LocationName, Vec<NodeName>>,
    /// Those of them with which WireGuard has no session.
    pub(super) unconnected: BTreeSet<(LocationName, NodeName)>,
}

impl Choices {
    pub(super) fn new(assignment: &Assignment) -> Self {
        let probes = &assignment.probes;
        let mut far: BTreeMap<LocationName, Vec<NodeName>> = BTreeMap::new();
        for leader in &probes.far {
            let of_location = far.entry(leader.location.clone()).or_default();
            of_location.push(leader.node.clone());
        }
        Self {
            me: assignment.leads_as.clone(),
            lacks_tunnel: assignment.lacks_tunnel,
            groups: assignment.groups,
            hops: probes.hops.iter().map(|near| near.node.clone()).collect(),
            members: probes.members.iter().map(|near| near.node.clone()).collect(),
            towards: probes.through.iter().map(|far| far.location.clone()).collect(),
            far,
            unconnected: assignment.unconnected.clone(),
        }
    }

    /// Returns what is not to be used. `before` is what was not until now.
    pub(super) fn judge(&self, trust: &dyn Fn(&Subject) -> Trust, before: &Judgement) -> Judgement {
        let mut judgement = Judgement::default();
        for (location, leaders) in &self.far {
            let key = |leader: &NodeName| (location.clone(), leader.clone());
            let way = |leader: &NodeName| far(trust(&Subject::Far(location.clone(), leader.clone())));
            let ways: Vec<_> = leaders.iter().map(|leader| (key(leader), way(leader))).collect();
            let worse = worse(&ways, &before.forsaken);
            let doubts = worse.iter().filter_map(|(location, leader)| {
                let doubt = match trust(&Subject::Far(location.clone(), leader.clone())) {
                    Trust::OnProbation => Doubt::Returning,
                    Trust::Useless => Doubt::Useless,
                    Trust::Sound | Trust::Doubtful | Trust::Unproven | Trust::Unconnected | Trust::Lost => {
                        return None;
                    }
                };
                Some(((location.clone(), leader.clone()), doubt))
            });
            judgement.answering.extend(doubts);
            judgement.forsaken.extend(worse);
            let is_dead =
                |leader: &&NodeName| trust(&Subject::Far(location.clone(), (*leader).clone())) == Trust::Lost;
            judgement.dead.extend(leaders.iter().filter(is_dead).map(key));
        }
        for location in &self.towards {
            let key = |leader: &NodeName| (leader.clone(), location.clone());
            let own = self
                .me
                .iter()
                .filter_map(|me| Some((key(me), self.own(location, trust)?)));
            let others = self.hops.iter().map(|leader| {
                let hop = trust(&Subject::Hop(leader.clone()));
                let through = trust(&Subject::Through(leader.clone(), location.clone()));
                (key(leader), other(hop, through))
            });
            let ways: Vec<_> = own.chain(others).collect();
            // A leader whose own tunnels are all silent is none the better for reaching itself. Nor are those beside it any better
            // then, so it does not go on sending to them: what is sent here is refused here, as far as the kernel knows that it
            // goes nowhere. A leader beside it would refuse it as well, but Linux sends one host few such errors
            // (`icmp_ratelimit`), and the agent's own questions use them up.
            let is_cut_off = self.me.is_some() && ways.iter().all(|(_, way)| way.grade >= Grade::Blocked);
            let worse = match is_cut_off {
                true => {
                    let others = ways.into_iter().map(|(key, _)| key);
                    let others = others.filter(|(leader, _)| self.me.as_ref() != Some(leader));
                    others.filter(|key| before.lost.contains(key)).collect()
                }
                false => worse(&ways, &before.lost),
            };
            judgement.lost.extend(worse);
        }
        let is_idle = |(leader, location): &&(NodeName, LocationName)| {
            self.me.as_ref() != Some(leader)
                && trust(&Subject::Hop(leader.clone())) <= Trust::Doubtful
                && trust(&Subject::Through(leader.clone(), location.clone())) == Trust::Lost
        };
        judgement.idle = judgement.lost.iter().filter(is_idle).cloned().collect();
        judgement.cut = self.cut(trust, before);
        judgement.silent = self.silent(trust);
        judgement
    }

    /// Returns the nodes of the own location that the hop does not reach. Where it reaches no other leader either there is none by
    /// which they could be reached, and it may be this node that is cut off.
    fn cut(&self, trust: &dyn Fn(&Subject) -> Trust, before: &Judgement) -> BTreeSet<NodeName> {
        let lost = |subject: Subject, node: &NodeName| match trust(&subject) {
            Trust::Lost => true,
            Trust::OnProbation => before.cut.contains(node),
            Trust::Sound | Trust::Doubtful | Trust::Useless | Trust::Unproven | Trust::Unconnected => false,
        };
        let leaders = self.hops.iter();
        let leaders = leaders.filter(|node| lost(Subject::Hop((*node).clone()), node));
        let leaders: BTreeSet<NodeName> = leaders.cloned().collect();
        if self.me.is_none() || leaders.len() == self.hops.len() {
            return BTreeSet::new();
        }
        let members = self.members.iter();
        let members = members.filter(|node| lost(Subject::Member((*node).clone()), node));
        members.cloned().chain(leaders).collect()
    }

    fn silent(&self, trust: &dyn Fn(&Subject) -> Trust) -> BTreeSet<NodeName> {
        let is_lost = |subject: Subject| trust(&subject) == Trust::Lost;
        let leaders = self.hops.iter();
        let leaders = leaders.filter(|node| is_lost(Subject::Hop((*node).clone())));
        let leaders: BTreeSet<NodeName> = leaders.cloned().collect();
        if self.me.is_none() {
            let answers = |leader: &NodeName| {
                let through = |location: &LocationName| Subject::Through(leader.clone(), location.clone());
                self.towards
                    .iter()
                    .any(|location| trust(&through(location)) < Trust::Unproven)
            };
            let is_stranded = leaders.len() == self.hops.len() && !leaders.iter().any(answers);
            return if is_stranded { leaders } else { BTreeSet::new() };
        }
        let members = self.members.iter();
        let members = members.filter(|node| is_lost(Subject::Member((*node).clone())));
        members.cloned().chain(leaders).collect()
    }

    /// Returns the locations that no way reaches, each with what is known of the best: all that is asked of one, or on the way
    /// there, is taken for dead, or never answered though some of it did. Only a leader knows: it asks all leaders of a location, which
    /// others do not, and of a location whose nodes all lead nothing is asked.
    ///
    /// Where WireGuard has no groups nothing can answer through another leader, and yet the far side may come to take what
    /// goes by it.
    pub(super) fn unreached(&self, trust: &dyn Fn(&Subject) -> Trust) -> BTreeMap<LocationName, Gone> {
        let unreached = self.far.iter().filter_map(|(location, leaders)| {
            let far: Vec<Trust> = leaders
                .iter()
                .map(|leader| trust(&Subject::Far(location.clone(), leader.clone())))
                .collect();
            let beside = self.hops.iter().filter(|_| self.towards.contains(location));
            let beside: Vec<(Trust, Trust)> = beside
                .map(|leader| {
                    let through = Subject::Through(leader.clone(), location.clone());
                    (trust(&Subject::Hop(leader.clone())), trust(&through))
                })
                .collect();
            // What answered through a leader beside this one may have been leaders that are none any more.
            let answered =
                far.contains(&Trust::Lost) || beside.iter().any(|(_, through)| *through == Trust::Lost);
            let through = beside.into_iter().map(|(hop, through)| {
                if hop == Trust::Lost {
                    Trust::Lost
                } else if through == Trust::Unproven && !self.groups {
                    Trust::Sound
                } else {
                    through
                }
            });
            let best = far.iter().copied().chain(through).min()?;
            let gone = match best {
                Trust::Lost => Gone::Lost,
                Trust::Unproven | Trust::Unconnected if answered => Gone::Unheard,
                Trust::Sound
                | Trust::Doubtful
                | Trust::OnProbation
                | Trust::Useless
                | Trust::Unproven
                | Trust::Unconnected => return None,
            };
            Some((location.clone(), gone))
        });
        unreached.collect()
    }

    /// How good the own tunnels to a location are: as good as the best. One that answers is good enough: what its leader hands on
    /// another leader here could not better, and it shows again only where packets are sent by it. Where one is lost, and the others
    /// never answered, another leader that reaches the location is better.
    fn own(&self, location: &LocationName, trust: &dyn Fn(&Subject) -> Trust) -> Option<Graded> {
        let far = |leader: &NodeName| trust(&Subject::Far(location.clone(), leader.clone()));
        let tunnels: Vec<Trust> = self.far.get(location)?.iter().map(far).collect();
        let best = match *tunnels.iter().min()? {
            _ if self.lacks_tunnel => Trust::Lost,
            Trust::OnProbation | Trust::Useless => Trust::Sound,
            best @ (Trust::Sound | Trust::Doubtful | Trust::Unproven | Trust::Unconnected | Trust::Lost) => {
                best
            }
        };
        Some(Graded {
            has_lost: tunnels.iter().any(|tunnel| *tunnel >= Trust::Unconnected),
            ..other(Trust::Sound, best)
        })
    }
}

/// How bad a way is, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Grade {
    Good,
    OnProbation,
    Useless,
    Unproven,
    /// The hop has only just come back, and something answers through it.
    HopReturning,
    Blocked,
    HopOnProbation,
    Lost,
}

/// How bad a way seems.
#[derive(Clone, Copy, Debug)]
struct Graded {
    grade: Grade,
    /// It may be worse.
    is_doubtful: bool,
    /// A part of it is lost, whatever the rest is.
    has_lost: bool,
    /// Nothing can get there: it is no better than what is lost.
    is_shut: bool,
}

impl Graded {
    /// Whether it may be given up for something better. That it never answered is no reason.
    fn is_bad(self) -> bool {
        self.grade > Grade::Good && (self.grade != Grade::Unproven || self.has_lost)
    }
}

fn far(trust: Trust) -> Graded {
    let grade = match trust {
        Trust::Sound | Trust::Doubtful => Grade::Good,
        Trust::OnProbation => Grade::OnProbation,
        Trust::Useless => Grade::Useless,
        Trust::Unproven | Trust::Unconnected => Grade::Unproven,
        Trust::Lost => Grade::Lost,
    };
    Graded {
        grade,
        is_doubtful: trust == Trust::Doubtful,
        has_lost: trust == Trust::Unconnected,
        is_shut: trust == Trust::Unconnected,
    }
}

fn other(hop: Trust, through: Trust) -> Graded {
    let grade = match (hop, through) {
        (Trust::Lost, _) => Grade::Lost,
        (Trust::OnProbation, Trust::Sound | Trust::Doubtful | Trust::OnProbation) => Grade::HopReturning,
        (Trust::OnProbation | Trust::Useless, _) => Grade::HopOnProbation,
        (_, Trust::Lost) => Grade::Blocked,
        (_, Trust::OnProbation) => Grade::OnProbation,
        (_, Trust::Useless) => Grade::Useless,
        (_, Trust::Unproven | Trust::Unconnected) => Grade::Unproven,
        // That something comes back through it proves the hop, too.
        (
            Trust::Sound | Trust::Doubtful | Trust::Unproven | Trust::Unconnected,
            Trust::Sound | Trust::Doubtful,
        ) => Grade::Good,
    };
    let is_through = matches!(hop, Trust::Sound | Trust::Unproven);
    Graded {
        grade,
        is_doubtful: hop == Trust::Doubtful || (is_through && through == Trust::Doubtful),
        has_lost: false,
        is_shut: false,
    }
}

/// Returns the ways that are bad and worse than another. What was given up for another stays so while that is no worse.
fn worse<T: Clone + Ord>(ways: &[(T, Graded)], before: &BTreeSet<T>) -> Vec<T> {
    let is_worse = |(key, way): &&(T, Graded)| {
        let was_worse = before.contains(key);
        way.is_bad()
            && ways.iter().any(|(other_key, other)| {
                let is_worth_it = !(other.is_shut && way.grade == Grade::Lost);
                let is_better = other.grade < way.grade && is_worth_it && (was_worse || !other.is_doubtful);
                let was_better = was_worse && !before.contains(other_key);
                is_better || (was_better && other.grade <= way.grade)
            })
    };
    let worse = ways.iter().filter(is_worse);
    worse.map(|(key, _)| key.clone()).collect()
}

#[cfg(test)]
mod tests;

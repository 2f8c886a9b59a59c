//! How the roles of a location pass from node to node: in stages, so that packets find a tunnel at each.
//!
//! 1. A node that is elected stands by until its tunnels are up: until it reports the links that the leaders have whose
//!    part it takes over. Until then one of those, which is alive, keeps the part; a part that no node had is left to the
//!    leaders that act.
//! 2. A leader that is not elected any more stands by after all others, for agents learn of that one by one. It is
//!    dropped when nothing uses it any more ([`NodeFact::released`](crate::NodeFact::released)).
//!
//! A leader that is not alive, has no key or is no member any more waits for nothing and is waited for by nothing, and a
//! leader without any link has nothing to hand over. All of this follows from the facts and from who led before,
//! so an operator that restarts in the midst of it goes on.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Leader, LeaderRole, Leaving, LocationName, NodeName};

/// A leader, of before or elected, as it stands now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing<'a> {
    /// What it reports of its tunnels.
    pub(super) links: &'a BTreeMap<LocationName, bool>,
    /// It is alive and not doubtful, with a key, in the location, and has not been released.
    pub(super) serves: bool,
    /// It may lead.
    pub(super) allowed: bool,
    /// A person wants it to lead.
    pub(super) preferred: bool,
}

/// Who leads for now.
#[derive(Debug, Default)]
pub(super) struct Stage {
    /// The leaders as they are to be published.
    pub(super) leaders: Vec<Leader>,
    /// Those of them that lead no longer than they have to.
    pub(super) leaving: BTreeMap<NodeName, Leaving>,
}

/// Returns who leads on the way from the leaders of before to those that are elected.
pub(super) fn stage<'a>(
    before: &'a [Leader],
    elected: &'a [Leader],
    standing: impl Fn(&NodeName) -> Option<Standing<'a>>,
) -> Stage {
    let change = Change::new(before, elected, standing);
    let (active, held) = change.seats();
    // In the order of the election, which the next one begins with.
    let rest = elected.iter().map(|leader| &leader.node);
    let standby: Vec<&NodeName> = rest.filter(|node| !active.contains(node)).collect();
    let old = change.relieved(&active, &standby);
    let leaving = if held.is_empty() {
        change.replaced(&active, &old)
    } else {
        change.keepers(&held)
    };
    let as_role = |role| {
        move |node: &&NodeName| Leader {
            node: (*node).clone(),
            role,
        }
    };
    let standing_by = [standby, old].concat();
    let leaders = active.iter().map(as_role(LeaderRole::Active));
    Stage {
        leaders: leaders
            .chain(standing_by.iter().map(as_role(LeaderRole::Standby)))
            .collect(),
        leaving,
    }
}

/// The leaders of before, those that are elected, and how all of them stand.
struct Change<'a> {
    before: &'a [Leader],
    elected: &'a [Leader],
    known: BTreeMap<&'a NodeName, Standing<'a>>,
    /// Those of before that go on.
    serving: Vec<&'a Leader>,
}

impl<'a> Change<'a> {
    fn new(
        before: &'a [Leader],
        elected: &'a [Leader],
        standing: impl Fn(&NodeName) -> Option<Standing<'a>>,
    ) -> Self {
        let all = before.iter().chain(elected).map(|leader| &leader.node);
        let known: BTreeMap<&NodeName, Standing<'_>> =
            all.filter_map(|node| Some((node, standing(node)?))).collect();
        let serves = |leader: &&Leader| known.get(&leader.node).is_some_and(|node| node.serves);
        Self {
            before,
            elected,
            serving: before.iter().filter(serves).collect(),
            known,
        }
    }

    fn serves(&self, node: &NodeName) -> bool {
        self.known.get(node).is_some_and(|node| node.serves)
    }

    /// Returns the locations to which a node reports its tunnels as up.
    fn up(&self, node: &NodeName) -> BTreeSet<&'a LocationName> {
        let links = self.known.get(node).into_iter().flat_map(|node| node.links);
        links.filter(|(_, up)| **up).map(|(name, _)| name).collect()
    }

    fn none_acts(&self) -> bool {
        !self.serving.iter().any(|leader| is_active(leader))
    }

    /// Returns those that may take a part that another has, or go on with theirs: they have the links of the leaders that act.
    fn connected(&self) -> impl Fn(&NodeName) -> bool {
        let none_acts = self.none_acts();
        let reference = self.serving.iter();
        let reference = reference.filter(move |leader| none_acts || is_active(leader));
        let needed: BTreeSet<&LocationName> = reference.flat_map(|leader| self.up(&leader.node)).collect();
        move |node| {
            let mut serving = self.serving.iter();
            let acts = serving.any(|leader| is_active(leader) && leader.node == *node);
            acts || needed.is_subset(&self.up(node))
        }
    }

    /// Returns the active leaders in the order of their seats, and of the seats that are kept by another for now the keeper and the
    /// elected.
    fn seats(&self) -> (Vec<&'a NodeName>, Vec<(&'a NodeName, &'a NodeName)>) {
        let connected = self.connected();
        let was_known = |node: &NodeName| self.before.iter().any(|old| old.node == *node);
        // A doubtful leader that nothing better replaces has no one to wait for.
        let acted = |node: &NodeName| {
            let mut before = self.before.iter();
            before.any(|leader| is_active(leader) && leader.node == *node)
        };
        let seats = || self.elected.iter().filter(|leader| is_active(leader));
        let ready = seats().filter(|leader| acted(&leader.node) || connected(&leader.node));
        let ready: BTreeSet<&NodeName> = ready.map(|leader| &leader.node).collect();
        let newcomers = self
            .elected
            .iter()
            .filter(|leader| !is_active(leader) && self.serves(&leader.node) && !was_known(&leader.node));
        let spare = self.serving.iter().copied().chain(newcomers);
        let spare = spare.map(|leader| &leader.node);
        let mut spare = spare.filter(|node| !ready.contains(*node) && connected(node));
        let (mut active, mut held) = (Vec::new(), Vec::new());
        for seat in seats() {
            let keeper = if ready.contains(&seat.node) {
                None
            } else {
                spare.next()
            };
            held.extend(keeper.map(|keeper| (keeper, &seat.node)));
            // Where no leader acts there is none that packets would go on through meanwhile.
            let takes = ready.contains(&seat.node) || self.none_acts();
            active.extend(keeper.or_else(|| takes.then_some(&seat.node)));
        }
        if !held.is_empty() {
            // As before, or each decision would have those that keep a part change places with the others.
            let place = |node: &NodeName| self.before.iter().position(|leader| leader.node == *node);
            active.sort_by_key(|node| place(node).unwrap_or(usize::MAX));
        }
        (active, held)
    }

    /// Returns which of the leaders that give up their part stay connected for now. Packets are on their way to all that act.
    /// Of others, roles that move again and again leave no more behind than there are seats; that there were more before is no
    /// reason to take one away.
    fn relieved(&self, active: &[&NodeName], standby: &[&NodeName]) -> Vec<&'a NodeName> {
        let seats = self.elected.len();
        if seats == 0 {
            return Vec::new();
        }
        let places = self.serving.len().saturating_sub(active.len() + standby.len());
        let stays = |node: &NodeName| {
            active.contains(&node) || self.elected.iter().any(|leader| leader.node == *node)
        };
        let old = self.serving.iter().copied();
        let old = old.filter(|leader| !stays(&leader.node) && !self.up(&leader.node).is_empty());
        let (acting, others): (Vec<&Leader>, Vec<&Leader>) = old.partition(|leader| is_active(leader));
        let room = seats.max(places.saturating_sub(acting.len()));
        let all = acting.into_iter().chain(others.into_iter().take(room));
        all.map(|leader| &leader.node).collect()
    }

    /// Returns which of those that keep a part for another lead no longer than they have to.
    fn keepers(&self, held: &[(&NodeName, &NodeName)]) -> BTreeMap<NodeName, Leaving> {
        let leaves = |(keeper, waiting): &&(&NodeName, &NodeName)| {
            let [keeps, waits] = [keeper, waiting].map(|node| self.known.get(*node));
            let is_chosen = self.elected.iter().any(|leader| leader.node == **keeper);
            let allowed = keeps.is_some_and(|node| node.allowed && !node.preferred);
            let asked = waits.is_some_and(|node| node.preferred);
            // A node that is cordoned goes on until there is another way: it works, and not all nodes that are cordoned go.
            !is_chosen && !allowed || asked
        };
        let leaving = held.iter().filter(leaves);
        leaving
            .map(|(keeper, _)| ((*keeper).clone(), Leaving::InUse))
            .collect()
    }

    /// Returns the leaders that stay connected for now, each with whether the active ones have all of its links.
    fn replaced(&self, active: &[&NodeName], old: &[&NodeName]) -> BTreeMap<NodeName, Leaving> {
        let common = |location: &&LocationName| active.iter().all(|node| self.up(node).contains(*location));
        let state = |node: &NodeName| match self.up(node).iter().all(common) {
            true => Leaving::Replaced,
            false => Leaving::InUse,
        };
        old.iter().map(|node| ((*node).clone(), state(node))).collect()
    }
}

fn is_active(leader: &Leader) -> bool {
    leader.role == LeaderRole::Active
}

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
    before: &[Leader],
    elected: Vec<Leader>,
    standing: impl Fn(&NodeName) -> Option<Standing<'a>>,
) -> Stage {
    let all = before.iter().chain(&elected).map(|leader| &leader.node);
    let known: BTreeMap<&NodeName, Standing<'_>> =
        all.filter_map(|node| Some((node, standing(node)?))).collect();
    let up = |node: &NodeName| links(known.get(node));
    let serves = |leader: &&Leader| known.get(&leader.node).is_some_and(|node| node.serves);
    let serving: Vec<&Leader> = before.iter().filter(serves).collect();
    let is_active = |leader: &&Leader| leader.role == LeaderRole::Active;
    let acts = |node: &NodeName| {
        serving
            .iter()
            .copied()
            .filter(is_active)
            .any(|leader| leader.node == *node)
    };
    let none_acts = !serving.iter().any(is_active);
    let reference = serving.iter().filter(|leader| none_acts || is_active(leader));
    let needed: BTreeSet<&LocationName> = reference.flat_map(|leader| up(&leader.node)).collect();
    let connected = |node: &NodeName| acts(node) || needed.is_subset(&up(node));

    // A doubtful leader that nothing better replaces has no one to wait for.
    let acted = |node: &NodeName| before.iter().filter(is_active).any(|leader| leader.node == *node);
    let ready: BTreeSet<&NodeName> = elected
        .iter()
        .filter(|leader| is_active(leader) && (acted(&leader.node) || connected(&leader.node)))
        .map(|leader| &leader.node)
        .collect();
    let newcomers = elected
        .iter()
        .filter(|leader| !is_active(leader) && serves(leader));
    let newcomers = newcomers.filter(|leader| !before.iter().any(|old| old.node == leader.node));
    let spare = serving
        .iter()
        .copied()
        .chain(newcomers)
        .map(|leader| &leader.node);
    let mut spare = spare.filter(|node| !ready.contains(*node) && connected(node));
    let (mut active, mut held) = (Vec::new(), Vec::new());
    for seat in elected.iter().filter(is_active) {
        let keeper = if ready.contains(&seat.node) {
            None
        } else {
            spare.next()
        };
        held.extend(keeper.map(|keeper| (keeper, &seat.node)));
        // Where no leader acts there is none that packets would go on through meanwhile.
        let takes = ready.contains(&seat.node) || none_acts;
        active.extend(keeper.or_else(|| takes.then_some(&seat.node)));
    }
    if !held.is_empty() {
        // As before, or each decision would have those that keep a part change places with the others.
        let place = |node: &NodeName| before.iter().position(|leader| leader.node == *node);
        active.sort_by_key(|node| place(node).unwrap_or(usize::MAX));
    }
    let chosen: BTreeSet<&NodeName> = elected.iter().map(|leader| &leader.node).collect();
    // In the order of the election, which the next one begins with.
    let rest = elected
        .iter()
        .map(|leader| &leader.node)
        .filter(|node| !active.contains(node));
    let standby: Vec<&NodeName> = rest.collect();
    let stays = |node: &NodeName| chosen.contains(node) || active.contains(&node);
    let old = serving.iter().copied();
    let old = old.filter(|leader| !stays(&leader.node) && !up(&leader.node).is_empty());
    let staying = active.len() + standby.len();
    let old = relieved(
        old.collect(),
        elected.len(),
        serving.len().saturating_sub(staying),
    );

    let mut leaving = BTreeMap::new();
    for (keeper, waiting) in &held {
        let [keeps, waits] = [keeper, waiting].map(|node| known.get(*node));
        let allowed = keeps.is_some_and(|node| node.allowed && !node.preferred);
        let asked = waits.is_some_and(|node| node.preferred);
        // A node that is cordoned goes on until there is another way: it works, and not all nodes that are cordoned go.
        if !chosen.contains(*keeper) && !allowed || asked {
            leaving.insert((*keeper).clone(), Leaving::InUse);
        }
    }
    if held.is_empty() {
        let common = |location: &&LocationName| active.iter().all(|node| up(node).contains(*location));
        for node in &old {
            let replaced = up(node).iter().all(common);
            let state = if replaced {
                Leaving::Replaced
            } else {
                Leaving::InUse
            };
            leaving.insert((*node).clone(), state);
        }
    }
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

/// Returns which of the leaders that give up their part stay connected for now. Packets are on their way to all that act.
/// Of others, roles that move again and again leave no more behind than there are `seats`; that there were more before is no
/// reason to take one away, of which `places` are left.
fn relieved(old: Vec<&Leader>, seats: usize, places: usize) -> Vec<&NodeName> {
    if seats == 0 {
        return Vec::new();
    }
    let acts = |leader: &&Leader| leader.role == LeaderRole::Active;
    let (acting, others): (Vec<&Leader>, Vec<&Leader>) = old.into_iter().partition(acts);
    let room = seats.max(places.saturating_sub(acting.len()));
    let all = acting.into_iter().chain(others.into_iter().take(room));
    all.map(|leader| &leader.node).collect()
}

/// Returns the locations to which a node reports its tunnels as up.
fn links<'a>(standing: Option<&Standing<'a>>) -> BTreeSet<&'a LocationName> {
    let links = standing.into_iter().flat_map(|node| node.links);
    links.filter(|(_, up)| **up).map(|(name, _)| name).collect()
}

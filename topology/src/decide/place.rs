//! Which location a node belongs to, and whether it can lead there.

use std::{cmp::Ordering, collections::BTreeSet};

use super::kept::Kept;
use crate::{
    Candidate, Claim, Claimant, Field, Location, LocationFact, LocationName, Member, Mesh, NodeFact,
    NodeName, RejectReason, Rejected,
};

/// Every node in its location.
#[derive(Debug)]
pub(super) struct Places<'a> {
    /// Every location that has an object or a node, or is remembered, sorted.
    pub(super) locations: Vec<&'a LocationName>,
    /// Every node, sorted by name.
    pub(super) nodes: Vec<Placed<'a>>,
}

/// A node in its location.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed<'a> {
    pub(super) name: &'a NodeName,
    pub(super) fact: &'a NodeFact,
    pub(super) location: &'a LocationName,
    /// The location as an index.
    pub(super) site: usize,
    /// What the decision before says of the node.
    pub(super) before: Option<Before<'a>>,
}

/// What was decided of a node before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before<'a> {
    pub(super) member: &'a Member,
    /// It was in the same location.
    pub(super) stayed: bool,
}

impl<'a> Places<'a> {
    /// Returns the index of a location.
    pub(super) fn site(&self, name: &LocationName) -> Option<usize> {
        self.locations.binary_search(&name).ok()
    }
}

/// Returns every node in its location: its annotation, else the selector of the Location with the lowest name, else its
/// topology label, else the default.
pub(super) fn place<'a>(
    facts: &'a Kept<'_>,
    previous: &'a Mesh,
    fallback: &'a LocationName,
    rejected: &mut Vec<Rejected>,
) -> Places<'a> {
    let named = named(facts, fallback, rejected);
    let mut locations: BTreeSet<&LocationName> = facts.locations().map(|(name, _)| name).collect();
    let mut last = None;
    for name in &named {
        // Names of nodes often go by location, so the last answer is likely to serve again.
        if last != Some(*name) {
            locations.insert(name);
            last = Some(*name);
        }
    }
    let remembered = remembered(previous, &locations);
    locations.extend(remembered);
    let mut places = Places {
        locations: locations.into_iter().collect(),
        nodes: Vec::with_capacity(named.len()),
    };
    // Nodes come in the order of their names, and so do the members of each location: no search is needed.
    let decided = |name: &&LocationName| {
        let members = previous
            .locations
            .get(*name)
            .map(|location| location.members.iter());
        members.into_iter().flatten().peekable()
    };
    let mut decided: Vec<_> = places.locations.iter().map(decided).collect();
    for ((name, fact), location) in facts.nodes().zip(named) {
        let again = places
            .nodes
            .last()
            .filter(|last| last.location == location)
            .map(|last| last.site);
        let site = again
            .or_else(|| places.site(location))
            .expect("every named location is among them");
        let members = &mut decided[site];
        let here = loop {
            match members.peek().map(|(node, _)| (*node).cmp(name)) {
                Some(Ordering::Less) => members.next(),
                Some(Ordering::Equal) => break members.next(),
                Some(Ordering::Greater) | None => break None,
            };
        };
        let stayed = here.map(|(_, member)| Before { member, stayed: true });
        places.nodes.push(Placed {
            name,
            fact,
            location,
            site,
            before: stayed.or_else(|| moved(previous, name)),
        });
    }
    places
}

/// How many locations are remembered that have neither a node nor an object. Nodes that move to and fro leave one each time,
/// and who may move a node may do it often.
const REMEMBERED: usize = 256;

/// Returns the locations that have neither a node nor an object any more and are established with others. When a node comes
/// back into one, its traffic is in the tunnel or nowhere, as before it went. That one was established with itself, since each of its
/// nodes led itself, went with its object.
fn remembered<'a>(previous: &'a Mesh, present: &BTreeSet<&LocationName>) -> Vec<&'a LocationName> {
    let gone = |(name, location): &(&LocationName, &Location)| {
        !present.contains(*name) && location.established.iter().any(|other| other != *name)
    };
    let gone = previous.locations.iter().filter(gone);
    // Those that were remembered before stay so.
    let (empty, emptied): (Vec<_>, Vec<_>) = gone.partition(|(_, location)| location.members.is_empty());
    let all = empty.into_iter().chain(emptied).map(|(name, _)| name);
    all.take(REMEMBERED).collect()
}

/// Returns what was decided of a node in another location, where it was last.
fn moved<'a>(previous: &'a Mesh, name: &NodeName) -> Option<Before<'a>> {
    let found = |location: &'a Location| location.members.get(name);
    let members = previous.locations.values().filter_map(found);
    let latest = members.max_by_key(|member| member.generation);
    latest.map(|member| Before {
        member,
        stayed: false,
    })
}

/// Returns the location of every node, in the order of the nodes.
fn named<'a>(
    facts: &'a Kept<'_>,
    fallback: &'a LocationName,
    rejected: &mut Vec<Rejected>,
) -> Vec<&'a LocationName> {
    let selecting: Vec<_> = facts
        .locations()
        .filter_map(|(name, fact)| Some((name, fact.selector.as_ref()?)))
        .collect();
    let mut selected = |name: &NodeName, fact: &NodeFact| {
        let mut matching = selecting
            .iter()
            .filter(|(_, selector)| selector.matches(&fact.labels));
        let (winner, _) = matching.next()?;
        rejected.extend(matching.map(|(loser, _)| Rejected {
            by: Claimant::Node(name.clone()),
            claim: Claim::Selector((*loser).clone()),
            reason: RejectReason::SelectorClash((*winner).clone()),
        }));
        Some(*winner)
    };
    let place = |(name, fact): (&'a NodeName, &'a NodeFact)| {
        let location = fact.location.as_ref().or_else(|| selected(name, fact));
        location.or(fact.region.as_ref()).unwrap_or(fallback)
    };
    facts.nodes().map(place).collect()
}

/// Returns the node as a candidate for leader, whether it is alive or not: with a key, allowed to lead, and with a way to
/// connect. Who knows no address of its own can still begin, but has to keep the way open.
pub(super) fn candidate<'a>(
    node: &Placed<'a>,
    member: &Member,
    location: Option<&LocationFact>,
    incumbents: &BTreeSet<&NodeName>,
) -> Option<Candidate<'a>> {
    let fact = node.fact;
    let may_lead = may_lead(node, location, incumbents);
    let reachable = !fact.endpoints.is_empty() || !fact.external.is_empty();
    let connects = reachable
        || !member.addresses.is_empty()
        || !member.endpoints.is_empty()
        || fact.keepalive.is_some()
        || location.is_some_and(|location| location.endpoint.is_some() || location.keepalive.is_some());
    (member.public_key.is_some() && may_lead && connects).then_some(Candidate {
        node: node.name,
        preferred: fact.leader == Some(true),
        reachable,
        cordoned: fact.cordoned,
        doubtful: fact.doubtful,
    })
}

/// Returns whether the node is allowed to lead.
pub(super) fn may_lead(
    node: &Placed<'_>,
    location: Option<&LocationFact>,
    incumbents: &BTreeSet<&NodeName>,
) -> bool {
    node.fact.leader != Some(false) && selected(node, location, incumbents)
}

/// Returns whether the Location allows the node to lead. A selector that cannot be read, and that was not known before,
/// leaves the leaders where they are.
fn selected(node: &Placed<'_>, location: Option<&LocationFact>, incumbents: &BTreeSet<&NodeName>) -> bool {
    let Some(location) = location else {
        return true;
    };
    match &location.leader_selector {
        Some(selector) => selector.matches(&node.fact.labels),
        None if location.unread.contains(&Field::LeaderSelector) => {
            incumbents.is_empty() || incumbents.contains(node.name)
        }
        None => true,
    }
}

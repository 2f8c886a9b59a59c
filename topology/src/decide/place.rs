//! Which location a node belongs to, and whether it can lead there.

use crate::{
    Candidate, Claim, Claimant, Facts, LocationFact, LocationName, Member, Mesh, NodeFact, NodeName, Reason,
    Rejected,
};

/// A node in its location.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed<'a> {
    pub(super) name: &'a NodeName,
    pub(super) fact: &'a NodeFact,
    pub(super) location: &'a LocationName,
    /// What the decision before says of the node, and where it was then.
    pub(super) before: Option<(&'a LocationName, &'a Member)>,
}

/// Every node in its location: its annotation, else the selector of the Location with the lowest name, else its
/// topology label, else the default.
pub(super) fn place<'a>(
    facts: &'a Facts,
    previous: &'a Mesh,
    fallback: &'a LocationName,
    rejected: &mut Vec<Rejected>,
) -> Vec<Placed<'a>> {
    let selecting: Vec<_> = facts
        .locations
        .iter()
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
            reason: Reason::SelectorClash((*winner).clone()),
        }));
        Some(*winner)
    };
    let place = |(name, fact): (&'a NodeName, &'a NodeFact)| {
        let location = fact.location.as_ref().or_else(|| selected(name, fact));
        let location = location.or(fact.region.as_ref()).unwrap_or(fallback);
        Placed {
            name,
            fact,
            location,
            before: before(previous, location, name),
        }
    };
    facts.nodes.iter().map(place).collect()
}

/// What was decided of a node, in its location or else, where it was last.
fn before<'a>(
    previous: &'a Mesh,
    location: &LocationName,
    name: &NodeName,
) -> Option<(&'a LocationName, &'a Member)> {
    let here = previous.locations.get_key_value(location).into_iter();
    let found = |(location, decided): (&'a LocationName, &'a crate::Location)| {
        decided.members.get(name).map(|member| (location, member))
    };
    let mut stayed = here.filter_map(found);
    let moved = || {
        previous
            .locations
            .iter()
            .filter_map(found)
            .max_by_key(|(_, member)| member.generation)
    };
    stayed.next().or_else(moved)
}

/// The node as a candidate for leader: with a key, alive, allowed to lead, and with a way to connect. Who knows no
/// address of its own can still begin, but has to keep the way open.
pub(super) fn candidate<'a>(
    name: &'a NodeName,
    node: &NodeFact,
    member: &Member,
    location: Option<&LocationFact>,
) -> Option<Candidate<'a>> {
    let allowed = location.and_then(|location| location.leader_selector.as_ref());
    let may_lead =
        node.leader != Some(false) && allowed.is_none_or(|selector| selector.matches(&node.labels));
    let reachable = !node.endpoints.is_empty() || !node.external.is_empty();
    let connects = reachable
        || !member.addresses.is_empty()
        || node.keepalive.is_some()
        || location.is_some_and(|location| location.endpoint.is_some() || location.keepalive.is_some());
    (member.public_key.is_some() && node.alive && may_lead && connects).then_some(Candidate {
        node: name,
        preferred: node.leader == Some(true),
        reachable,
        cordoned: node.cordoned,
    })
}

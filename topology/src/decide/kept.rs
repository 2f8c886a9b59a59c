//! A value that cannot be read keeps what was there.

use std::{borrow::Cow, collections::BTreeSet};

use crate::{Facts, Field, LocationName, Member, Mesh, NodeFact, NodeName};

/// Returns the facts in which what could not be read is as it was published: the location of a node, and where and how it
/// is reached. Who has the facts as they were before need not rely on it ([`NodeFact::keep`]); this is for the decision
/// after a restart.
pub(super) fn kept<'a>(facts: &'a Facts, previous: &Mesh) -> Cow<'a, Facts> {
    let mut kept = Cow::Borrowed(facts);
    for (name, _) in facts.nodes.iter().filter(|(_, fact)| !fact.unread.is_empty()) {
        if let Some((location, member)) = published(previous, name)
            && let Some(fact) = kept.to_mut().nodes.get_mut(name)
        {
            keep(fact, location, member);
        }
    }
    let unread = |field| move |unread: &BTreeSet<Field>| unread.contains(&field);
    let lost = facts
        .locations
        .iter()
        .filter(|(_, fact)| fact.selector.is_none() && unread(Field::Selector)(&fact.unread));
    for (name, _) in lost {
        let members = previous.locations.get(name).map(|before| &before.members);
        for node in members.into_iter().flat_map(|members| members.keys()) {
            if let Some(fact) = kept.to_mut().nodes.get_mut(node)
                && fact.location.is_none()
            {
                fact.location = Some(name.clone());
            }
        }
    }
    kept
}

fn published<'a>(mesh: &'a Mesh, node: &NodeName) -> Option<(&'a LocationName, &'a Member)> {
    let locations = mesh.locations.iter();
    let found = locations.filter_map(|(name, location)| Some((name, location.members.get(node)?)));
    found.max_by_key(|(_, member)| member.generation)
}

fn keep(fact: &mut NodeFact, location: &LocationName, member: &Member) {
    let unread = fact.unread.clone();
    let lost = |field: Field| unread.contains(&field);
    if lost(Field::Location) && fact.location.is_none() {
        fact.location = Some(location.clone());
    }
    if lost(Field::Region) && fact.region.is_none() {
        fact.region = Some(location.clone());
    }
    if lost(Field::Endpoints) && fact.endpoints.is_empty() {
        fact.endpoints.clone_from(&member.endpoints);
    }
    if lost(Field::Addresses) {
        fact.addresses.extend(&member.addresses);
    }
    if lost(Field::Keepalive) && fact.keepalive.is_none() {
        fact.keepalive = member.keepalive;
    }
    if lost(Field::ListenPort) && fact.listen_port.is_none() {
        fact.listen_port = Some(member.listen_port);
    }
}

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use spanwire_topology::{Family, Plan, Prefix};

use crate::{
    ChainName, Conflict, Direction, HostFacts, LinkName, Pass, Passage, Sample,
    resolve::{NextHop, Resolved},
};

/// Returns the chains of others that need a rule to let packets of the mesh through, with what is to pass.
///
/// On a leader that is all that comes from the tunnel or goes into it. On a follower it is what the CNI's device brings to
/// pods from nodes of other locations, whose addresses are none of the pods'; what plain CNIs forward comes from pods alone.
pub(super) fn passages(
    plan: &Plan,
    resolved: &Resolved<'_>,
    facts: &HostFacts,
) -> BTreeMap<ChainName, Passage> {
    let samples = samples(plan, resolved, facts);
    let passes: BTreeSet<&Pass> = samples.iter().map(|sample| &sample.pass).collect();
    let passages = facts.filters.iter().filter_map(|filter| {
        let dropped = passes
            .iter()
            .filter(|pass| is_ours_to_open(&pass.link, facts) && filter.drops(pass, &samples));
        let passes: BTreeSet<Pass> = dropped.map(|pass| (*pass).clone()).collect();
        let is_misplaced = false;
        (!passes.is_empty()).then(|| (filter.name.clone(), Passage { passes, is_misplaced }))
    });
    passages.collect()
}

/// Returns the chains of others that drop packets of the mesh on a device that has others' packets too.
pub(super) fn filtered(plan: &Plan, resolved: &Resolved<'_>, facts: &HostFacts) -> Vec<Conflict> {
    let samples = samples(plan, resolved, facts);
    let passes: BTreeSet<&Pass> = samples.iter().map(|sample| &sample.pass).collect();
    let mut conflicts = BTreeSet::new();
    for filter in facts.filters.iter() {
        for pass in passes.iter().filter(|pass| !is_ours_to_open(&pass.link, facts)) {
            if filter.drops(pass, &samples) {
                conflicts.insert(Conflict::Filtered {
                    chain: filter.name.clone(),
                    link: pass.link.clone(),
                });
            }
        }
    }
    conflicts.into_iter().collect()
}

/// Whether nothing but the mesh and pods is on a device, so that all of it may pass.
fn is_ours_to_open(link: &LinkName, facts: &HostFacts) -> bool {
    *link == facts.owned.link || facts.links.get(link).is_some_and(|link| link.cni)
}

/// Returns packets that this machine is to forward: of each kind one.
fn samples(plan: &Plan, resolved: &Resolved<'_>, facts: &HostFacts) -> Vec<Sample> {
    let mut samples = Vec::new();
    if facts.filters.is_empty() {
        return samples;
    }
    for family in [Family::V4, Family::V6]
        .into_iter()
        .filter(|family| resolved.uses(*family))
    {
        let remote = resolved
            .remote
            .iter()
            .filter(|(_, route)| route.next_hop.is_some());
        let remote = remote.map(|(prefix, _)| prefix);
        let leads = plan.tunnel.is_some() && facts.public_key.is_some() && facts.tunnels(family);
        let (near, links) = if leads {
            let near = kinds(plan.local.iter().chain(&plan.own), family);
            (near, vec![facts.owned.link.clone()])
        } else {
            let pods = plan.own.iter().filter(|prefix| !prefix.is_host());
            let hop = resolved.hop(family).and_then(|route| route.next_hop.as_ref());
            let hop = hop.and_then(NextHop::link).cloned();
            (kinds(pods, family), hop.into_iter().collect())
        };
        let far = kinds(remote, family);
        for link in links {
            for (near, far) in near
                .iter()
                .flat_map(|near| far.iter().map(move |far| (*near, *far)))
            {
                for (direction, ends) in [(Direction::In, (far, near)), (Direction::Out, (near, far))] {
                    let link = link.clone();
                    samples.push(Sample {
                        pass: Pass { direction, link },
                        ends: Some(ends),
                    });
                }
            }
        }
    }
    samples
}

/// Returns a node's address and one in a network, where there are such.
fn kinds<'a>(prefixes: impl Iterator<Item = &'a Prefix> + Clone, family: Family) -> Vec<IpAddr> {
    let of = |host: bool| {
        let mut found = prefixes.clone();
        found.find(|prefix| prefix.family() == family && prefix.is_host() == host)
    };
    let found = [of(true), of(false)];
    found.into_iter().flatten().map(Prefix::address).collect()
}

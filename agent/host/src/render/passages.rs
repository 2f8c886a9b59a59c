use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use spanwire_topology::{Family, Holder, Plan, Prefix};

use crate::{
    ChainName, ClosedPort, Conflict, Direction, Dropper, Elsewhere, Filter, HostFacts, LinkName, Pass,
    Passage, Sample, State,
    conflict::Unopened,
    resolve::{NextHop, Resolved, own_address},
};

/// Returns the chains of others that need a rule to let packets of the mesh through, with what is to pass.
///
/// On a leader that is all that comes from the tunnel or goes into it. On every node that another one leads, or may lead, it
/// is what the CNI's device brings to pods from nodes of other locations, whose addresses are none of the pods'; what plain
/// CNIs forward comes from pods alone.
pub(super) fn passages(
    plan: &Plan,
    resolved: &Resolved<'_>,
    facts: &HostFacts,
) -> BTreeMap<ChainName, Passage> {
    let samples = samples(plan, resolved, facts);
    let passes: BTreeSet<&Pass> = samples.iter().map(|sample| &sample.pass).collect();
    let passages = facts.filters.iter().filter_map(|filter| {
        let dropped = passes.iter().filter(|pass| opens(filter, pass, &samples, facts));
        let passes: BTreeSet<Pass> = dropped.map(|pass| (*pass).clone()).collect();
        let is_misplaced = false;
        (!passes.is_empty()).then(|| (filter.name.clone(), Passage { passes, is_misplaced }))
    });
    passages.collect()
}

/// Whether packets that pass so need a rule in this chain, and can have it.
fn opens(filter: &Filter, pass: &Pass, samples: &[Sample], facts: &HostFacts) -> bool {
    let closed = filter.is_legacy || filter.is_locked || !is_ours_to_open(&pass.link, facts);
    !closed && filter.drops(pass, samples)
}

/// Returns the chains of others that are certain to drop packets of the mesh, and are not opened.
pub(super) fn filtered(plan: &Plan, resolved: &Resolved<'_>, facts: &HostFacts) -> Vec<Conflict> {
    let mut samples = samples(plan, resolved, facts);
    for sample in &mut samples {
        sample.marked = marked(sample, facts);
    }
    let passes: BTreeSet<&Pass> = samples.iter().map(|sample| &sample.pass).collect();
    let mut conflicts = BTreeSet::new();
    for filter in facts.filters.iter() {
        for pass in &passes {
            let ours = is_ours_to_open(&pass.link, facts);
            // What would be opened without asking more is not let alone without saying so.
            let locked = filter.is_locked && ours && filter.drops(pass, &samples);
            let dropped = filter.surely_drops(pass, &samples);
            if opens(filter, pass, &samples, facts) || !(locked || dropped.is_some()) {
                continue;
            }
            let why = match (filter.is_legacy, ours) {
                (true, _) => Unopened::Legacy,
                (false, false) => Unopened::Shared,
                (false, true) if locked => Unopened::Locked,
                (false, true) => Unopened::Some,
            };
            conflicts.insert(conflict(filter, pass, why, dropped.flatten()));
        }
    }
    conflicts.extend(filtered_elsewhere(plan, resolved, facts, &samples));
    conflicts.into_iter().collect()
}

fn conflict(filter: &Filter, pass: &Pass, why: Unopened, by: Option<Dropper>) -> Conflict {
    Conflict::Filtered {
        chain: filter.name.clone(),
        is_legacy: filter.is_legacy,
        link: pass.link.clone(),
        why,
        by,
    }
}

/// Returns the bits that may be set in the mark of a packet that is forwarded. Of one that is tracked that is not known:
/// chains that translate addresses, kube-proxy's above all, set marks, and have too many rules to be looked at.
fn marked(sample: &Sample, facts: &HostFacts) -> u32 {
    if sample.state != Some(State::Untracked) {
        return u32::MAX;
    }
    let before = facts.elsewhere.get(&Elsewhere::Prerouting);
    let all = before
        .into_iter()
        .chain([&facts.filters])
        .flat_map(|filters| filters.iter());
    let by_others = all
        .map(|filter| filter.marks(sample).sets)
        .fold(0, |all, marks| all | marks);
    by_others | facts.owned.mark | facts.owned.masquerade_mark
}

/// Returns the chains at other hooks that are certain to drop packets of the mesh. What connection tracking knows of a packet
/// there depends on their priority.
fn filtered_elsewhere(
    plan: &Plan,
    resolved: &Resolved<'_>,
    facts: &HostFacts,
    forwarded: &[Sample],
) -> BTreeSet<Conflict> {
    let mut conflicts = BTreeSet::new();
    for (at, filters) in &facts.elsewhere {
        let of_way = |sample: &&Sample| match at {
            Elsewhere::Prerouting => sample.pass.direction == Direction::In,
            Elsewhere::Postrouting => sample.pass.direction == Direction::Out,
            Elsewhere::Output => false,
        };
        let forwarded = forwarded.iter().filter(of_way).cloned();
        let sent = sent(plan, resolved, facts).into_iter();
        let all = forwarded.chain(sent.filter(|_| *at != Elsewhere::Prerouting));
        let samples: Vec<Sample> = all
            .map(|sample| Sample {
                state: None,
                ..sample
            })
            .collect();
        let passes: BTreeSet<&Pass> = samples.iter().map(|sample| &sample.pass).collect();
        for (filter, pass) in filters
            .iter()
            .flat_map(|filter| passes.iter().map(move |pass| (filter, *pass)))
        {
            let dropped = filter.surely_drops(pass, &samples);
            let why = Unopened::Elsewhere(*at);
            conflicts.extend(dropped.map(|by| conflict(filter, pass, why, by)));
        }
    }
    conflicts
}

/// Returns packets that this machine is to send to other locations.
fn sent(plan: &Plan, resolved: &Resolved<'_>, facts: &HostFacts) -> Vec<Sample> {
    let near = [Family::V4, Family::V6].map(|family| (family, own_address(plan, facts, family)));
    let near = BTreeMap::from(near);
    let others = resolved
        .remote
        .iter()
        .filter(|(_, route)| route.holder != Holder::Overlay);
    let carried = others.filter_map(|(prefix, route)| {
        let link = match route.next_hop.as_ref()? {
            NextHop::Tunnel => &facts.owned.link,
            other @ (NextHop::Overlay(..) | NextHop::Lan(..)) => other.link()?,
        };
        let near = (*near.get(&prefix.family())?)?;
        Some((
            (link, prefix.family(), prefix.is_host()),
            (near, prefix.address()),
        ))
    });
    let kinds: BTreeMap<_, _> = carried.collect();
    let sample = |((link, _, _), ends): ((&LinkName, Family, bool), _)| Sample {
        ends: Some(ends),
        ..Sample::new(Pass {
            direction: Direction::Out,
            link: link.clone(),
        })
    };
    kinds.into_iter().map(sample).collect()
}

/// Returns what is certain to drop the first datagram of any other leader, in every family in which there are endpoints
/// and on every device by which they are reached; nothing where something may let it in.
pub(super) fn closed_port(plan: &Plan, facts: &HostFacts) -> Option<ClosedPort> {
    let port = plan.tunnel.as_ref()?.listen_port;
    let families: &[Family] = if facts.underlay_v4_only {
        &[Family::V4]
    } else {
        &[Family::V4, Family::V6]
    };
    let drops = |family: Family, link: &LinkName| {
        let pass = Pass {
            direction: Direction::In,
            link: link.clone(),
        };
        let sample = Sample {
            state: Some(State::New),
            datagram_to: Some(port),
            ..Sample::new(pass)
        };
        let mut inputs = facts
            .inputs
            .iter()
            .filter(|filter| filter.name.family.has(family));
        inputs.find_map(|filter| Some((filter, filter.certain_drop(&sample)?)))
    };
    let mut ways = families
        .iter()
        .flat_map(|family| facts.uplinks.iter().map(|link| drops(*family, link)));
    let (filter, rule) = ways.next()??;
    ways.all(|dropped| dropped.is_some()).then(|| ClosedPort {
        port,
        chain: filter.name.clone(),
        is_legacy: filter.is_legacy,
        rule: rule.filter(|_| !filter.is_legacy),
    })
}

/// Whether nothing but the mesh and pods is on a device, so that all of it may pass.
fn is_ours_to_open(link: &LinkName, facts: &HostFacts) -> bool {
    *link == facts.owned.link || facts.links.get(link).is_some_and(|link| link.cni)
}

/// Returns packets that this machine is to forward: of each kind one.
fn samples(plan: &Plan, resolved: &Resolved<'_>, facts: &HostFacts) -> Vec<Sample> {
    let mut samples = Vec::new();
    if facts.filters.is_empty() && facts.elsewhere.values().all(|filters| filters.is_empty()) {
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
        let pods = plan.own.iter().filter(|prefix| !prefix.is_host());
        let pods = kinds(pods, family).into_iter().map(|near| (near, State::New));
        let mut ways = Vec::new();
        // Pods are asked from other locations by way of the leader that is active, also those of one that stands by; and by
        // way of any other one that the other side can use.
        let hop = resolved.hop(family).and_then(|route| route.next_hop.as_ref());
        let hop = hop.and_then(NextHop::link);
        let others = leads && !plan.leaders.is_empty() && facts.cni.links().next().is_some();
        let others = resolved.hops.iter().filter(|_| others);
        for link in hop.into_iter().chain(others).collect::<BTreeSet<_>>() {
            ways.push((link.clone(), pods.clone().collect::<Vec<_>>()));
        }
        if leads {
            // What does not end on this node is not tracked.
            let others = plan.local.iter().filter(|prefix| !plan.own.contains(prefix));
            let others = kinds(others, family).into_iter();
            let transit = others.map(|near| (near, State::Untracked));
            ways.push((facts.owned.link.clone(), pods.chain(transit).collect()));
        }
        let far = kinds(remote, family);
        for (link, near) in ways {
            let pairs = near
                .iter()
                .flat_map(|near| far.iter().map(move |far| (*near, *far)));
            for ((near, state), far) in pairs {
                for (direction, ends) in [(Direction::In, (far, near)), (Direction::Out, (near, far))] {
                    let link = link.clone();
                    samples.push(Sample {
                        ends: Some(ends),
                        state: Some(state),
                        ..Sample::new(Pass { direction, link })
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

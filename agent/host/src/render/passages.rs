use std::collections::{BTreeMap, BTreeSet};

use spanwire_topology::{Family, Plan};

use super::samples::{bridged, samples, sent};
use crate::{
    ChainName, ClosedPort, Conflict, Direction, Elsewhere, Filter, HostFacts, LinkName, Pass, Passage,
    Sample, State, conflict::Unopened, firewall::Dropped, marking, resolve::Resolved,
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
            conflicts.insert(conflict(filter, pass, why, dropped.unwrap_or_default()));
        }
    }
    conflicts.extend(filtered_elsewhere(plan, resolved, facts, &samples));
    let carries = resolved.remote.iter().any(|(_, route)| route.next_hop.is_some());
    let unread = facts.unread.iter().filter(|_| carries).cloned();
    conflicts.extend(unread.map(Conflict::Unread));
    conflicts.extend(silenced(plan, facts));
    conflicts.into_iter().collect()
}

fn conflict(filter: &Filter, pass: &Pass, why: Unopened, Dropped { by, ends }: Dropped) -> Conflict {
    Conflict::Filtered {
        chain: filter.name.clone(),
        is_legacy: filter.is_legacy,
        link: pass.link.clone(),
        why,
        by,
        ends,
    }
}

/// Returns the bits that may be set in the mark of a packet that is forwarded. Of one that is tracked that is not known:
/// chains that translate addresses, kube-proxy's above all, set marks, and have too many rules to be looked at.
fn marked(sample: &Sample, facts: &HostFacts) -> u32 {
    if sample.state != Some(State::Untracked) {
        return u32::MAX;
    }
    let before = [Elsewhere::Ingress, Elsewhere::Prerouting];
    let all = before
        .iter()
        .filter_map(|at| facts.elsewhere.get(at))
        .chain([&facts.filters])
        .flat_map(|filters| filters.iter());
    let by_others = all
        .map(|filter| filter.marks(sample).sets)
        .fold(0, |all, marks| all | marks);
    by_others | facts.owned.mark | facts.owned.masquerade_mark
}

/// Returns the chains at other hooks that are certain to drop packets of the mesh.
fn filtered_elsewhere(
    plan: &Plan,
    resolved: &Resolved<'_>,
    facts: &HostFacts,
    forwarded: &[Sample],
) -> BTreeSet<Conflict> {
    let mut conflicts = BTreeSet::new();
    for (at, filters) in facts.elsewhere.iter().filter(|(_, filters)| !filters.is_empty()) {
        let samples = match at {
            Elsewhere::Ingress | Elsewhere::Prerouting => of_direction(Direction::In, forwarded),
            Elsewhere::Output => sent(plan, resolved, facts),
            Elsewhere::Postrouting | Elsewhere::Egress => {
                let sent = sent(plan, resolved, facts);
                [of_direction(Direction::Out, forwarded), sent].concat()
            }
            Elsewhere::FromPods => bridged(Direction::Out, plan, facts, forwarded),
            Elsewhere::ToPods => bridged(Direction::In, plan, facts, forwarded),
        };
        for filter in filters.iter() {
            let known = |sample: &Sample| Sample {
                state: sample.state.filter(|_| is_tracked(*at, filter)),
                ..sample.clone()
            };
            let samples: Vec<Sample> = samples.iter().map(known).collect();
            let passes: BTreeSet<&Pass> = samples.iter().map(|sample| &sample.pass).collect();
            for pass in passes {
                let dropped = filter.surely_drops(pass, &samples);
                let why = Unopened::Elsewhere(*at);
                conflicts.extend(dropped.map(|dropped| conflict(filter, pass, why, dropped)));
            }
        }
    }
    conflicts
}

fn of_direction(direction: Direction, samples: &[Sample]) -> Vec<Sample> {
    let samples = samples.iter();
    samples
        .filter(|sample| sample.pass.direction == direction)
        .cloned()
        .collect()
}

/// Whether connection tracking has seen a packet of others when a chain does (`nf_ip_hook_priorities`,
/// linux/netfilter_ipv4.h). What this machine sends is not tracked at all where the program asks for that.
fn is_tracked(at: Elsewhere, filter: &Filter) -> bool {
    const CONNTRACK: i32 = -200;
    match at {
        Elsewhere::Prerouting => filter.priority > CONNTRACK,
        Elsewhere::Postrouting => true,
        Elsewhere::Ingress
        | Elsewhere::Output
        | Elsewhere::Egress
        | Elsewhere::FromPods
        | Elsewhere::ToPods => false,
    }
}

/// Returns what is certain to drop the first datagram of any other leader, in every family in which there are endpoints
/// and on every device by which they are reached; nothing where something may let it in.
pub(super) fn closed_port(plan: &Plan, facts: &HostFacts) -> Option<ClosedPort> {
    let port = plan.tunnel.as_ref()?.listen_port;
    let drops = |family: Family, link: &LinkName| {
        let pass = Pass {
            direction: Direction::In,
            link: link.clone(),
        };
        let sample = |state| Sample {
            state,
            datagram_to: Some(port),
            ..Sample::new(pass.clone())
        };
        let inputs = facts.inputs.iter().map(|filter| (filter, Some(State::New)));
        let before = [Elsewhere::Ingress, Elsewhere::Prerouting].map(|at| (at, facts.elsewhere.get(&at)));
        let before = before.into_iter().flat_map(|(at, filters)| {
            let filters = filters.into_iter().flat_map(|filters| filters.iter());
            filters.map(move |filter| (filter, is_tracked(at, filter).then_some(State::New)))
        });
        let mut all = before
            .chain(inputs)
            .filter(|(filter, _)| filter.name.family.has(family) && filter.is_for(link));
        all.find_map(|(filter, state)| Some((filter, filter.certain_drop(&sample(state))?)))
    };
    let (filter, rule) = by_all_ways(facts, drops)?;
    Some(ClosedPort {
        port,
        chain: filter.name.clone(),
        is_legacy: filter.is_legacy,
        rule: rule.filter(|_| !filter.is_legacy),
    })
}

/// Returns what is certain to drop the tunnel's own datagrams, by every device by which endpoints are reached.
fn silenced(plan: &Plan, facts: &HostFacts) -> Option<Conflict> {
    let port = plan
        .tunnel
        .as_ref()
        .filter(|_| facts.public_key.is_some())?
        .listen_port;
    let mark = facts.owned.mark;
    let drops = |family: Family, link: &LinkName| {
        let pass = Pass {
            direction: Direction::Out,
            link: link.clone(),
        };
        // Whether they still have the mark depends on other programs.
        let sample = Sample {
            datagram_from: Some(port),
            marked: if marking::is_unsure_at_last(plan, facts) {
                u32::MAX
            } else {
                mark
            },
            ..Sample::new(pass.clone())
        };
        let hooks = [Elsewhere::Output, Elsewhere::Postrouting, Elsewhere::Egress];
        let filters = hooks.iter().filter_map(|at| facts.elsewhere.get(at));
        let filters = filters.flat_map(|filters| filters.iter());
        let mut of_family = filters.filter(|filter| filter.name.family.has(family));
        let samples = [sample];
        of_family.find_map(|filter| Some((filter, filter.surely_drops(&pass, &samples)?)))
    };
    let (filter, Dropped { by, .. }) = by_all_ways(facts, drops)?;
    Some(Conflict::Silenced {
        port,
        mark,
        chain: filter.name.clone(),
        is_legacy: filter.is_legacy,
        by,
    })
}

/// Returns the first of what something finds in every family in which there are endpoints, for every device by which they
/// are reached; nothing where it finds nothing for one.
fn by_all_ways<'a, T>(facts: &'a HostFacts, find: impl Fn(Family, &'a LinkName) -> Option<T>) -> Option<T> {
    let families: &[Family] = if facts.underlay_v4_only {
        &[Family::V4]
    } else {
        &[Family::V4, Family::V6]
    };
    let find = &find;
    let mut ways = families
        .iter()
        .flat_map(|family| facts.uplinks.iter().map(move |link| find(*family, link)));
    let first = ways.next()??;
    ways.all(|found| found.is_some()).then_some(first)
}

/// Whether nothing but the mesh and pods is on a device, so that all of it may pass.
fn is_ours_to_open(link: &LinkName, facts: &HostFacts) -> bool {
    *link == facts.owned.link
        || *link == facts.owned.hop_link
        || facts.links.get(link).is_some_and(|link| link.cni)
}

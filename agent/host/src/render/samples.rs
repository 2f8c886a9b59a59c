//! Packets of the mesh by which the firewalls of others are judged.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use spanwire_topology::{Family, Holder, Plan, Prefix};

use super::routing::own_sources_only;
use crate::{
    Direction, HostFacts, LinkName, Match, Pass, Sample, State,
    resolve::{NextHop, Resolved, ResolvedRoute, own_address},
};

/// IP protocol number of TCP (RFC 9293).
const TCP: u8 = 6;
/// So many networks and nodes that firewalls name are looked at.
const MOST: usize = 16;

/// Returns packets that this machine is to send to other locations.
pub(super) fn sent(plan: &Plan, resolved: &Resolved<'_>, facts: &HostFacts) -> Vec<Sample> {
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
        protocol: Some(TCP),
        ..Sample::new(Pass {
            direction: Direction::Out,
            link: link.clone(),
        })
    };
    kinds.into_iter().map(sample).collect()
}

/// Returns packets that this machine is to forward: of each kind one, and one for each network or node of the mesh that a
/// firewall names.
pub(super) fn samples(plan: &Plan, resolved: &Resolved<'_>, facts: &HostFacts) -> Vec<Sample> {
    let mut samples = Vec::new();
    if facts.filters.is_empty() && facts.elsewhere.values().all(|filters| filters.is_empty()) {
        return samples;
    }
    let named = named(facts);
    for family in [Family::V4, Family::V6]
        .into_iter()
        .filter(|family| resolved.uses(*family))
    {
        let remote = resolved
            .remote
            .iter()
            .filter(|(_, route)| route.next_hop.is_some());
        // Where the addresses of pods are published one by one a rule for some is a policy about these.
        let is_pod = |(prefix, route): &&(Prefix, ResolvedRoute<'_>)| {
            prefix.is_host() && route.holder == Holder::Others
        };
        let places = remote.clone().filter(|remote| !is_pod(remote));
        let [remote, places] = [
            remote.map(|(prefix, _)| prefix).collect::<Vec<_>>(),
            places.map(|(prefix, _)| prefix).collect(),
        ];
        let leads = plan.tunnel.is_some() && facts.public_key.is_some() && facts.tunnels(family);
        let pods = plan.own.iter().filter(|prefix| !prefix.is_host());
        let pods = kinds((pods.clone(), pods), family, &named)
            .into_iter()
            .map(|near| (near, State::New));
        let mut ways = Vec::new();
        // Pods are asked from other locations by way of the leader that is active, also those of one that stands by; and by
        // way of any other one that the other side can use.
        let hop = resolved.hop(family).and_then(|route| route.next_hop.as_ref());
        let hop = hop.and_then(NextHop::link);
        let by_device = resolved.underlay.is_some() || facts.cni.links().next().is_some();
        let others = leads && !plan.leaders.is_empty() && by_device;
        let others = resolved.hops.iter().filter(|_| others);
        for link in hop.into_iter().chain(others).collect::<BTreeSet<_>>() {
            ways.push((link.clone(), pods.clone().collect::<Vec<_>>()));
        }
        if leads {
            // What does not end on this node is not tracked.
            let others = plan.local.iter().filter(|prefix| !plan.own.contains(prefix));
            let others = kinds((others.clone(), others), family, &named).into_iter();
            let transit = others.map(|near| (near, State::Untracked));
            ways.push((facts.owned.link.clone(), pods.chain(transit).collect()));
        }
        let far = kinds((remote.into_iter(), places.into_iter()), family, &named);
        for (link, near) in ways {
            let pairs = near
                .iter()
                .flat_map(|near| far.iter().map(move |far| (*near, *far)));
            for ((near, state), far) in pairs {
                let ends = (far.address(), near.address());
                let arriving = Sample {
                    ends: Some(ends),
                    state: Some(state),
                    protocol: Some(TCP),
                    way_back: way_back(plan, resolved, facts, &far).cloned(),
                    ..Sample::new(Pass {
                        direction: Direction::In,
                        link: link.clone(),
                    })
                };
                let leaving = Sample {
                    pass: Pass {
                        direction: Direction::Out,
                        link: link.clone(),
                    },
                    ends: Some((ends.1, ends.0)),
                    way_back: None,
                    ..arriving.clone()
                };
                samples.extend([arriving, leaving]);
            }
        }
    }
    samples
}

/// Returns packets that are forwarded between pods here and other locations as the bridge of the pods has them, which are
/// `In` or `Out` where they are not in the bridge. By which of its ports they come and go is not known.
pub(super) fn bridged(
    direction: Direction,
    plan: &Plan,
    facts: &HostFacts,
    forwarded: &[Sample],
) -> Vec<Sample> {
    let bridge = |address: IpAddr| {
        let is_own = plan
            .own
            .iter()
            .any(|prefix| !prefix.is_host() && prefix.contains(address));
        let mut links = facts.links.iter().filter(|(_, link)| link.cni && is_own);
        let is_in = |network: Prefix| !network.is_host() && network.contains(address);
        links
            .find(|(_, link)| link.networks().any(is_in))
            .map(|(name, _)| name)
    };
    let samples = forwarded.iter().filter_map(|sample| {
        let (source, destination) = sample.ends.filter(|_| sample.pass.direction == direction)?;
        let (near, direction) = match direction {
            Direction::In => (destination, Direction::Out),
            Direction::Out => (source, Direction::In),
        };
        let pass = Pass {
            direction,
            link: bridge(near)?.clone(),
        };
        Some(Sample {
            pass,
            way_back: None,
            ..sample.clone()
        })
    });
    samples.collect()
}

/// Returns the device by which this machine has a route to a remote prefix.
fn way_back<'a>(
    plan: &Plan,
    resolved: &'a Resolved<'_>,
    facts: &'a HostFacts,
    prefix: &Prefix,
) -> Option<&'a LinkName> {
    let place = resolved
        .remote
        .binary_search_by_key(prefix, |(prefix, _)| *prefix);
    let (_, route) = resolved.remote.get(place.ok()?)?;
    let route = if own_sources_only(plan, route) {
        resolved.hop(prefix.family())?
    } else {
        route
    };
    match route.next_hop.as_ref()? {
        NextHop::Tunnel => (!facts.lacks_tunnel).then_some(&facts.owned.link),
        other @ (NextHop::Overlay(..) | NextHop::Lan(..)) => other.link(),
    }
}

/// Returns a node's address and a network, where there are such, and the first of others that each of some ranges is about.
fn kinds<'a>(
    (prefixes, others): (
        impl Iterator<Item = &'a Prefix> + Clone,
        impl Iterator<Item = &'a Prefix>,
    ),
    family: Family,
    named: &BTreeSet<(IpAddr, IpAddr)>,
) -> Vec<Prefix> {
    let of_family = prefixes.filter(|prefix| prefix.family() == family);
    let of = |host: bool| of_family.clone().find(|prefix| prefix.is_host() == host);
    let mut found: Vec<Prefix> = [of(true), of(false)].into_iter().flatten().copied().collect();
    if named.is_empty() {
        return found;
    }
    let all: Vec<Prefix> = others
        .filter(|prefix| prefix.family() == family)
        .copied()
        .collect();
    let mut more = BTreeSet::new();
    for range in named.iter().filter(|(first, _)| Family::of(*first) == family) {
        more.extend(first_in(&all, *range));
        if more.len() == MOST {
            break;
        }
    }
    more.retain(|prefix| !found.contains(prefix));
    found.extend(more);
    found
}

/// Returns the first of some prefixes in order that lies in a range as a whole.
fn first_in(prefixes: &[Prefix], (first, last): (IpAddr, IpAddr)) -> Option<Prefix> {
    let begin = prefixes.partition_point(|prefix| prefix.address() < first);
    let mut from = prefixes.iter().skip(begin);
    // Those that begin at one address are of different lengths.
    from.by_ref()
        .take_while(|prefix| prefix.address() <= last)
        .take(usize::from(u8::MAX))
        .find(|prefix| last_of(prefix) <= last)
        .copied()
}

fn last_of(prefix: &Prefix) -> IpAddr {
    match prefix.address() {
        IpAddr::V4(first) => {
            let hosts = u32::MAX.checked_shr(prefix.length().into()).unwrap_or(0);
            Ipv4Addr::from_bits(first.to_bits() | hosts).into()
        }
        IpAddr::V6(first) => {
            let hosts = u128::MAX.checked_shr(prefix.length().into()).unwrap_or(0);
            Ipv6Addr::from_bits(first.to_bits() | hosts).into()
        }
    }
}

/// Returns the ranges of addresses that rules of others ask for.
fn named(facts: &HostFacts) -> BTreeSet<(IpAddr, IpAddr)> {
    let all = facts.elsewhere.values().chain([&facts.filters]);
    let filters = all.flat_map(|filters| filters.iter());
    let rules = filters.flat_map(|filter| filter.chains.values().chain([&filter.rules]).flatten());
    let mut ranges = BTreeSet::new();
    for rule in rules {
        let mut left: Vec<&Match> = rule.matches.iter().collect();
        while let Some(found) = left.pop() {
            match found {
                Match::Address { ranges: of_rule, .. } => ranges.extend(of_rule),
                Match::Any { of, .. } => left.extend(of.iter().flatten()),
                Match::Device { .. }
                | Match::State { .. }
                | Match::Translated { .. }
                | Match::Protocol { .. }
                | Match::Port { .. }
                | Match::Mark { .. }
                | Match::Family { .. }
                | Match::WayBack { .. }
                | Match::ForHere { .. }
                | Match::FromHere { .. }
                | Match::Answer { .. }
                | Match::NextHop { .. }
                | Match::LinkSource { .. }
                | Match::Unknown => {}
            }
        }
    }
    ranges
}

//! Who leads a location.
//!
//! The order of preference: annotated leaders, then nodes that have an address for the outside, then incumbents in
//! their order, then a stable hash of the name. So a newcomer of equal rank displaces no incumbent. Cordoned nodes are
//! to be rebooted soon: among a few leaders they are taken only where there is no other node. Where every node leads
//! itself they go on doing so, after the others. Doubtful nodes come after all others; of several, an incumbent stays.

use std::collections::BTreeMap;

use crate::{Leader, LeaderRole, MeshMode, NodeName, rendezvous};

/// A node that can lead: it has a key, lives, may lead, and there is a way to connect with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// The node.
    pub node: &'a NodeName,
    /// Its annotation prefers it.
    pub preferred: bool,
    /// The outside can reach it: it has an endpoint of its own or an external address.
    pub reachable: bool,
    /// It is marked unschedulable, or is being drained.
    pub cordoned: bool,
    /// It is not known to work as a leader ([`NodeFact::doubtful`](crate::NodeFact::doubtful)).
    pub doubtful: bool,
}

/// How many leaders a location wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seats {
    /// Who leads whom; with [`MeshMode::Nodes`] every candidate becomes an active leader.
    pub mode: MeshMode,
    /// How many carry traffic; 0 counts as 1.
    pub active: u16,
    /// How many more stand by.
    pub standby: u16,
}

/// Returns the leaders of a location in order of preference, given those of the decision before.
#[must_use]
pub fn elect(candidates: &[Candidate<'_>], incumbents: &[Leader], seats: Seats) -> Vec<Leader> {
    let (active, standby) = match seats.mode {
        MeshMode::Leaders => (usize::from(seats.active.max(1)), usize::from(seats.standby)),
        MeshMode::Nodes => (candidates.len(), 0),
    };
    // With `MeshMode::Nodes` there are as many incumbents as candidates.
    let places = incumbents
        .iter()
        .enumerate()
        .map(|(place, leader)| (&leader.node, place));
    let places: BTreeMap<&NodeName, usize> = places.collect();
    let rank = |candidate: &Candidate<'_>| {
        let place = places.get(candidate.node).copied().unwrap_or(usize::MAX);
        (
            candidate.doubtful.then_some(place),
            candidate.cordoned,
            !candidate.preferred,
            !candidate.reachable,
            place,
        )
    };
    let spare_cordoned =
        seats.mode == MeshMode::Leaders && candidates.iter().any(|c| !c.cordoned && !c.doubtful);
    let willing = candidates
        .iter()
        .filter(|candidate| !(spare_cordoned && candidate.cordoned));
    let mut ranked: Vec<_> = willing
        .map(|candidate| (rank(candidate), candidate.node))
        .collect();
    // Only those that may get a seat are ordered by name.
    ranked.sort_unstable_by_key(|(rank, _)| *rank);
    if let Some((last, _)) = ranked.get((active + standby).saturating_sub(1)).copied() {
        ranked.truncate(ranked.partition_point(|(rank, _)| *rank <= last));
    }
    ranked.sort_by_cached_key(|(rank, node)| (*rank, rendezvous::stable(node.as_str()), *node));
    let role = |place: usize| {
        if place < active {
            LeaderRole::Active
        } else {
            LeaderRole::Standby
        }
    };
    let chosen = ranked.into_iter().take(active + standby).enumerate();
    chosen
        .map(|(place, (_, node))| Leader {
            node: node.clone(),
            role: role(place),
        })
        .collect()
}

#[cfg(test)]
#[expect(clippy::disallowed_types, reason = "a test may look at the clock")]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn where_thousands_of_nodes_lead_themselves_each_is_looked_at_once() {
        let names: Vec<NodeName> = (0..60_000)
            .map(|number| format!("n{number:05}").parse().unwrap())
            .collect();
        let candidate = |node| Candidate {
            node,
            preferred: false,
            reachable: false,
            cordoned: false,
            doubtful: false,
        };
        let candidates: Vec<Candidate<'_>> = names.iter().map(candidate).collect();
        let seats = Seats {
            mode: MeshMode::Nodes,
            active: 1,
            standby: 0,
        };
        let first = elect(&candidates, &[], seats);
        let start = Instant::now();
        assert_eq!(elect(&candidates, &first, seats), first);
        // Half a second; to look for each among all incumbents took 40.
        assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    }
}

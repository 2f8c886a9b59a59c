//! Locations that this node reaches by no way, for what it reports: at once, and not as over while it may begin again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use k8s_openapi::jiff::Timestamp;
use spanwire_topology::{LocationName, NodeName};

use super::NodeState;
use crate::trouble::Trouble;

/// For so long a location has to be reached again before that is reported: a path that comes and goes would have leaders write to
/// the API server each time.
const CALM: Duration = Duration::from_secs(5);

/// Each location that is not reached, or was not until just now.
#[derive(Debug, Default)]
pub(super) struct Unreached(BTreeMap<LocationName, Spell>);

#[derive(Clone, Copy, Debug)]
struct Spell {
    since: Timestamp,
    /// When it is over, unless it begins again before.
    over: Option<Instant>,
}

impl Unreached {
    fn handle_observed(&mut self, unreached: &BTreeSet<LocationName>, wall: Timestamp, now: Instant) {
        for location in unreached {
            let begun = Spell {
                since: wall,
                over: None,
            };
            self.0.entry(location.clone()).or_insert(begun).over = None;
        }
        for (_, spell) in self.0.iter_mut().filter(|(name, _)| !unreached.contains(name)) {
            spell.over.get_or_insert(now + CALM);
        }
    }

    /// Takes the present time. Returns whether anything is over.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        let before = self.0.len();
        self.0.retain(|_, spell| spell.over.is_none_or(|over| now < over));
        before != self.0.len()
    }

    /// Returns when to call [`Self::handle_timeout`] again.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.0.values().filter_map(|spell| spell.over).min()
    }
}

impl NodeState {
    /// Takes which locations nothing answers from any more, with the present time.
    pub fn handle_unreached(&mut self, unreached: &BTreeSet<LocationName>, wall: Timestamp, now: Instant) {
        self.unreached.handle_observed(unreached, wall, now);
        self.gather_troubles();
    }

    /// What is not reached of that with which this location is established. Before that no traffic waits for it.
    /// Where that is all of several, it is more likely that this node, or all of its location, is cut off.
    pub(super) fn unreached(&self) -> Vec<Trouble> {
        let location = self.plan.location.as_ref();
        let established = location.and_then(|location| Some(&self.mesh.locations.get(location)?.established));
        let is_so =
            move |(name, _): &(&LocationName, &Spell)| established.is_some_and(|known| known.contains(*name));
        let probes = &self.plan.probes;
        let lasting: Vec<(&LocationName, &Spell)> = self.unreached.0.iter().filter(is_so).collect();
        let asked: BTreeSet<&LocationName> = probes.far.iter().map(|far| &far.location).collect();
        let all = asked.iter().all(|name| self.unreached.0.contains_key(*name));
        let since = lasting.iter().map(|(_, spell)| spell.since).max();
        if let Some(since) = since.filter(|_| all && lasting.len() > 1) {
            let locations = lasting.into_iter().map(|(name, _)| name.clone()).collect();
            return vec![Trouble::CutOff { locations, since }];
        }
        let unreached = lasting.into_iter().map(|(name, spell)| {
            let leaders = probes.far.iter().chain(&probes.through);
            let leaders = leaders.filter(|far| far.location == *name);
            Trouble::Unreached {
                location: name.clone(),
                leaders: leaders
                    .map(|far| far.node.clone())
                    .collect::<BTreeSet<NodeName>>(),
                since: spell.since,
            }
        });
        unreached.collect()
    }
}

//! Whether Leases are being renewed at all: without that the silence of one leader says nothing of it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use spanwire_topology::{LocationName, NodeName};

/// Renewals that pause for longer have ended. Agents renew every 10 s, and a leader's own last renewal is older than this
/// when its term is over.
pub(super) const LAPSE: Duration = Duration::from_secs(20);
/// So long others have to have renewed until then for the silence of a leader to count: when renewing becomes possible again, each
/// has had the time for it.
pub(super) const PROOF: Duration = Duration::from_secs(40);

/// The renewals of leaders, together for each location and for the cluster.
#[derive(Debug, Default)]
pub(super) struct Runs {
    cluster: Option<Run>,
    locations: BTreeMap<LocationName, Group>,
}

/// The leaders of a location.
#[derive(Debug, Default)]
struct Group {
    leaders: usize,
    run: Option<Run>,
    /// One of them was taken for silent, and none has renewed since.
    failed: bool,
}

/// Renewals without a pause between them.
#[derive(Clone, Copy, Debug)]
struct Run {
    since: Instant,
    last: Instant,
}

impl Runs {
    /// Takes over the leaders of a decision.
    pub(super) fn lead(&mut self, leaders: &BTreeMap<NodeName, LocationName>) {
        for group in self.locations.values_mut() {
            group.leaders = 0;
        }
        for location in leaders.values() {
            match self.locations.get_mut(location) {
                Some(group) => group.leaders += 1,
                None => {
                    let leaders = 1;
                    let group = Group {
                        leaders,
                        ..Group::default()
                    };
                    self.locations.insert(location.clone(), group);
                }
            }
        }
        self.locations.retain(|_, group| group.leaders > 0);
    }

    /// A leader of the location has renewed its Lease. Returns when that will have gone on for long enough, where it begins now.
    pub(super) fn renewed(&mut self, location: &LocationName, now: Instant) -> Option<Instant> {
        let mut begins = Run::renewed(&mut self.cluster, now);
        if let Some(group) = self.locations.get_mut(location) {
            group.failed = false;
            begins |= Run::renewed(&mut group.run, now);
        }
        begins.then(|| now + PROOF)
    }

    /// A leader of the location was taken for silent.
    pub(super) fn fell_silent(&mut self, location: &LocationName) {
        if let Some(group) = self.locations.get_mut(location) {
            group.failed = true;
        }
    }

    /// Returns from when on the silence of a leader of the location counts, which may have been before `now`; `None`: nothing shows
    /// that it could renew.
    ///
    /// Other leaders of the same location show it. One that leads alone is compared with all of the cluster; when its
    /// successor is silent as well, it is the location that is so.
    pub(super) fn proof(&self, location: &LocationName, now: Instant) -> Option<Instant> {
        let group = self.locations.get(location)?;
        let run = if group.leaders > 1 {
            group.run
        } else {
            self.cluster.filter(|_| !group.failed)
        };
        let run = run.filter(|run| run.goes_on(now))?;
        Some(run.since + PROOF)
    }
}

impl Run {
    /// Adds a renewal; returns whether it is the first after a pause.
    fn renewed(run: &mut Option<Self>, now: Instant) -> bool {
        match run.as_mut().filter(|run| run.goes_on(now)) {
            Some(run) => {
                run.last = now;
                false
            }
            None => {
                *run = Some(Self {
                    since: now,
                    last: now,
                });
                true
            }
        }
    }

    fn goes_on(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) <= LAPSE
    }
}

//! Who is alive, as far as Leases tell; sans I/O.
//!
//! The agent of a leader renews the Lease `spanwire-leader-NODE`. A leader that does not do so in time is taken for
//! silent, until it gives a sign of life: a renewal, a change of its report, a kubelet that comes back. Who does not lead
//! needs no Lease; one that is left from an earlier time means nothing. A leader that has no Lease yet gets [`GRACE`].
//!
//! What has gone wrong with this elsewhere, and must not here:
//!
//! * Clocks of different machines differ: what counts is when a renewal was seen here, not what time stands in it.
//! * The API server is away: nobody can renew, and all Leases would run out together. The watch tells of the operator's
//!   own Lease too, every few seconds; when it was silent for [`SILENCE`], everybody gets a full term anew.
//! * A silent leader is replaced, and then has no Lease to renew: it must not count as silent for ever.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use kube::runtime::watcher::Event;
use spanwire_topology::NodeName;

/// How long a leader may have no Lease: time to learn that it leads, and for a slow API server.
pub const GRACE: Duration = Duration::from_secs(60);

/// More than the interval at which the operator renews its own Lease, and less than what is left of any leader's term
/// when it is about to renew.
const SILENCE: Duration = Duration::from_secs(8);

/// What the names of the leaders' Leases begin with.
pub const LEASE_PREFIX: &str = spanwire_crds::names::LEADER_LEASE_PREFIX;

/// Now, on this machine's monotonic clock and on the wall.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For what lasts.
    pub monotonic: Instant,
    /// For what is written down.
    pub wall: Timestamp,
}

/// What is known of the Leases of leaders.
#[derive(Debug, Default)]
pub(crate) struct Liveness {
    leases: BTreeMap<NodeName, Renewal>,
    /// Who leads, with the end of the grace of those who came to lead without a Lease that holds.
    leading: BTreeMap<NodeName, Option<Instant>>,
    silent: BTreeSet<NodeName>,
    listed: Option<BTreeSet<NodeName>>,
    complete: bool,
    /// When the watch last told of any Lease.
    told: Option<Instant>,
    /// When the ends of terms were last looked at.
    looked: Option<Instant>,
}

#[derive(Debug)]
struct Renewal {
    time: Option<Timestamp>,
    term: Duration,
    until: Instant,
}

impl Liveness {
    /// Enters what the watch of Leases tells; answers whether somebody fell silent or came back.
    pub(crate) fn handle(&mut self, event: Event<Lease>, now: Instant) -> bool {
        if self.silent_at(now) {
            for renewal in self.leases.values_mut() {
                renewal.until = renewal.until.max(now + renewal.term);
            }
            for grace in self.leading.values_mut().flatten() {
                *grace = (*grace).max(now + GRACE);
            }
        }
        self.told = Some(now);
        let turned = match event {
            Event::Init => {
                self.listed = Some(BTreeSet::new());
                false
            }
            Event::InitApply(lease) | Event::Apply(lease) => self.enter(&lease, now),
            Event::Delete(lease) => {
                if let Some(node) = node_of(&lease) {
                    self.remove(&node, now);
                }
                false
            }
            Event::InitDone => {
                self.complete = true;
                let listed = self.listed.take().unwrap_or_default();
                let gone = |node: &&NodeName| !listed.contains(*node);
                let gone: Vec<NodeName> = self.leases.keys().filter(gone).cloned().collect();
                for node in gone {
                    self.remove(&node, now);
                }
                false
            }
        };
        self.handle_timeout(now) || turned
    }

    pub(crate) const fn complete(&self) -> bool {
        self.complete
    }

    /// Who leads now; these need a Lease.
    pub(crate) fn lead(&mut self, leaders: &BTreeSet<NodeName>, now: Instant) {
        self.leading.retain(|node, _| leaders.contains(node));
        for node in leaders {
            let held = self.leases.get(node).is_some_and(|renewal| renewal.until > now);
            self.leading
                .entry(node.clone())
                .or_insert_with(|| (!held).then(|| now + GRACE));
        }
    }

    /// The node gave a sign of life; answers whether it was taken for silent.
    pub(crate) fn heard(&mut self, node: &NodeName) -> bool {
        self.silent.remove(node)
    }

    /// Whether nothing speaks against the node being alive.
    pub(crate) fn alive(&self, node: &NodeName) -> bool {
        !self.silent.contains(node)
    }

    /// When somebody may have to be taken for silent.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let ends = self.ends().map(|(_, end)| end);
        ends.filter(|end| self.looked.is_none_or(|looked| *end > looked))
            .min()
    }

    /// Takes those for silent whose time is over; answers whether there are any.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> bool {
        self.looked = Some(now);
        if self.silent_at(now) {
            return false;
        }
        let over: Vec<NodeName> = self
            .ends()
            .filter(|(_, end)| *end <= now)
            .map(|(node, _)| node.clone())
            .collect();
        let turned = !over.is_empty();
        self.silent.extend(over);
        turned
    }

    fn silent_at(&self, now: Instant) -> bool {
        self.told
            .is_none_or(|told| now.saturating_duration_since(told) > SILENCE)
    }

    /// Until when each leader is alive.
    fn ends(&self) -> impl Iterator<Item = (&NodeName, Instant)> {
        let heard = self.leading.iter().filter(|(node, _)| self.alive(node));
        heard.filter_map(|(node, grace)| {
            let held = self.leases.get(node).map(|renewal| renewal.until);
            Some((node, held.into_iter().chain(*grace).max()?))
        })
    }

    fn enter(&mut self, lease: &Lease, now: Instant) -> bool {
        let Some(node) = node_of(lease) else {
            return false;
        };
        if let Some(listed) = &mut self.listed {
            listed.insert(node.clone());
        }
        let spec = lease.spec.as_ref();
        let time = spec.and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0);
        let seconds = spec
            .and_then(|spec| spec.lease_duration_seconds)
            .unwrap_or_default();
        let term = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        if self.leases.get(&node).is_some_and(|known| known.time == time) {
            return false;
        }
        let until = now + term;
        self.leases.insert(node.clone(), Renewal { time, term, until });
        if let Some(grace) = self.leading.get_mut(&node) {
            *grace = None;
        }
        self.heard(&node)
    }

    fn remove(&mut self, node: &NodeName, now: Instant) {
        self.leases.remove(node);
        if let Some(grace) = self.leading.get_mut(node) {
            *grace = Some(now + GRACE);
        }
    }
}

fn node_of(lease: &Lease) -> Option<NodeName> {
    let name = lease.metadata.name.as_deref()?;
    spanwire_crds::names::node_of_lease(name)
}

#[cfg(test)]
mod tests;

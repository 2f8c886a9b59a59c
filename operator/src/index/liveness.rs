//! Who is alive, as far as Leases tell; sans I/O.
//!
//! The agent of a leader renews the Lease `spanwire-leader-NODE`. While it is held and not renewed in time, its node is
//! taken for dead. An agent that no longer leads gives its Lease up (no holder) or deletes it; then the node's Ready
//! condition alone counts, as for every follower. A leader that has no Lease yet gets [`GRACE`].
//!
//! What has gone wrong with this elsewhere, and must not here:
//!
//! * Clocks of different machines differ: what counts is when a renewal was seen here, not what time stands in it. Only
//!   in the very first list Leases are compared with the latest of them, with [`SKEW`] to spare, or every restart of the
//!   operator would bring the dead back for a while.
//! * The API server is away: nobody can renew, and all Leases would run out together. The watch tells of the operator's
//!   own Lease too, every few seconds; when it was silent for [`SILENCE`], everybody gets a full term anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use kube::runtime::watcher::Event;
use spanwire_topology::NodeName;

/// How long a leader may have no Lease: time to learn that it leads, and for a slow API server.
pub const GRACE: Duration = Duration::from_secs(60);

/// How far clocks of nodes may differ where nothing but a clock can be asked. Kubernetes itself wants them closer.
const SKEW: Duration = Duration::from_secs(30);

/// More than the interval at which the operator renews its own Lease, and less than what is left of a leader's term when
/// it is about to renew (15 s less 5 s).
const SILENCE: Duration = Duration::from_secs(8);

/// What the names of the leaders' Leases begin with.
pub const LEASE_PREFIX: &str = "spanwire-leader-";

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
    leases: BTreeMap<NodeName, Held>,
    /// Leaders without a Lease, with the end of their grace.
    graced: BTreeMap<NodeName, Instant>,
    /// Who led without a Lease for longer than that.
    silent: BTreeSet<NodeName>,
    listed: Option<BTreeSet<NodeName>>,
    complete: bool,
    /// When the watch last told of any Lease.
    told: Option<Instant>,
    /// When the ends of terms were last looked at.
    looked: Option<Instant>,
}

#[derive(Debug)]
struct Held {
    renewed: Option<Timestamp>,
    term: Duration,
    /// Until when the node is alive; `None`: the Lease has no holder and says nothing.
    until: Option<Instant>,
    expired: bool,
}

impl Liveness {
    /// Enters what the watch of Leases tells; answers whether somebody died or came back.
    pub(crate) fn handle(&mut self, event: Event<Lease>, now: Instant) -> bool {
        if self.silent_at(now) {
            for held in self.leases.values_mut().filter(|held| !held.expired) {
                held.until = held.until.map(|until| until.max(now + held.term));
            }
        }
        self.told = Some(now);
        let turned = match event {
            Event::Init => {
                self.listed = Some(BTreeSet::new());
                false
            }
            Event::InitApply(lease) | Event::Apply(lease) => self.enter(&lease, now),
            Event::Delete(lease) => node_of(&lease).is_some_and(|node| self.remove(&node)),
            Event::InitDone => self.listed(),
        };
        self.handle_timeout(now) || turned
    }

    fn silent_at(&self, now: Instant) -> bool {
        self.told
            .is_none_or(|told| now.saturating_duration_since(told) > SILENCE)
    }

    fn listed(&mut self) -> bool {
        let listed = self.listed.take().unwrap_or_default();
        let gone = |node: &&NodeName| !listed.contains(*node);
        let gone: Vec<NodeName> = self.leases.keys().filter(gone).cloned().collect();
        let mut turned = false;
        for node in gone {
            turned |= self.remove(&node);
        }
        if !self.complete {
            self.complete = true;
            let latest = self.leases.values().filter_map(|held| held.renewed).max();
            for held in self.leases.values_mut().filter(|held| held.until.is_some()) {
                let behind = latest.map(|latest| {
                    held.renewed
                        .map_or(Duration::MAX, |renewed| since(renewed, latest))
                });
                held.expired = behind.is_some_and(|behind| behind > held.term + SKEW);
                turned |= held.expired;
            }
        }
        turned
    }

    pub(crate) const fn complete(&self) -> bool {
        self.complete
    }

    /// Who leads now; these need a Lease.
    pub(crate) fn lead(&mut self, leaders: &BTreeSet<NodeName>, now: Instant) {
        self.graced.retain(|node, _| leaders.contains(node));
        for node in leaders {
            if !self.leases.contains_key(node) && !self.silent.contains(node) {
                self.graced.entry(node.clone()).or_insert(now + GRACE);
            }
        }
    }

    /// The agent of a node gave a sign of life other than its Lease.
    pub(crate) fn heard(&mut self, node: &NodeName) {
        self.silent.remove(node);
        self.graced.remove(node);
    }

    /// Whether nothing speaks against the node being alive.
    pub(crate) fn alive(&self, node: &NodeName) -> bool {
        !self.silent.contains(node) && self.leases.get(node).is_none_or(|held| !held.expired)
    }

    /// When somebody may have to be taken for dead.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let running = self.leases.values().filter(|held| !held.expired);
        let ends = running
            .filter_map(|held| held.until)
            .chain(self.graced.values().copied());
        ends.filter(|end| self.looked.is_none_or(|looked| *end > looked))
            .min()
    }

    /// Takes those for dead whose time is over; answers whether there are any.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> bool {
        self.looked = Some(now);
        if self.silent_at(now) {
            return false;
        }
        let mut turned = false;
        for held in self.leases.values_mut() {
            if !held.expired && held.until.is_some_and(|until| until <= now) {
                held.expired = true;
                turned = true;
            }
        }
        let ended = |(_, end): &(&NodeName, &Instant)| **end <= now;
        let over: Vec<NodeName> = self
            .graced
            .iter()
            .filter(ended)
            .map(|(node, _)| node.clone())
            .collect();
        for node in over {
            self.graced.remove(&node);
            self.silent.insert(node);
            turned = true;
        }
        turned
    }

    fn enter(&mut self, lease: &Lease, now: Instant) -> bool {
        let Some(node) = node_of(lease) else {
            return false;
        };
        if let Some(listed) = &mut self.listed {
            listed.insert(node.clone());
        }
        let was = self.alive(&node);
        self.heard(&node);
        let spec = lease.spec.as_ref();
        let renewed = spec.and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0);
        let holder = spec
            .and_then(|spec| spec.holder_identity.as_deref())
            .unwrap_or_default();
        let held = !holder.is_empty();
        let seconds = spec
            .and_then(|spec| spec.lease_duration_seconds)
            .unwrap_or_default();
        let term = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        let known = self.leases.get(&node);
        let news = known.is_none_or(|known| known.renewed != renewed || known.until.is_some() != held);
        if news {
            let state = Held {
                renewed,
                term,
                until: held.then(|| now + term),
                expired: false,
            };
            self.leases.insert(node.clone(), state);
        }
        was != self.alive(&node)
    }

    fn remove(&mut self, node: &NodeName) -> bool {
        let was = self.alive(node);
        self.leases.remove(node);
        was != self.alive(node)
    }
}

fn node_of(lease: &Lease) -> Option<NodeName> {
    let name = lease.metadata.name.as_deref()?;
    name.strip_prefix(LEASE_PREFIX)?.parse().ok()
}

fn since(then: Timestamp, now: Timestamp) -> Duration {
    let age = now.duration_since(then);
    if age.is_positive() {
        age.unsigned_abs()
    } else {
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests;

//! Which nodes are alive, as Leases and kubelets show it; sans I/O.
//!
//! The agent of a leader renews the Lease `spanwire-leader-NODE`. A leader that does not do so in time is taken for
//! silent, until its agent gives a sign of life: a renewal, or a change of its report. A node that does
//! not lead needs no Lease; one that is left from an earlier time means nothing. A leader that has no Lease yet gets
//! [`GRACE`].
//!
//! Of a leader the Lease says more than the kubelet: its agent renews it, and it is the agent that leads. So a leader stays
//! one while its kubelet is being upgraded, is dead, or comes and goes, and one whose agent is dead does not become one again
//! since its kubelet came back. Of all other nodes the kubelet speaks.
//!
//! What has gone wrong with this elsewhere, and must not here:
//!
//! * Clocks of different machines differ: what counts is when a renewal was observed here, not what time stands in it.
//! * The API server is away: no Lease can be renewed, and all would expire together. The watch delivers the operator's
//!   own Lease too, every few seconds; when it was silent for [`SILENCE`], every leader gets a full term again.
//! * A silent leader is replaced, and then has no Lease to renew: it must not count as silent for ever.
//! * A node that asks for a term of years, or whose Lease cannot be read: the one is cut, the other is no renewal.
//! * A node that asks for a term that is over before its agent renews, or for none: it would be silent and alive in turn with
//!   each write, and the lead of its location with it. It has a shortest term.
//! * A Lease that is released, as by an agent that has ceased to lead, is no renewal, and no end either where its node leads
//!   again by then.
//! * With `mesh: Nodes` every node leads, and renews: a renewal may not cost a look at all of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use kube::runtime::watcher::Event;
use spanwire_cluster::observed::Observed;
use spanwire_topology::NodeName;

/// How long a leader may have no Lease: time to learn that it leads, and for a slow API server.
pub const GRACE: Duration = Duration::from_secs(60);

/// More than the interval at which the operator renews its own Lease, and less than what is left of any leader's term
/// when it is about to renew.
const SILENCE: Duration = Duration::from_secs(8);

/// The longest term that an agent can ask for; they ask for 40 s. It is the agent that writes it, so a longer one would keep a
/// node that is long dead in the lead.
const LONGEST_TERM: Duration = Duration::from_secs(60);

/// The shortest term: more than the ten seconds after which agents renew.
const SHORTEST_TERM: Duration = Duration::from_secs(15);

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
    /// The leaders, with the end of the grace of those that came to lead without a Lease that holds.
    leading: BTreeMap<NodeName, Option<Instant>>,
    silent: BTreeSet<NodeName>,
    listed: Option<BTreeSet<NodeName>>,
    complete: bool,
    /// When the watch last delivered any Lease.
    observed: Option<Instant>,
    /// No term ends before this; `None`: none ends.
    next_end: Option<Instant>,
    /// The nodes that fell silent or came back, until they are taken.
    turned: BTreeSet<NodeName>,
    /// The nodes whose Lease began or ceased to speak for them, until they are taken.
    vouched: BTreeSet<NodeName>,
}

#[derive(Debug)]
struct Renewal {
    time: Option<Timestamp>,
    term: Duration,
    until: Instant,
}

impl Liveness {
    /// Handles an event of the watch of Leases; returns whether a leader fell silent or came back.
    pub(crate) fn handle(&mut self, event: Event<Observed<Lease>>, now: Instant) -> bool {
        if self.silent_at(now) {
            for renewal in self.leases.values_mut() {
                renewal.until = renewal.until.max(now + renewal.term);
            }
            for grace in self.leading.values_mut().flatten() {
                *grace = (*grace).max(now + GRACE);
            }
            self.next_end = self.ends().map(|(_, end)| end).min();
        }
        self.observed = Some(now);
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

    /// Takes over the leaders of a decision; these need a Lease.
    pub(crate) fn lead(&mut self, leaders: &BTreeSet<NodeName>, now: Instant) {
        let relieved = self.leading.extract_if(.., |node, _| !leaders.contains(node));
        self.vouched.extend(relieved.map(|(node, _)| node));
        for node in leaders {
            let held = self.leases.get(node).is_some_and(|renewal| renewal.until > now);
            self.leading.entry(node.clone()).or_insert_with(|| {
                self.vouched.extend(held.then(|| node.clone()));
                (!held).then(|| now + GRACE)
            });
        }
        self.next_end = self.ends().map(|(_, end)| end).min();
    }

    /// Takes the node for alive after a sign of life; returns whether it was taken for silent.
    pub(crate) fn heard(&mut self, node: &NodeName) -> bool {
        let was = self.silent.remove(node);
        if was {
            self.expect_end(node);
        }
        was
    }

    /// Whether the node is alive, given whether its kubelet says so.
    pub(crate) fn alive(&self, node: &NodeName, ready: bool) -> bool {
        !self.silent.contains(node) && (ready || self.vouched_for(node))
    }

    /// Whether the node leads.
    pub(crate) fn leads(&self, node: &NodeName) -> bool {
        self.leading.contains_key(node)
    }

    /// Whether the node leads and holds a Lease.
    fn vouched_for(&self, node: &NodeName) -> bool {
        self.leading.get(node).is_some_and(Option::is_none)
    }

    /// Returns the nodes whose Lease began or ceased to speak for them since the last call.
    pub(crate) fn take_vouched(&mut self) -> BTreeSet<NodeName> {
        std::mem::take(&mut self.vouched)
    }

    /// Returns the nodes that fell silent or came back since the last call.
    pub(crate) fn take_turned(&mut self) -> BTreeSet<NodeName> {
        std::mem::take(&mut self.turned)
    }

    /// Returns when a leader may have to be taken for silent.
    pub(crate) const fn poll_timeout(&self) -> Option<Instant> {
        self.next_end
    }

    /// Takes those leaders for silent whose term is over; returns whether there are any.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> bool {
        if self.next_end.is_none_or(|end| end > now) {
            return false;
        }
        if self.silent_at(now) {
            // Until a Lease is observed again; nothing ends without one.
            self.next_end = None;
            return false;
        }
        let over: Vec<NodeName> = self
            .ends()
            .filter(|(_, end)| *end <= now)
            .map(|(node, _)| node.clone())
            .collect();
        let turned = !over.is_empty();
        self.turned.extend(over.iter().cloned());
        self.silent.extend(over);
        self.next_end = self.ends().map(|(_, end)| end).min();
        turned
    }

    fn silent_at(&self, now: Instant) -> bool {
        self.observed
            .is_none_or(|observed| now.saturating_duration_since(observed) > SILENCE)
    }

    /// Until when each leader is alive.
    fn ends(&self) -> impl Iterator<Item = (&NodeName, Instant)> {
        let heard = self
            .leading
            .iter()
            .filter(|(node, _)| !self.silent.contains(*node));
        heard.filter_map(|(node, grace)| Some((node, self.end(node, *grace)?)))
    }

    fn enter(&mut self, lease: &Observed<Lease>, now: Instant) -> bool {
        let Some(node) = node_of(lease) else {
            return false;
        };
        if let Some(listed) = &mut self.listed {
            listed.insert(node.clone());
        }
        let Some(lease) = &lease.object else {
            return false; // no renewal
        };
        let spec = lease.spec.as_ref();
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref());
        if holder.is_none_or(str::is_empty) {
            if !self.leads(&node) {
                self.leases.remove(&node);
            }
            return false;
        }
        let time = spec.and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0);
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds);
        let seconds = u64::try_from(seconds.unwrap_or_default()).unwrap_or_default();
        let term = Duration::from_secs(seconds).clamp(SHORTEST_TERM, LONGEST_TERM);
        if self.leases.get(&node).is_some_and(|known| known.time == time) {
            return false;
        }
        let until = now + term;
        self.leases.insert(node.clone(), Renewal { time, term, until });
        if let Some(grace) = self.leading.get_mut(&node)
            && grace.take().is_some()
        {
            self.vouched.insert(node.clone());
        }
        let turned = self.heard(&node);
        self.expect_end(&node);
        if turned {
            self.turned.insert(node);
        }
        turned
    }

    fn remove(&mut self, node: &NodeName, now: Instant) {
        self.leases.remove(node);
        if let Some(grace) = self.leading.get_mut(node) {
            *grace = Some(now + GRACE);
            self.vouched.insert(node.clone());
        }
        self.expect_end(node);
    }

    /// The term of this node may end before all others.
    fn expect_end(&mut self, node: &NodeName) {
        if let Some(end) = self.leading.get(node).and_then(|grace| self.end(node, *grace)) {
            self.next_end = Some(self.next_end.map_or(end, |next| next.min(end)));
        }
    }

    fn end(&self, node: &NodeName, grace: Option<Instant>) -> Option<Instant> {
        let held = self.leases.get(node).map(|renewal| renewal.until);
        held.into_iter().chain(grace).max()
    }
}

fn node_of(lease: &Observed<Lease>) -> Option<NodeName> {
    let name = lease.metadata.name.as_deref()?;
    spanwire_crds::names::node_of_lease(name)
}

#[cfg(test)]
mod tests;
